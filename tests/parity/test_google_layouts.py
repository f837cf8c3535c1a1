"""The trees of Google's programs as they lie in files: their names, and what is in front of them.

Each layout must give the bits of the usual one, with which a Linen module computes in
`test_formats_npz.py`. timm reads some of the files by itself.
"""

import re
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.experimental.array_serialization import serialization

import parity
from parity.certificate_file import read as read_certificate
from parity.cli import main
from tests.oracles.linen_trees import CLASSES, DEPTH, DIM, HEADS, HIDDEN, LinenViT, stacked
from tests.oracles.timm_models import VisionTransformer
from tests.parity.format_oracles import BOUND, assert_same_bits, gap_of_ours, images

Params = dict[str, np.ndarray]
APART = {
    "Attention_1/": "Attention_0/",
    "LayerNorm_2/": "LayerNorm_1/",
    "MlpBlock_3/": "MlpBlock_0/",
}


def blocks_renamed(params: Params, pairs: dict[str, str]) -> Params:
    """Other numbers of the modules of the blocks."""
    found = {}
    for name, array in params.items():
        for old, new in pairs.items() if "encoderblock" in name else ():
            name = name.replace(old, new)
        found[name] = array
    return found


def in_one_row(params: Params) -> Params:
    return blocks_renamed(params, {new: old for old, new in APART.items()})


def apart(params: Params) -> Params:
    return blocks_renamed(params, APART)


def renamed(params: Params, old: str, new: str) -> Params:
    return {name.replace(old, new): array for name, array in params.items()}


def below(prefix: str, params: Params) -> Params:
    return {f"{prefix}{name}": array for name, array in params.items()}


def towers(prefix: str, params: Params) -> Params:
    """An image tower and what is beside it."""
    text = {"t": np.ones(1), "b": np.ones(1), "txt/head/bias": np.ones(3)}
    return below(f"{prefix}img/", params) | below(prefix, text)


def in_training(params: Params) -> Params:
    """With the state of an optimizer, whose parts big_vision numbers."""
    moments = {
        f"opt/0/0/{k}/{name.removeprefix('params/')}": array + k
        for name, array in params.items()
        for k in (1, 2)
    }
    return params | moments | {"opt/0/0/0": np.ones(()), "chrono/accum_train_time": np.ones(())}


def flax_optimizer(params: Params) -> Params:
    """What an optimizer of an older Flax saved: the parameters are its target."""
    state = {f"opt/state/param_states/{name}/grad_ema": array for name, array in params.items()}
    return below("opt/target/", params) | state | {"opt/state/step": np.array(3)}


LAYOUTS: dict[str, tuple[str, Any]] = {
    "augreg: names of today's code": ("augreg", apart),
    "augreg: params": ("augreg", lambda p: below("params/", p)),
    "augreg: opt/target": ("augreg", flax_optimizer),
    "augreg: positions in the encoder": (
        "augreg", lambda p: below("params/", renamed(apart(p), "posembed_input/", ""))
    ),
    "augreg: two towers": ("augreg", lambda p: towers("", apart(p))),
    "big_vision: bare": ("big_vision", lambda p: p),
    "big_vision: two towers": ("big_vision", lambda p: towers("params/", p)),
    "big_vision: in training": ("big_vision", lambda p: in_training(below("params/", p))),
    "big_vision: two towers in training": (
        "big_vision", lambda p: in_training(towers("params/", p))
    ),
    "big_vision: opt/target": ("big_vision", flax_optimizer),
    "big_vision: older names": ("big_vision", lambda p: below("params/", in_one_row(p))),
    "big_vision: positions in the encoder": (
        "big_vision", lambda p: below("params/", renamed(p, "pos_emb", "Transformer/pos_emb"))
    ),
    "big_vision: the pool in the model": (
        "big_vision", lambda p: below("params/", renamed(p, "MAPHead_0/", ""))
    ),
    "big_vision_scan: bare": ("big_vision_scan", lambda p: p),
    "big_vision_scan: two towers": ("big_vision_scan", lambda p: towers("params/", p)),
}  # fmt: skip


