"""`flax_model.msgpack` of FlaxViTModel and FlaxViTForImageClassification, transformers 4.

Source: `modeling_flax_vit.py` of transformers 4.57, the last version with Flax. The table is that
of `hf_vit` in Linen's names and layouts; config.json is the same.
"""

from dataclasses import replace

from parity.formats import hf_vit
from parity.formats.format import Format, Given
from parity.formats.linen import CONV, KERNEL
from parity.formats.table import Rule
from parity.operations import Op, fused
from vit_spec import Header, ViTConfig
from vit_spec.parameters import Shapes

QUERY = "encoder/layer/0/attention/attention/query/kernel"


def matches(given: Given) -> bool:
    """Says its config `vit`, and the names are those of Flax."""
    return given.model_type == "vit" and any(name.endswith(QUERY) for name in given.shapes)


def table(config: ViTConfig) -> list[Rule]:
    """PyTorch's table, name by name."""
    return [_linen(rule) for rule in hf_vit.table(config)]


def config_from(given: Given) -> Header:
    """What the PyTorch model's reader says, which looks at head and pooler."""
    shapes: Shapes = {}
    for name, shape in given.shapes.items():
        base, _, leaf = name.replace("/", ".").rpartition(".")
        if leaf == "kernel" and base in ("classifier", "pooler.dense"):
            shapes[f"{base}.weight"] = shape[::-1]
    return hf_vit.config_from(replace(given, shapes=shapes))


def _linen(rule: Rule) -> Rule:
    names = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
    leaf, op = _leaf(names[0])
    if op is None:
        op = rule.op
    elif len(names) > 1:
        op = fused(op, len(names))
    return Rule(rule.ours, tuple(_path(name, leaf) for name in names), op)


def _leaf(name: str) -> tuple[str, Op | None]:
    """Linen's name of a leaf, and the operation of a kernel; None: that of the rule."""
    base, _, leaf = name.rpartition(".")
    if leaf != "weight":
        return leaf, None
    if "layernorm" in base:
        return "scale", None
    return "kernel", CONV if base.endswith("projection") else KERNEL


def _path(name: str, leaf: str) -> str:
    return name.rpartition(".")[0].replace(".", "/") + f"/{leaf}"


FORMAT = Format(
    name="hf_flax_vit",
    kind="msgpack",
    about="directory of transformers' FlaxViTModel or FlaxViTForImageClassification (version 4)",
    matches=matches,
    config_from=config_from,
    table=table,
    config_to=hf_vit.config_to,
    expresses=hf_vit.expresses,
    file="flax_model.msgpack",
    untold=hf_vit.FORMAT.untold,
    images=hf_vit.FORMAT.images,
    usual=hf_vit.DEFAULT,
)
