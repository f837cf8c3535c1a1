"""Data sets and folders of images to NumPy batches, for both twins.

`open_source` finds a data set, `train_batches` and `eval_batches` turn it into batches. Light to
import: grain, tensorflow_datasets and scikit-learn are imported when they are needed.
"""

from vit_spec.extras import require

require("vit_data", "PIL")

from vit_data.augment import Augmentation
from vit_data.decode import decode
from vit_data.pipeline import Batches, eval_batches, train_batches
from vit_data.preprocess import load_image
from vit_data.sources import Source, open_source
from vit_spec.version import __version__

__all__ = [
    "__version__",
    "Augmentation",
    "Batches",
    "Source",
    "decode",
    "eval_batches",
    "load_image",
    "open_source",
    "train_batches",
]