@pytest.fixture(scope="module")
def trees() -> dict[str, Params]:
    """The parameters of a model of each format, without what is in front of them."""
    big_vision = random_tree(LinenViT("big_vision", pool="map"))
    return {
        "augreg": random_tree(LinenViT("augreg")),
        "big_vision": big_vision,
        "big_vision_scan": stacked(big_vision),
    }


def random_tree(model: LinenViT) -> Params:
    """Parameters of the shapes of a model, which is not compiled."""
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    rng = np.random.default_rng(0)
    flat = flax.traverse_util.flatten_dict(shapes["params"], sep="/")
    return {name: rng.normal(size=leaf.shape, scale=0.3) for name, leaf in flat.items()}


@pytest.fixture(scope="module")
def ours(trees, tmp_path_factory):
    """What the usual layouts give."""
    folder, found = tmp_path_factory.mktemp("ours"), {}
    for name, params in trees.items():
        usual = params if name == "augreg" else below("params/", params)
        file = saved(folder / f"{name}.npz", usual)
        found[name] = parity.convert(file, folder / name, image_size=32)
    return found


def saved(path, params: Params):
    np.savez(path, **params)  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize(("format", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_bits_of_the_usual_one(format, layout, trees, ours, tmp_path):
    file = saved(tmp_path / "x.npz", layout(trees[format]))
    assert parity.inspect(file).format == format
    assert_same_bits(ours[format], parity.convert(file, tmp_path / "out"))


def test_the_tower_that_is_taken_is_said_and_what_is_left_out_too(trees, tmp_path, capsys):
    file = saved(tmp_path / "siglip.npz", towers("params/", trees["big_vision"]))
    assert main(["convert", str(file), str(tmp_path / "out"), "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "the weights are those of 'params/img'" in out
    assert "params/txt" in out and "params/t (1 tensor)" in out
    assert parity.verify(tmp_path / "out").passed
    assert read_certificate(tmp_path / "out")["source"]["taken"] == {"prefix": "params/img/"}


@pytest.mark.parametrize("part", [":img", ":params/img"])
def test_a_part_of_a_file_is_named_as_big_vision_names_it(part, trees, ours, tmp_path):
    file = saved(tmp_path / "x.npz", in_training(towers("params/", trees["big_vision"])))
    assert_same_bits(ours["big_vision"], parity.convert(f"{file}{part}", tmp_path / "out"))
    assert parity.inspect(f"{file}{part}").format == "big_vision"
    header, state = parity.read(f"{file}{part}")
    assert header.config.pool == "map" and "attn_pool.latent" in state


def test_of_several_image_towers_one_is_asked_for(trees, ours, tmp_path):
    params = trees["big_vision"]
    both = below("params/img/", params) | below("params/video/", renamed(params, "x", "x"))
    file = saved(tmp_path / "x.npz", both)
    with pytest.raises(ValueError, match="2 sets of weights.*'params/img/'.*'params/video/'"):
        parity.convert(file, tmp_path / "out")
    assert_same_bits(ours["big_vision"], parity.convert(f"{file}:img", tmp_path / "out"))


def test_a_part_that_is_not_there_is_an_error(trees, tmp_path):
    file = saved(tmp_path / "x.npz", towers("params/", trees["big_vision"]))
    with pytest.raises(ValueError, match="unknown prefix 'image'"):
        parity.convert(f"{file}:image", tmp_path / "out")
    with pytest.raises(ValueError, match="both say a part: give one"):
        parity.convert(f"{file}:img", tmp_path / "out", prefix="params/img/")
    with pytest.raises(FileNotFoundError, match="y.npz:img does not exist"):
        parity.convert(tmp_path / "y.npz:img", tmp_path / "out")


def test_of_two_places_of_positions_one_is_too_many(trees, tmp_path):
    params = below("params/", trees["big_vision"])
    params["params/Transformer/pos_embedding"] = params["params/pos_embedding"]
    file = saved(tmp_path / "x.npz", params)
    with pytest.raises(ValueError, match=r"extra +Transformer/pos_embedding"):
        parity.convert(file, tmp_path / "out")


@pytest.mark.parametrize("lacking", ["Transformer/encoder_norm/bias", "embedding/kernel"])
@pytest.mark.parametrize("format", ["augreg", "big_vision"])
def test_a_damaged_tree_says_what_is_missing(format, lacking, trees, tmp_path):
    params = towers("params/", trees[format])
    del params[f"params/img/{lacking}"]
    file = saved(tmp_path / "x.npz", params)
    for source in (format, None):
        with pytest.raises(ValueError) as error:
            parity.convert(file, tmp_path / "out", source=source)
        assert "Error" not in str(error.value)
        if "norm" in lacking:
            assert re.search(rf"missing +(params/)?{lacking}", str(error.value))


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        ("augreg", flax_optimizer),
        ("big_vision", lambda p: below("params/", p)),
        ("big_vision", lambda p: towers("params/", p)),
        ("big_vision_scan", lambda p: towers("params/", p)),
    ],
    ids=["opt/target", "params", "params/img", "params/img scanned"],
)
def test_timm_computes_the_same_from_the_same_file(format, layout, trees, tmp_path):
    file = saved(tmp_path / "x.npz", layout(trees[format]))
    pooled = format != "augreg"
    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
        mlp_ratio=HIDDEN / DIM, num_classes=CLASSES, act_layer="gelu_tanh", class_token=not pooled,
        global_pool="map" if pooled else "token",
    ).double()  # fmt: skip
    theirs.load_pretrained(str(file))
    x = images()
    with torch.no_grad():
        expected = theirs.eval()(x)
    assert gap_of_ours(parity.convert(file, tmp_path / "out"), x, expected) < BOUND


def nested(params: Params) -> Any:
    return flax.traverse_util.unflatten_dict(params, sep="/")


def test_a_checkpoint_of_vision_transformers_training_is_read(trees, ours, tmp_path):
    """Its train.py saves (params, opt_state, step) by `flax.training.checkpoints`."""
    params = nested(apart(trees["augreg"]))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9, accumulator_dtype="bfloat16")
    )
    state = jax.tree.map(np.asarray, optimizer.init(params))
    file = tmp_path / "checkpoint_100"
    file.write_bytes(flax.serialization.to_bytes((params, state, 100)))
    assert_same_bits(ours["augreg"], parity.convert(file, tmp_path / "out"))
    assert "the weights are those of '0'" in read_certificate(tmp_path / "out")["remarks"]


@pytest.mark.parametrize("packed", ["zstd", "gzip"])
def test_a_checkpoint_of_big_visions_training_is_read(packed, trees, ours, tmp_path):
    """Its train.py saves an array in each folder, by TensorStore; once packed by gzip."""
    arrays = in_training(towers("params/", trees["big_vision"]))
    folder = tmp_path / "checkpoint.bv-000000100"
    specs = []
    for name, array in arrays.items():
        spec = serialization.get_tensorstore_spec(str(folder / name.replace("/", "~")))
        spec["metadata"] = {
            "compressor": {"id": packed, "level": 1},
            "shape": array.shape,
            "chunks": [-(-size // 2) for size in array.shape],  # of two devices
        }
        specs.append(spec)
    with jax.enable_x64(True):
        serialization.run_serialization([*map(jnp.asarray, arrays.values())], specs)
    for source in (folder, f"{folder}:img"):
        out = parity.convert(source, tmp_path / "out")
        assert_same_bits(ours["big_vision"], out)
        assert parity.verify(out).passed
