"""The tree of vit_jax's parameters, as `nnx.state` and `nnx.to_pure_dict` have it, in Orbax.

Names are ours in JAX, with '/' between the keys. It says nothing of heads and preprocessing.
"""

from parity.formats.format import ELSEWHERE, Format, Given, fields_of
from parity.formats.limits import as_published, published
from parity.formats.table import Rule
from parity.operations import permute
from vit_spec import Header, Preprocessing, ViTConfig, get, parameters
from vit_spec.layout import jax_name, torch_name
from vit_spec.parameters import Shapes
from vit_spec.published import published_preprocessing

UNTOLD = ("num_heads", "activation", "norm_eps", "pool")
SHAPED = ("image_size", "class_token_position", "layer_scale")  # of which shapes say a part
KNOWN = r"vit_.*"
EMBEDDING = "patch_embed/proj/kernel"
VALUE = "/value"  # of a Variable that was saved as such


def matches(given: Given) -> bool:
    """Has our patch embedding."""
    return given.kind == "orbax" and EMBEDDING in plain_names(given).values()


def plain_names(given: Given) -> dict[str, str]:
    """Trees of Variables have `value` at the end, flat ones dots between the keys."""
    return {name: name.removesuffix(VALUE).replace(".", "/") for name in given.shapes}


def table(config: ViTConfig) -> list[Rule]:
    """Every name is ours in JAX."""
    found = []
    for name, shape in parameters(config).items():
        theirs, _ = jax_name(name, len(shape))
        axes = torch_name(theirs, len(shape))[1]
        found.append(Rule(name, theirs.replace(".", "/"), permute(*axes)))
    return found


def config_from(given: Given) -> Header:
    """Shapes, and what the published model of these sizes has."""
    shapes: Shapes = {}
    for name, shape in given.shapes.items():
        ours, axes = torch_name(name.replace("/", "."), len(shape))
        shapes[ours] = tuple(shape[axis] for axis in axes)
    fields = fields_of(shapes, where="the tree", sizes=given.sizes)
    name = as_published("vit_jax", KNOWN, fields, UNTOLD)
    model = get(name)
    fields |= {"num_heads": model.num_heads, "norm_eps": model.norm_eps}
    if fields.get("activation") is None:
        fields["activation"] = model.activation
    return Header(config=ViTConfig.from_dict(fields), preprocessing=published_preprocessing(name))


FORMAT = Format(
    name="orbax",
    kind="orbax",
    about="tree of vit_jax's parameters that Orbax wrote",
    matches=matches,
    config_from=config_from,
    table=table,
    aliases=plain_names,
    anchors=(EMBEDDING, EMBEDDING + VALUE, EMBEDDING.replace("/", ".")),
    usual=Preprocessing(),
    untold=lambda given: (*UNTOLD, *SHAPED, *ELSEWHERE),
    model=lambda config: published(KNOWN, config.to_dict()) or "",
)
