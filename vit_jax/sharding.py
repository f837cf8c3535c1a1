"""Where arrays live: one mesh of devices, and one table that says how each array is divided.

Three numbers choose the mesh. `data`: copies of the model, each with its share of the batch.
`fsdp`: parameters, optimizer state and batch divided; a layer's parameters are gathered where it
runs (https://arxiv.org/abs/1910.02054, stage 3). `tensor`: heads and hidden channels divided, the
batch not (https://arxiv.org/abs/1909.08053). One device is the mesh (1, 1, 1).
"""

import re
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_spec import ViTConfig
from vit_spec.words import counted

AXES = ("data", "fsdp", "tensor")

# Logical axis of an array -> axes of the mesh that divide it.
RULES: dict[str | None, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # channels of a token, in a layer that is divided over `tensor` too
    "embed_only": ("fsdp", "tensor"),  # in any other: its kernel is stored in as many pieces
    "heads": ("tensor",),  # channels, head by head
    "hidden": ("tensor",),  # channels inside the MLP
    None: (),
}

# End of a parameter's name -> logical axes of its dimensions, the first match counts. What makes
# several things at once (qkv, kv) is stored by rows, because a stretch of its columns is not a set
# of heads; `layers.to_parts` brings each device the columns of its heads.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(attn\.qkv|attn_pool\.kv)\.kernel", ("embed_only", None)),
    (r"attn_pool\.q\.kernel", ("embed", "heads")),
    (r"attn_pool\.q\.bias", ("heads",)),
    (r"(attn|attn_pool)\.proj\.kernel", ("heads", "embed")),
    (r"mlp\.(fc1|fc1_g|fc1_x)\.kernel", ("embed", "hidden")),
    (r"mlp\.(fc1|fc1_g|fc1_x)\.bias", ("hidden",)),
    (r"mlp\.fc2\.kernel", ("hidden", "embed")),
    (r"(head|head_dist|pre_logits\.fc)\.kernel", ("embed_only", None)),
    (r"patch_embed\.proj\.kernel", (None, None, None, "embed_only")),
    (r"pos_embed", (None, None, "embed_only")),
    # Vectors of at most a few channels' width: dividing them costs more than it saves.
    (r"(cls_token|dist_token|reg_token|attn_pool\.latent)", (None, None, None)),
    (r"(norm\w*|fc_norm|q_norm|k_norm)\.(scale|bias)|ls[12]\.gamma|bias", (None,)),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Any = None) -> Mesh:
    """The mesh of all devices, or of those given; at most one of the numbers may be -1: the rest.

    Neighbours in the mesh are neighbours in a TPU's network (`jax.make_mesh`). Raises `ValueError`
    unless the numbers multiply to the number of devices and, on TPU slices with three axes, each
    goes along whole axes.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [data, fsdp, tensor]
    known = int(np.prod([n for n in shape if n != -1]))
    if shape.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if min(shape) < 1 or np.prod(shape) != len(devices):
        raise ValueError(
            f"mesh data {data} x fsdp {fsdp} x tensor {tensor} does not match the "
            f"{counted(len(devices), 'available device')}: the numbers must multiply to "
            f"{len(devices)}; one of them may be -1, which is the rest"
        )
    try:
        return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    except NotImplementedError as error:
        sizes = np.ptp([device.coords for device in devices], axis=0) + 1
        raise ValueError(
            f"mesh data {shape[0]} x fsdp {shape[1]} x tensor {shape[2]} does not go along the "
            f"axes of this TPU slice, {' x '.join(map(str, sizes))}: each number must be 1 or the "
            f"product of some of these sizes, each of which serves one number"
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The first axis divided over `data` and `fsdp`: batches."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def check_batch_size(batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises `ValueError` unless the devices can share each of equal `parts` of a batch evenly."""
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    count = shares * parts
    if batch_size % count:
        near = max(count, batch_size // count * count)
        what = f"{shares} parts (data x fsdp)"
        what = counted(shares, "device") if shares == mesh.size else what
        what += f" x accumulate {parts}" if parts > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of the {what}: use {near} or {near + count}"
        )


