"""Bugs in the weights and in the preprocessing of images."""

from collections.abc import Callable

import ml_dtypes
import numpy as np

from parity.mutants.mutant import IMAGENET, Mutant, Plant

Edit = Callable[[np.ndarray], np.ndarray]


def _in_torch(name: str, edit: Edit) -> Callable[[Plant], None]:
    """Changes every tensor of the PyTorch side whose name ends so."""

    def plant(plant: Plant) -> None:
        for full, array in plant.torch_state.items():
            if full.endswith(name):
                plant.torch_state[full] = np.ascontiguousarray(edit(array))

    return plant


def _in_jax(name: str, edit: Edit) -> Callable[[Plant], None]:
    def plant(plant: Plant) -> None:
        for full, array in plant.jax_state.items():
            if full.endswith(name):
                plant.jax_state[full] = np.ascontiguousarray(edit(array))

    return plant


def _key_first(array: np.ndarray) -> np.ndarray:
    query, key, value = np.split(array, 3)
    return np.concatenate([key, query, value])


def _by_head(array: np.ndarray) -> np.ndarray:
    return array.reshape(3, 2, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def _no_key(array: np.ndarray) -> np.ndarray:
    query, key, value = np.split(array, 3)
    return np.concatenate([query, 0 * key, value])


def _grid_swapped(array: np.ndarray) -> np.ndarray:
    table = array[:, 1:].reshape(1, 4, 4, -1).swapaxes(1, 2).reshape(array[:, 1:].shape)
    return np.concatenate([array[:, :1], table], axis=1)


def _through(dtype: type) -> Edit:
    return lambda array: array.astype(dtype).astype(np.float64)


def _exchange(a: str, b: str) -> Callable[[Plant], None]:
    def plant(plant: Plant) -> None:
        old = dict(plant.torch_state)
        for name in old:
            if a in name:
                plant.torch_state[name] = old[name.replace(a, b)]
            elif b in name:
                plant.torch_state[name] = old[name.replace(b, a)]

    return plant


def _prepared(
    channels: slice = slice(None),
    swap: bool = False,
    scale: float = 255,
    mean: tuple[float, ...] = IMAGENET[0],
    std: tuple[float, ...] = IMAGENET[1],
) -> Callable[[Plant], None]:
    """Another preprocessing on the PyTorch side."""

    def prepare(images: np.ndarray) -> np.ndarray:
        images = images[..., channels]
        images = images.swapaxes(1, 2) if swap else images
        return (images / scale - np.array(mean)) / np.array(std)

    return lambda plant: setattr(plant, "torch_prepare", prepare)


HALF = (0.5, 0.5, 0.5)
DATA = (
    Mutant("qkv weights: key before query", "weights", _in_torch("qkv.weight", _key_first),
           "values", "key, query, value", "qkv.weight"),
    Mutant("qkv weights: interleaved by head", "weights", _in_jax("qkv.weight", _by_head),
           "values", "interleaved by head", "qkv.weight"),
    Mutant("qkv bias: key third zero", "weights", _in_torch("qkv.bias", _no_key), "values",
           "key set to zero", "qkv.bias"),
    Mutant("qkv bias not loaded", "weights", _in_torch("qkv.bias", np.zeros_like), "values",
           "0 everywhere", "qkv.bias"),
    Mutant("square kernel not transposed", "weights", _in_torch("proj.weight", lambda a: a.T if
           a.ndim == 2 else a), "values", "transposed", "attn.proj.weight"),
    Mutant("square kernel not transposed, in JAX", "weights", _in_jax("attn.proj.weight",
           lambda a: a.T), "values", "transposed", "attn.proj.weight"),
    Mutant("patch kernel: height and width swapped", "weights",
           _in_torch("patch_embed.proj.weight", lambda a: a.swapaxes(2, 3)), "values",
           "height and width swapped", "patch_embed.proj.weight"),
    Mutant("patch kernel: RGB/BGR", "weights",
           _in_torch("patch_embed.proj.weight", lambda a: a[:, ::-1]), "values", "RGB/BGR",
           "patch_embed.proj.weight"),
    Mutant("position embedding: grid transposed", "weights", _in_torch("pos_embed", _grid_swapped),
           "values", "rows and columns of the grid swapped", "pos_embed"),
    Mutant("position embedding: class token last", "weights",
           _in_torch("pos_embed", lambda a: np.roll(a, -1, axis=1)), "values", "moved",
           "pos_embed"),
    Mutant("LayerScale not loaded", "weights", _in_torch("gamma", lambda a: np.full_like(a, 0.1)),
           "values", "0.1 everywhere", "gamma", {"layer_scale": 0.1}),
    Mutant("last norm not loaded", "weights", _in_torch("0.norm2.weight", np.ones_like), "values",
           "1 everywhere", "norm2.weight"),
    Mutant("head not loaded", "weights", _in_torch("head.weight", np.zeros_like), "values",
           "0 everywhere", "head.weight"),
    Mutant("registers in reverse order", "weights", _in_torch("reg_token", lambda a: a[:, ::-1]),
           "values", "reverse order", "reg_token", {"num_registers": 3}),
    Mutant("weights through bfloat16", "weights", _in_torch("", _through(ml_dtypes.bfloat16)),
           "values", "rounded to bfloat16"),
    Mutant("weights through float16, in JAX", "weights", _in_jax("", _through(np.float16)),
           "values", "rounded to float16"),
    Mutant("blocks exchanged", "weights", _exchange("blocks.0.mlp", "blocks.1.mlp"), "values",
           "those of blocks", "mlp"),
    Mutant("both norms of a block exchanged", "weights", _exchange("norm1", "norm2"), "values",
           "those of blocks", "norm"),
    Mutant("images: RGB/BGR", "preprocessing", _prepared(channels=slice(None, None, -1)),
           "channels", "RGB/BGR", "images", raw=True),
    Mutant("images: height and width swapped", "preprocessing", _prepared(swap=True), "axes",
           "height and width swapped", "images", raw=True),
    Mutant("images: 0 to 255 for 0 to 1", "preprocessing", _prepared(scale=1), "range",
           "0 to 255", "images", raw=True),
    Mutant("images: mean and std 0.5 for ImageNet's", "preprocessing",
           _prepared(mean=HALF, std=HALF), "mean and std", "0.5 and 0.5", "images", raw=True),
    Mutant("images: not normalised", "preprocessing", _prepared(mean=(0, 0, 0), std=(1, 1, 1)),
           "mean and std", "none", "images", raw=True),
    Mutant("images: std left out", "preprocessing", _prepared(std=(1, 1, 1)), "mean and std",
           "mean only", "images", raw=True),
    Mutant("images: mean and std in BGR order", "preprocessing",
           _prepared(mean=IMAGENET[0][::-1], std=IMAGENET[1][::-1]), "order of mean and std",
           "reversed", "images", raw=True),
)  # fmt: skip
