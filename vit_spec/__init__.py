"""What a model IS, without any framework: configs, variants, parameters, layout, numbers.

Both twins read everything from here. Needs NumPy, ml_dtypes and safetensors only.
"""

from vit_spec.checkpoint import Header, read_header
from vit_spec.config import ViTConfig
from vit_spec.groups import is_decayed
from vit_spec.masks import mask_sites, sample_masks
from vit_spec.optim import OptimConfig
from vit_spec.parameters import count_parameters, parameters
from vit_spec.preprocessing import Preprocessing
from vit_spec.schedule import learning_rate
from vit_spec.training_state import TrainingState
from vit_spec.variants import full_name, get, resolve, variants
from vit_spec.version import __version__

__all__ = [
    "__version__",
    "Header",
    "OptimConfig",
    "Preprocessing",
    "TrainingState",
    "ViTConfig",
    "count_parameters",
    "full_name",
    "get",
    "is_decayed",
    "learning_rate",
    "mask_sites",
    "parameters",
    "read_header",
    "resolve",
    "sample_masks",
    "variants",
]