def check_model(config: ViTConfig, mesh: Mesh) -> None:
    """Raises `ValueError` with every size of the model that the mesh cannot divide evenly."""
    tensor, rows = mesh.shape["tensor"], mesh.shape["fsdp"] * mesh.shape["tensor"]
    sizes = [
        ("num_heads", config.num_heads, "tensor", tensor),
        ("mlp_width", config.mlp_width, "tensor", tensor),
        ("width", config.width, "fsdp x tensor", rows),
        ("representation_size", config.representation_size or 0, "fsdp x tensor", rows),
    ]
    found = [
        f"{name} {size} is not a multiple of the mesh's {axes} {count}: use at most "
        f"{np.gcd(size, count)} there and more of `data`"
        for name, size, axes, count in sizes
        if size % count
    ]
    if found:
        raise ValueError("; ".join(found))


def logical_axes(name: str, rank: int) -> tuple[str | None, ...]:
    """Logical axes of a parameter by its name in the JAX model, or of a stack of such.

    Raises `ValueError` for a name without a rule.
    """
    for pattern, axes in PARAMETERS:
        if re.search(rf"(^|\.)({pattern})$", name) and rank - len(axes) in (0, 1):
            return (None,) * (rank - len(axes)) + axes
    raise ValueError(
        f"parameter {name} of rank {rank} has no rule: add one to PARAMETERS in {__name__}"
    )


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axes as what JAX knows."""
    return PartitionSpec(*(RULES[axis] or None for axis in axes))


def param_sharding(name: str, rank: int, mesh: Mesh) -> NamedSharding:
    """How a parameter, its moments and its average are divided."""
    return NamedSharding(mesh, spec(logical_axes(name, rank)))


def state_shardings(state: Any, shapes: dict[str, tuple[int, ...]], mesh: Mesh) -> Any:
    """A sharding for each leaf of a state: that of the parameter whose name and shape it has.

    Works for any tree whose dicts have parameters' names as keys, so for every optimizer of Optax.
    `shapes` are the parameters'. The other leaves, counts and the like, are replicated.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        name = names[-1] if names else None
        if name in shapes and tuple(leaf.shape) == tuple(shapes[name]):
            return param_sharding(name, len(leaf.shape), mesh)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(one, state)


def platform() -> str:
    """What the program that is being traced will run on: `cpu`, `gpu` or `tpu`."""
    return _device().platform


def compute_capability() -> tuple[int, int] | None:
    """That of the NVIDIA GPU that the program being traced will run on; None on anything else.

    A mesh in use only says what its devices are called. One that is not in this machine, for which
    a program is compiled ahead of time, counts as (8, 0).
    """
    device = _device()
    if device.platform != "gpu":
        return None
    here = [d for d in jax.devices() if d.device_kind == device.device_kind]
    text = getattr(here[0] if here else device, "compute_capability", None)
    if text is None and device.device_kind.startswith("NVIDIA"):
        return 8, 0
    found = re.fullmatch(r"(\d+)\.(\d+)", text or "")  # AMD's are words
    return (int(found[1]), int(found[2])) if found else None


def _device() -> Any:
    """The device of the mesh in use, which has a platform and a kind only, or the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    if device is None or isinstance(device, str):
        return jax.devices(device)[0]
    return device


def axis_size(axis: str) -> int:
    """In how many pieces the mesh in use cuts a logical axis; 1 where there is no mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return int(np.prod([mesh.shape.get(name, 1) for name in RULES[axis]]))


def constrain(x: Array, *axes: str | None) -> Array:
    """`x` divided by its first logical axes; `x` itself where no mesh of ours is in use.

    A mesh is in use inside `jax.sharding.use_abstract_mesh` and `jax.set_mesh`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or mesh.axis_names != AXES:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes + (None,) * (x.ndim - len(axes))))


def batch_share(batch_size: int, mesh: Mesh) -> tuple[int, int, int]:
    """What this process has to read: images of each batch, its turn and the number of turns.

    Processes that hold the same images, because `tensor` goes over them, have the same turn.
    Raises `ValueError` if the mesh gives them unequal or overlapping shares.
    """
    rows: dict[int, set[tuple[int, int]]] = {}
    for device, (index, *_) in over_batch(mesh).devices_indices_map((batch_size,)).items():
        start, stop, _ = index.indices(batch_size)
        rows.setdefault(device.process_index, set()).add((start, stop))
    shares = sorted({tuple(sorted(mine)) for mine in rows.values()})
    sizes = [sum(stop - start for start, stop in share) for share in shares]
    if len(set(sizes)) > 1 or sum(sizes) != batch_size:
        raise ValueError(
            f"on the mesh {dict(mesh.shape)} some processes share a part of their images but not "
            f"all: choose `tensor` as a divisor or a multiple of the devices of a process"
        )
    mine = tuple(sorted(rows[jax.process_index()]))
    return sizes[0], shares.index(mine), len(shares)
