"""A recipe: all that a training run is told. `recipes.py` holds those that have a name."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vit_data.augment import Augmentation
from vit_spec import OptimConfig, Preprocessing, ViTConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. The number of classes comes from the data."""

    data: str = "digits"
    """Data set: `digits`, `fashion_mnist`, a TFDS name, or a folder with one subfolder a class."""
    data_dir: str | None = None
    """Folder of prepared data sets; None: that of the data set's reader."""
    model: ViTConfig = field(default_factory=ViTConfig)
    """What the model is."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW, schedule and clipping; `total_steps` is the length of the run."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Resize, crop and normalisation; saved with the weights."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the training images."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    eval_batch_size: int = 256
    """Images in an evaluation step, over all devices."""
    eval_every: int = 1000
    """Steps between evaluations on the test split; there is one at the end in any case."""
    log_every: int = 20
    """Steps between lines of metrics, which are means over those steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters are float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass computes again to save memory."""
    scan: bool = False
    """Run the blocks as one compiled loop: compiles in constant time whatever the depth."""
    attention: Literal["xla", "cudnn"] = "xla"
    """Attention kernel; `cudnn` needs an NVIDIA GPU and bfloat16."""
    workers: int = 0
    """Processes that decode images; 0: threads of the training process."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    out: str | None = None
    """Folder of the run; None: runs/NAME."""
    overwrite: bool = False
    """Replace the run that the folder holds."""

    def __post_init__(self) -> None:
        low = {"batch_size": 1, "eval_batch_size": 1, "eval_every": 1, "log_every": 1, "workers": 0}
        found = [
            f"{n} {getattr(self, n)} must be at least {k}"
            for n, k in low.items()
            if getattr(self, n) < k
        ]
        if found:
            raise ValueError("; ".join(found))

    def to_dict(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON values."""
        fields = asdict(self)
        return {name: fields[name] for name in fields if name not in ("out", "overwrite")}
