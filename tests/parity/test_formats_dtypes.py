"""Tensors of several dtypes that become one are widened without loss; no weight is an integer."""

import json

import ml_dtypes
import numpy as np
import pytest

import parity
from parity.cli import main
from tests.parity.conftest import TINY
from vit_spec import Header, checkpoint, parameters

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KEY = "vit.encoder.layer.0.attention.attention.key.weight"
QKV = "blocks.0.attn.qkv.weight"


@pytest.fixture
def theirs(tmp_path):
    """A directory of transformers whose query, key and value are apart."""
    config = TINY.replace(pos_embed_antialias=False)
    rng = np.random.default_rng(0)
    state = {n: rng.normal(size=s).astype("float32") for n, s in parameters(config).items()}
    checkpoint.write(tmp_path / "ours", Header(config=config), state)
    return parity.convert(tmp_path / "ours", tmp_path / "theirs", target="hf_vit")


def cast(folder, **kinds):
    """Other dtypes of some tensors, by the end of their names."""
    file = folder / "model.safetensors"
    tensors = checkpoint.read_tensors(file)
    for end, kind in kinds.items():
        for name in tensors:
            if f".{end.replace('_', '.')}." in f".{name}" or name == end:
                tensors[name] = tensors[name].astype(kind)
    checkpoint.write_tensors(file, tensors, metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize(
    ("query", "key", "wide"),
    [
        ("float32", BFLOAT16, "float32"),
        (BFLOAT16, "float32", "float32"),
        ("float16", "float64", "float64"),
        ("float16", BFLOAT16, "float32"),
    ],
)
def test_parts_of_several_dtypes_keep_their_values(theirs, tmp_path, query, key, wide):
    tensors = cast(theirs, query=query, key=key, value=query)
    back = parity.convert(theirs, tmp_path / "back")
    found = checkpoint.read_tensors(back / "model.safetensors")[QKV]
    assert found.dtype == wide
    parts = [tensors[KEY.replace("key", part)] for part in ("query", "key", "value")]
    for part, mine in zip(parts, np.split(found, 3), strict=True):
        np.testing.assert_array_equal(mine, part.astype("float64"))
    again = parity.convert(back, tmp_path / "again", target="hf_vit")
    values = checkpoint.read_tensors(again / "model.safetensors")
    np.testing.assert_array_equal(values[KEY], tensors[KEY].astype("float64"))


def test_a_certificate_says_what_was_widened(theirs, tmp_path, capsys):
    assert main(["convert", str(theirs), str(tmp_path / "a"), "--no-verify"]) == 0
    assert json.loads((tmp_path / "a" / "parity.json").read_text())["same_bits"] is True
    assert "widened" not in capsys.readouterr().out
    cast(theirs, key=BFLOAT16)
    assert main(["convert", str(theirs), str(tmp_path / "b"), "--no-verify"]) == 0
    record = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert record["same_bits"] is False
    note = "4 tensors are widened, without loss, as the target joins them with wider ones: vit."
    assert note in record["remarks"][0] and "key.weight to float32" in record["remarks"][0]
    assert f"note: {note}" in capsys.readouterr().out
    assert parity.verify(tmp_path / "b").passed


def test_blocks_of_several_dtypes_are_stacked_in_the_widest(tmp_path):
    config = TINY.replace(activation="gelu_tanh", class_token_position=False)
    state = {n: np.full(s, 1 / 3, BFLOAT16) for n, s in parameters(config).items()}
    state["blocks.1.norm1.weight"] = np.full(config.width, 1 / 3, np.float32)
    checkpoint.write(tmp_path / "ours", Header(config=config), state)
    file = parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="big_vision_scan")
    stacked = np.load(file)["params/Transformer/encoderblock/LayerNorm_0/scale"]
    assert stacked.dtype == np.float32
    assert (stacked[0] == state["blocks.0.norm1.weight"]).all()
    assert (stacked[1] == state["blocks.1.norm1.weight"]).all()


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "complex64"])
def test_weights_that_are_no_floats_are_listed_with_all_else(theirs, tmp_path, kind):
    name = "vit.layernorm.weight"
    tensors = {**checkpoint.read_tensors(theirs / "model.safetensors"), "vit.odd": np.zeros(2)}
    tensors[name] = tensors[name].astype(kind)
    tensors["classifier.bias"] = tensors["classifier.bias"][:3]
    del tensors["vit.layernorm.bias"]
    parity.containers.write(
        theirs / "model.safetensors",
        "safetensors",
        {n: parity.containers.Info.of(a.dtype, a.shape) for n, a in tensors.items()},
        tensors.__getitem__,
    )
    with pytest.raises(ValueError) as caught:
        parity.convert(theirs, tmp_path / "back")
    for line in (
        "1 missing, 1 extra, 1 of another shape, 1 of another dtype",
        "missing  vit.layernorm.bias", "extra    vit.odd", "shape    classifier.bias is (3,)",
        f"dtype    {name} is {kind}, must be float64, float32, float16 or bfloat16",
    ):  # fmt: skip
        assert line in str(caught.value)


def test_our_own_files_hold_floats_too(tmp_path):
    state = {n: np.zeros(s, np.float32) for n, s in parameters(TINY).items()}
    state["head.bias"] = state["head.bias"].astype("int32")
    checkpoint.write(tmp_path / "ours", Header(config=TINY), state)
    with pytest.raises(ValueError, match="dtype    head.bias is int32, must be float64"):
        parity.convert(tmp_path / "ours", tmp_path / "x", target="timm")
