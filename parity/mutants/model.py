"""Bugs in what the models compute, with the right weights."""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.mutants.mutant import Mutant, Plant
from vit_torch.masks import of_block

Change = Callable[[Any], None]
ORDER, LAYOUT = "order in qkv", "layout of qkv"


def in_torch(change: Change) -> Callable[[Plant], None]:
    """Plants a change of the PyTorch model."""
    return lambda plant: plant.in_torch.append(change)


def _jax(change: Change) -> Callable[[Plant], None]:
    return lambda plant: plant.in_jax.append(change)


def _each_block(change: Change) -> Change:
    def change_all(model: Any) -> None:
        for block in model.blocks:
            change(block)

    return change_all


def _set(path: str, value: Any) -> Change:
    """Sets an attribute of a module by its path."""

    def change(module: Any) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            module = getattr(module, parent)
        setattr(module, name, value)

    return change


def _norms(attribute: str, value: Any) -> Change:
    def change(model: Any) -> None:
        norms = [getattr(b, n) for b in model.blocks for n in ("norm1", "norm2")]
        for norm in [*norms, model.norm]:
            setattr(norm, attribute, value)

    return change


def _attention(
    split: Callable[[Tensor, int], Any] | None = None,
    scale: Callable[[int, int], float] | None = None,
) -> Change:
    """Attention that takes qkv (b, t, 3 d) apart in another way, or with another scale."""

    def usual(qkv: Tensor, heads: int) -> Any:
        b, t, d = qkv.shape
        return qkv.reshape(b, t, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4)

    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (split or usual)(self.qkv(x), self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        factor = None if scale is None else scale(q.shape[-1], x.shape[-1])
        y = F.scaled_dot_product_attention(q, k, v, scale=factor)
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    return _each_block(lambda block: rebind(block.attn, forward))


def rebind(module: Any, forward: Any, name: str = "forward") -> None:
    """Gives one module another method."""
    setattr(module, name, types.MethodType(forward, module))


def _key_first(qkv: Tensor, heads: int) -> Any:
    b, t, d = qkv.shape
    k, q, v = qkv.reshape(b, t, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4)
    return q, k, v


def _per_head(qkv: Tensor, heads: int) -> Any:
    b, t, d = qkv.shape
    return qkv.reshape(b, t, heads, 3, d // 3 // heads).permute(3, 0, 2, 1, 4)


def _per_channel(qkv: Tensor, heads: int) -> Any:
    b, t, d = qkv.shape
    return qkv.reshape(b, t, heads, d // 3 // heads, 3).permute(4, 0, 2, 1, 3)


def _without_norms(block: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        b, t, d = x.shape
        parts = self.qkv(x).reshape(b, t, 3, self.num_heads, d // self.num_heads)
        y = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    rebind(block.attn, forward)


def _no_value_bias(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.bias.chunk(3)
    return F.linear(x, self.weight, torch.cat([query, key, torch.zeros_like(value)]))


def _no_bias(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight)


def _pool(self: Any, x: Tensor, form: str) -> Tensor:
    if form == "all":
        x = x.mean(1)
    elif form == "patches":
        x = x[:, self.config.num_prefix_tokens :].mean(1)
    return self.pre_logits(self.fc_norm(x))


def _pooling(form: str) -> Change:
    return lambda model: rebind(model, lambda self, x: _pool(self, x, form), "pool")


def _no_last_norm(model: Any) -> None:
    def features(self: Any, images: Tensor, masks: Any = None) -> Tensor:
        x = self.embed(images)
        for i, block in enumerate(self.blocks):
            x = block(x, of_block(masks, i))
        return x

    rebind(model, features, "features")


def _norm_after(model: Any) -> None:
    _no_last_norm(model)
    rebind(model, lambda self, x: self.norm(
        x[:, self.config.num_prefix_tokens :].mean(1)), "pool")  # fmt: skip


def _linear_pre_logits(model: Any) -> None:
    rebind(model.pre_logits, lambda self, x: self.fc(x))


def _dropout(block: Any) -> None:
    rebind(block.mlp, lambda self, x, masks=None: F.dropout(
        self.fc2(F.gelu(self.fc1(x))), 0.1, training=True))  # fmt: skip


def _relu(block: Any) -> None:
    rebind(block.mlp, lambda self, x, masks=None: self.fc2(F.relu(self.fc1(x))))


def _no_layer_scale(block: Any) -> None:
    for scale in (block.ls1, block.ls2):
        rebind(scale, lambda self, x: x)


def _in(round_: Callable[[Tensor], Tensor]) -> Change:
    """Factors of every linear layer of the blocks in lower precision, sums in full."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(round_(x), round_(self.weight), self.bias)

    def change(model: Any) -> None:
        for module in model.blocks.modules():
            if isinstance(module, nn.Linear):
                rebind(module, forward)

    return change


def _bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def _tf32(x: Tensor) -> Tensor:
    bits = x.float().view(torch.int32)
    bits = bits + 0xFFF + ((bits >> 13) & 1)
    return (bits & ~0x1FFF).view(torch.float32).to(x.dtype)


def _half_norm(block: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.layer_norm(x.bfloat16(), x.shape[-1:], self.weight.bfloat16(), self.bias.bfloat16(),
                         self.eps)  # fmt: skip
        return y.to(x.dtype)

    rebind(block.norm2, forward)


def _large_mean(plant: Plant) -> None:
    """Tokens far from zero, as in the residual streams of large models."""
    for state in (plant.jax_state, plant.torch_state):
        state["pos_embed"] = state["pos_embed"] + 200.0


def _fast_variance(plant: Plant) -> None:
    _large_mean(plant)
    plant.in_jax.append(_norms("use_fast_variance", True))


MEAN, SCALED = {"pool": "mean"}, {"layer_scale": 0.1}
REGISTERS = {"num_registers": 3}
MODEL = (
    Mutant("GELU: tanh for erf", "model",
           in_torch(_each_block(_set("mlp.activation", "gelu_tanh"))), "activation", "tanh GELU"),
    Mutant("GELU: tanh for erf, in JAX", "model",
           _jax(_each_block(_set("mlp.activation", "gelu_tanh"))), "activation", "tanh GELU"),
    Mutant("GELU: tanh in the last block only", "model",
           in_torch(lambda m: setattr(m.blocks[1].mlp, "activation", "gelu_tanh")), "activation",
           "tanh GELU", "blocks.1.mlp"),
    Mutant("GELU: quick for erf", "model",
           in_torch(_each_block(_set("mlp.activation", "quick_gelu"))), "activation", "quick GELU"),
    Mutant("GELU: erf for quick, in JAX", "model",
           _jax(_each_block(_set("mlp.activation", "gelu"))), "activation",
           "erf GELU", config={"activation": "quick_gelu"}),
    Mutant("ReLU for GELU", "model", in_torch(_each_block(_relu)), "activation", "ReLU"),
    Mutant("LayerNorm epsilon 1e-5 for 1e-6", "model", in_torch(_norms("eps", 1e-5)), "epsilon",
           "1e-05", "norm"),
    Mutant("LayerNorm epsilon 1e-12 for 1e-6", "model", in_torch(_norms("eps", 1e-12)), "epsilon",
           "1e-12", "norm"),
    Mutant("LayerNorm epsilon 1e-5, in JAX", "model", _jax(_norms("epsilon", 1e-5)), "epsilon",
           "1e-05", "norm"),
    Mutant("LayerNorm epsilon of the last norm only", "model", in_torch(_set("norm.eps", 1e-5)),
           "epsilon", "1e-05", "norm"),
    Mutant("LayerNorm fast variance, in JAX", "model", _fast_variance, "variance", "fast", "norm"),
    Mutant("qkv: key before query", "model", in_torch(_attention(_key_first)), ORDER, "key, query"),
    Mutant("qkv: interleaved by head", "model", in_torch(_attention(_per_head)), LAYOUT,
           "(heads, 3, channels)"),
    Mutant("qkv: interleaved by channel", "model", in_torch(_attention(_per_channel)), LAYOUT,
           "(heads, channels, 3)"),
    Mutant("head count 4 for 2", "model", in_torch(_each_block(_set("attn.num_heads", 4))), "heads",
           "4"),
    Mutant("attention scale by the width", "model",
           in_torch(_attention(scale=lambda k, d: d**-0.5)), "scale", "1 / sqrt(width)"),
    Mutant("attention without scale", "model",
           in_torch(_attention(scale=lambda k, d: 1.0)), "scale", "none"),
    Mutant("norm of query and key left out", "model", in_torch(_each_block(_without_norms)),
           "norm of query and key", "left out", config={"qk_norm": True}),
    Mutant("value bias left out", "model",
           in_torch(_each_block(lambda b: rebind(b.attn.qkv, _no_value_bias))), "bias",
           "without value"),
    Mutant("qkv bias left out", "model",
           in_torch(_each_block(lambda b: rebind(b.attn.qkv, _no_bias))), "bias", "left out",
           "qkv"),
    Mutant("head bias left out", "model", in_torch(lambda m: rebind(m.head, _no_bias)), "bias",
           "left out", "head"),
    Mutant("LayerScale left out", "model", in_torch(_each_block(_no_layer_scale)), "LayerScale",
           "left out", config=SCALED),
    Mutant("last norm left out", "model", in_torch(_no_last_norm), "last norm",
           "left out", "pool"),
    Mutant("last norm after pooling", "model", in_torch(_norm_after), "last norm", "after pooling",
           "pool", MEAN),
    Mutant("mean pooling with the class token", "model", in_torch(_pooling("all")), "pooling",
           "mean of all tokens", "pool", MEAN),
    Mutant("mean pooling for the class token", "model", in_torch(_pooling("patches")), "pooling",
           "mean of patches", "pool"),
    Mutant("mean pooling with registers", "model", in_torch(_pooling("all")), "pooling",
           "mean of all tokens", "pool", {**MEAN, **REGISTERS, "class_token": False}),
    Mutant("pre-logits without tanh", "model", in_torch(_linear_pre_logits), "pre-logits",
           "without tanh", "pool", {"representation_size": 24}),
    Mutant("dropout left on", "model", in_torch(_each_block(_dropout)), "randomness in evaluation",
           "dropout", "mlp"),
    Mutant("bfloat16 factors", "precision", in_torch(_in(_bfloat16)), "products", "bfloat16"),
    Mutant("TF32 factors", "precision", in_torch(_in(_tf32)), "products", "TF32"),
    Mutant("LayerNorm in bfloat16", "precision", in_torch(_each_block(_half_norm)), "arithmetic",
           "bfloat16", "norm2"),
)  # fmt: skip
