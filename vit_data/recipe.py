"""A recipe: all that a training run is told. `recipes.py` holds those that have a name."""

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal, get_type_hints

from vit_data.augment import Augmentation
from vit_data.pipeline import Batches, train_batches
from vit_data.resize import ResizeBy
from vit_data.sources import Source
from vit_spec import OptimConfig, Preprocessing, ViTConfig
from vit_spec.names import unknown_names

Proof = Literal[
    "auto", "none", "weights", "outputs", "layers", "gradients", "optimizer", "training"
]
# Fields of one call of the program: what to do with the run, and where.
RUN_ONLY = (
    *("out", "overwrite", "resume", "allow_change", "eval_only", "profile", "distributed"),
    "show_batch",
)


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """How the devices share the work (docs/scale.md); the numbers multiply to their number."""

    data: int = -1
    """Copies of the model, each with its share of a batch; -1: as many as the others leave."""
    fsdp: int = 1
    """Parts into which parameters, optimizer state and batch are divided, gathered layer by layer:
    for models that do not fit a device."""
    tensor: int = 1
    """Parts into which heads and hidden channels are divided; must divide `num_heads`."""

    def __post_init__(self) -> None:
        numbers = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        wrong = [f"{n} {k} must be at least 1, or -1" for n, k in numbers.items() if k < 1]
        if any(k < -1 or k == 0 for k in numbers.values()):
            raise ValueError("; ".join(wrong) + " for as many as the others leave")
        if len(wrong) > 1:
            raise ValueError("only one of data, fsdp and tensor can be -1, which is the rest")


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When the state of a run is saved, and what is kept."""

    every: int = 1000
    """Steps between saves; there is one at the end as well. 0: neither."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    best: bool = True
    """Save and keep the state of the highest test accuracy too."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What training does when a save fails, because the disk is full, say."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1:
            raise ValueError(
                f"checkpoint.every {self.every} must be at least 0 and keep {self.keep} at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. The number of classes comes from the data."""

    data: str = "digits"
    """Data set: `digits`, `fashion_mnist`, a TFDS name, or a folder with one subfolder per class
    or of array_record files (docs/data.md)."""
    data_dir: str | None = None
    """Folder of prepared data sets; None: that of the data set's reader."""
    model: ViTConfig = field(default_factory=ViTConfig)
    """What the model is."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, schedule and loss; `total_steps` is the length of the run."""
    init: str | None = None
    """Checkpoint to start from, of any format that `parity formats` lists: a folder, a file or
    hf://ORG/NAME. The head is new if the classes are, positions are resampled; None: at random."""
    init_format: str | None = None
    """Format of `init`, one of `parity formats`; None: told from its content."""
    init_model: str | None = None
    """What `init` is where it does not say so itself: a variant's name, a config.json or a folder
    with one."""
    init_image_size: tuple[int, int] | None = None
    """Height and width in pixels that `init` was trained for, where its positions do not say it."""
    init_entry: str | None = None
    """Where in the file of `init` the model is, such as `state_dict`; None: the place that fits."""
    init_prefix: str | None = None
    """What the names of `init` begin with, such as `module.`; None: what fits."""
    init_leave_out: tuple[str, ...] = ()
    """Patterns of names in `init` that are not part of the model, such as `projector.*`."""
    teacher: str | None = None
    """Who gives the logits that `optim.distill` asks for: a checkpoint as for `init`, MODULE:NAME
    of a PyTorch model or function of images, or an .npy or .npz file of logits (images, classes).
    """
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Resize, crop and normalisation; saved with the weights."""
    resize_by: ResizeBy = "pillow"
    """Who resizes images: `pillow`, or `torch`, PyTorch's kernel of 8-bit images: faster, and the
    pixels of torchvision's v2 transforms and of transformers' fast processors (docs/data.md)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the training images."""
    image_sizes: tuple[tuple[float, int], ...] = ()
    """Progressive resizing: (share of the steps after which it ends, side in pixels), in order,
    e.g. `0.5 128 0.8 160`; then the model's size. Position embeddings are resampled to it."""
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
    """Run the blocks as one compiled loop: depth hardly changes what XLA has to compile."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Attention kernel. `cudnn` needs bfloat16 and an NVIDIA GPU of compute capability 8.0 or more;
    `auto`: `cudnn` where it can run, else `xla`."""
    mesh: MeshShape = field(default_factory=MeshShape)
    """How the devices share the work."""
    distributed: Literal["auto", "none"] = "auto"
    """`auto`: joins the other processes of the run under SLURM, Kubernetes, Cloud TPU, Open MPI or
    by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; `none`: runs alone."""
    workers: int = 0
    """Processes that decode images; 0: threads of the training process."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    """Saves to resume from."""
    skip_nonfinite: int = 0
    """Steps in all whose loss or gradient may be NaN or infinite: they change nothing. The next one
    ends the run."""
    proof: Proof = "auto"
    """Level up to which the result is compared with its PyTorch twin at the end; `auto`: `training`
    for small models, `outputs` for others, nothing where the run is proven already."""
    out: str | None = None
    """Folder of the run; None: runs/NAME."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    resume: bool = False
    """Continue the run that the folder holds, or start it if there is none."""
    allow_change: bool = False
    """Resume with other settings than the run was started with."""
    eval_only: bool = False
    """Only evaluate what the folder holds: a finished run's model, else its newest checkpoint."""
    profile: bool = False
    """Write a trace of five steps for TensorBoard and Perfetto."""
    show_batch: str | None = None
    """Write a picture of the first training batch, as the model sees it, to this PNG and stop."""

    def __post_init__(self) -> None:
        ones = ("batch_size", "eval_batch_size", "eval_every", "log_every")
        low = dict.fromkeys(ones, 1) | dict.fromkeys(("workers", "skip_nonfinite"), 0)
        found = [
            f"{n} {getattr(self, n)} must be at least {k}"
            for n, k in low.items()
            if getattr(self, n) < k
        ]
        found += [f"image_sizes: {problem}" for problem in self._size_problems()]
        if (self.teacher is None) != (self.optim.distill == "none"):
            found.append(
                f"teacher {self.teacher!r} and optim.distill {self.optim.distill!r}: give both, or "
                f"None and 'none'"
            )
        if found:
            raise ValueError("; ".join(found))

    def _size_problems(self) -> list[str]:
        shares = [share for share, _ in self.image_sizes]
        ordered = all(a < b for a, b in zip([0.0, *shares], [*shares, 1.0], strict=True))
        problems = [] if ordered else [f"shares {shares} must rise, between 0 and 1"]
        for _, side in self.image_sizes:
            try:
                self.model.grid_of(side, side)
            except ValueError as error:
                problems.append(str(error))
        return problems

    @property
    def sizes_by_step(self) -> list[tuple[int, int]]:
        """`image_sizes` with steps in place of shares, for `train_batches`."""
        return [(round(share * self.optim.total_steps), side) for share, side in self.image_sizes]

    @property
    def init_told(self) -> dict[str, Any]:
        """What is said of `init` beside its place, as arguments of `parity.read`."""
        names = ("model", "image_size", "entry", "prefix", "leave_out")
        return {"source": self.init_format} | {n: getattr(self, f"init_{n}") for n in names}

    def to_dict(self) -> dict[str, Any]:
        """The fields that a run is continued with, as JSON values."""
        fields = asdict(self)
        return {name: fields[name] for name in fields if name not in RUN_ONLY}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`. Raises `ValueError` for a field that does not exist."""
        return _rebuilt(cls, fields)


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass, and those in it, from JSON values."""
    hints = get_type_hints(kind)
    if unknown := [name for name in values if name not in hints]:
        raise ValueError(unknown_names("field", unknown, hints))
    return kind(
        **{
            name: _rebuilt(hints[name], value) if is_dataclass(hints[name]) else _tuples(value)
            for name, value in values.items()
        }
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def training_batches(
    recipe: Recipe,
    config: ViTConfig,
    source: Source,
    batch_size: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Batches:
    """The batches of a run with the model `config`: shuffled, augmented, without end.

    `batch_size` is this process's share, if there are several that read.
    """
    return train_batches(
        source,
        batch_size=batch_size or recipe.batch_size,
        shard_index=shard_index,
        shard_count=shard_count,
        size=recipe.preprocessing.size or config.image_shape,
        channels=config.in_channels,
        preprocessing=recipe.preprocessing,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        sizes=recipe.sizes_by_step,
        resize_by=recipe.resize_by,
        workers=recipe.workers,
    )
