"""What is measured: a model at a size, a batch and a precision, and by whom.

A contender is written `library` or `library:option,option=value`:

    vit_jax                        vit_jax.create with its defaults
    vit_jax:scan,remat=dots        with options of vit_jax.create
    vit_torch:compile              the PyTorch twin under torch.compile; or vit_torch:eager
    timm:compile,mode=max-autotune timm under torch.compile in one of its modes; or timm:eager
    timm:compile,pure              parameters in bfloat16; without `pure`, float32 under autocast
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from vit_spec import ViTConfig, full_name, get

LIBRARIES = ("vit_jax", "vit_torch", "timm")
TORCH_OPTIONS = ("compile", "eager", "pure", "mode")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work, the same for every contender."""

    model: str
    """Variant, with an image size of its own behind an @: `B/16@384`."""
    batch_size: int
    dtype: str
    """Of activations and products; `infer` has the parameters in it, too."""
    class_token: bool = True
    """False: the mean of the patches instead."""
    depth: int | None = None
    """Blocks, if not the variant's."""

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        name, _, size = self.model.partition("@")
        return int(size) if size else get(name).image_shape[0]

    @property
    def name(self) -> str:
        """The variant's short name."""
        return self.model.partition("@")[0]

    @property
    def variant(self) -> str:
        """timm's name of the model."""
        return full_name(self.name)

    @property
    def config(self) -> ViTConfig:
        """The model."""
        changes: dict[str, Any] = {"image_size": self.image_size}
        if not self.class_token:
            changes |= {"class_token": False, "pool": "mean", "fc_norm": True}
        if self.depth is not None:
            changes["depth"] = self.depth
        return get(self.variant, **changes)

    @property
    def tokens(self) -> int:
        """Length of the sequence: patches, and the class token."""
        rows, columns = self.config.grid
        return rows * columns + self.config.num_prefix_tokens

    def __str__(self) -> str:
        depth = "" if self.depth is None else f", {self.depth} blocks"
        return (
            f"{self.name}{depth}, {self.image_size} px, {self.tokens} tokens, "
            f"batch {self.batch_size}, {self.dtype}"
        )


def to_dict(case: Case) -> dict[str, Any]:
    """A case as JSON, its inverse `Case(**...)`."""
    return dataclasses.asdict(case)


def parsed(contender: str) -> tuple[str, dict[str, Any]]:
    """Library and options of a contender. Raises `ValueError` for one that there cannot be."""
    library, _, rest = contender.partition(":")
    if library not in LIBRARIES:
        raise ValueError(f"contender {contender!r}: the library is one of {', '.join(LIBRARIES)}")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, given, value = part.partition("=")
        options[name] = {"true": True, "false": False}.get(value, value) if given else True
    if library != "vit_jax":
        unknown = set(options) - set(TORCH_OPTIONS)
        if unknown or ("compile" in options) == ("eager" in options):
            raise ValueError(
                f"contender {contender!r}: options of {library} are compile or eager, one of them, "
                f"and pure, mode=MODE"
            )
    return library, options


def ours(contender: str) -> bool:
    """Whether a contender is the JAX side, which the others are compared with."""
    return contender.partition(":")[0] == "vit_jax"


def pairs(contenders: list[str]) -> list[tuple[str, str]]:
    """Each of ours with each of the others."""
    others = [name for name in contenders if not ours(name)]
    return [(one, other) for one in contenders if ours(one) for other in others]
