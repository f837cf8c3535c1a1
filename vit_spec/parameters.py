"""Every parameter of a model: name and shape in the checkpoint (PyTorch layout, timm's names)."""

import math
from collections.abc import Mapping
from typing import Any

from vit_spec.config import ViTConfig
from vit_spec.names import plain
from vit_spec.strict_json import shown

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Dtypes of weights."""
BLOCKS, BLOCK_TENSORS = 256, 8
"""The depth that is looked for in any file, and the tensors that a block has at least."""
VALUES = 100_000_000
"""The size of a model that is looked for in any file; a larger one, up to twice the file's size."""
Shapes = dict[str, tuple[int, ...]]


def parameters(config: ViTConfig) -> Shapes:
    """Names and shapes in the order of the module tree, without building a model."""
    c, d = config, config.width
    shapes: Shapes = {}
    if c.class_token:
        shapes["cls_token"] = (1, 1, d)
    if c.distillation_token:
        shapes["dist_token"] = (1, 1, d)
    if c.num_registers:
        shapes["reg_token"] = (1, c.num_registers, d)
    if c.pos_embed == "learned":
        shapes["pos_embed"] = (1, c.num_positions, d)
    shapes["patch_embed.proj.weight"] = (d, c.in_channels, *c.patch_shape)
    if c.patch_bias:
        shapes["patch_embed.proj.bias"] = (d,)
    if c.pre_norm:
        shapes |= _norm("norm_pre", d)
    for i in range(c.depth):
        shapes |= _block(c, f"blocks.{i}")
    if not c.fc_norm:
        shapes |= _norm("norm", d)
    if c.pool == "map":
        shapes["attn_pool.latent"] = (1, 1, d)
        shapes |= _linear("attn_pool.q", d, d) | _linear("attn_pool.kv", d, 2 * d)
        shapes |= _linear("attn_pool.proj", d, d) | _norm("attn_pool.norm", d)
        shapes |= _mlp("attn_pool.mlp", d, c.mlp_width)
    if c.fc_norm:
        shapes |= _norm("fc_norm", d)
    if c.representation_size:
        shapes |= _linear("pre_logits.fc", d, c.representation_size)
    for head in ("head", "head_dist")[: 1 + c.distillation_token if c.num_classes else 0]:
        shapes |= _linear(head, c.feature_width, c.num_classes, bias=c.head_bias)
    return shapes


def count_parameters(config: ViTConfig) -> int:
    """Number of learned scalars."""
    return sum(math.prod(shape) for shape in parameters(config).values())


def check_size(config: ViTConfig, found: Shapes, *, where: str) -> None:
    """Raises `ValueError` for a model far larger than a file, before its parameters are listed.

    `found` are the shapes of the file. Small differences are for `check_shapes` to name.
    """
    check_depth(config.depth, found, where=where)
    first, second = (count_parameters(config.replace(depth=n)) for n in (1, 2))
    values, held = (
        first + (config.depth - 1) * (second - first),
        sum(map(math.prod, found.values())),
    )
    if values > max(VALUES, 2 * held):
        sizes = ("width", "depth", "mlp_width", "num_classes", "image_size", "patch_size")
        said = ", ".join(f"{name} {shown(getattr(config, name))}" for name in sizes)
        raise ValueError(
            f"{where} has {held} values, and its config stands for {values} ({said}): at most "
            f"{max(VALUES, 2 * held)} are looked for; use the config that the tensors were "
            "trained with"
        )


def check_depth(depth: int, found: Shapes, *, where: str) -> None:
    """Raises `ValueError` for a depth far beyond the number of a file's tensors."""
    blocks = max(BLOCKS, len(found) // BLOCK_TENSORS)
    if depth > blocks:
        raise ValueError(
            f"{where} has {len(found)} tensors, and depth {depth} is said: at most {blocks} blocks "
            "are looked for; use the config that the tensors were trained with"
        )


def check_shapes(
    expected: Shapes,
    found: Shapes,
    *,
    where: str,
    dtypes: Mapping[str, str] | None = None,
    way: str = "",
) -> None:
    """Raises `ValueError` naming every missing, extra and wrong-shaped tensor at once.

    With `dtypes`, by the names of `found`, also every one that is not of floating point. `way` is
    what to do about extra ones; where nothing else is wrong it is all that is advised.
    """
    missing = [f"  missing  {name} {expected[name]}" for name in expected if name not in found]
    extra = [f"  extra    {plain(name)} {found[name]}" for name in found if name not in expected]
    wrong = [
        f"  shape    {name} is {found[name]}, must be {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = [
        f"  dtype    {name} is {dtype}, must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}"
        for name, dtype in (dtypes or {}).items()
        if name in expected and dtype not in FLOATS
    ]
    lines = missing + extra + wrong + kinds
    if lines:
        some = lines[:20] + ([f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else [])
        summary = f"{len(missing)} missing, {len(extra)} extra, {len(wrong)} of another shape"
        summary += f", {len(kinds)} of another dtype" if kinds else ""
        advice = "Use the config that the tensors were trained with"
        advice += ", and cast them to floating point." if kinds else "."
        if way and lines == extra:
            advice = way
        elif way:
            advice += f"\n{way}"
        raise ValueError(
            f"{where} does not hold the tensors of its config ({summary}):\n" + "\n".join(some)
            + f"\n{advice}"
        )  # fmt: skip


def check_head(config: ViTConfig, found: Shapes) -> None:
    """Raises `ValueError` if a model is that of its config but for a head of other classes."""
    head = found.get("head.weight", (0,))
    fields: dict[str, Any] = {"num_classes": head[0]}
    if head[0]:
        fields["head_bias"] = "head.bias" in found
    fields = {name: value for name, value in fields.items() if value != getattr(config, name)}
    if fields and parameters(config.replace(**fields)) == found:
        said = ", ".join(f"{name} {getattr(config, name)!r}" for name in fields)
        bias = "" if "head.bias" in found or not head[0] else " and no bias,"
        change = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise ValueError(
            f"the model's head has {head[0]} outputs{bias} and its config says {said}: first set "
            f"model.config = model.config.replace({change})"
        )


def _block(c: ViTConfig, name: str) -> Shapes:
    d = c.width
    shapes = _norm(f"{name}.norm1", d) | _linear(f"{name}.attn.qkv", d, 3 * d, bias=c.qkv_bias)
    if c.qk_norm:
        head = d // c.num_heads
        shapes |= _norm(f"{name}.attn.q_norm", head) | _norm(f"{name}.attn.k_norm", head)
    shapes |= _linear(f"{name}.attn.proj", d, d)
    if c.layer_scale is not None:
        shapes[f"{name}.ls1.gamma"] = (d,)
    shapes |= _norm(f"{name}.norm2", d) | _mlp(f"{name}.mlp", d, c.mlp_width, c.mlp)
    if c.layer_scale is not None:
        shapes[f"{name}.ls2.gamma"] = (d,)
    return shapes


def _mlp(name: str, width: int, hidden: int, form: str = "mlp") -> Shapes:
    first = {"mlp": {"fc1": hidden}, "swiglu_packed": {"fc1": 2 * hidden}}.get(
        form, {"fc1_g": hidden, "fc1_x": hidden}
    )
    shapes: Shapes = {}
    for layer, outputs in first.items():
        shapes |= _linear(f"{name}.{layer}", width, outputs)
    return shapes | _linear(f"{name}.fc2", hidden, width)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
