"""The npz trees of Google Research, against Linen modules that compute with them."""

import ml_dtypes
import numpy as np
import pytest
import torch

import parity
import vit_torch
from parity.certificate_file import read as read_certificate
from parity.inputs import random_state
from tests.oracles.linen_trees import LinenViT, apply, stacked, tree, unstacked
from tests.parity.format_oracles import assert_same_bits, gap_of_ours, images, tensors
from tests.twin_models import TINY, relative_gap

AUGREG = {"plain": {}, "pre_logits": {"pre_logits": 24}, "gap": {"pool": "gap"}}
BIG_VISION = {
    "class_token": {},
    "mean": {"pool": "gap", "pre_logits": 24},
    "attention_pool": {"pool": "map"},
}
X = images()
NHWC = X.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("options", AUGREG.values(), ids=AUGREG)
def test_augreg(options, tmp_path, x64, matrix):
    check(LinenViT("augreg", **options), "augreg", lambda params: params, tmp_path, matrix)


@pytest.mark.parametrize("options", BIG_VISION.values(), ids=BIG_VISION)
def test_big_vision(options, tmp_path, x64, matrix):
    check(LinenViT("big_vision", **options), "big_vision", prefixed, tmp_path, matrix)


@pytest.mark.parametrize("options", BIG_VISION.values(), ids=BIG_VISION)
def test_big_vision_stacked(options, tmp_path, x64, matrix):
    model = LinenViT("big_vision", **options)
    check(model, "big_vision_scan", lambda params: prefixed(stacked(params)), tmp_path, matrix)


def prefixed(params):
    return {f"params/{name}": array for name, array in params.items()}


def loaded(file):
    """What Linen takes of a file: names without the prefix, blocks apart."""
    found = {name.removeprefix("params/"): array for name, array in tensors(file).items()}
    return unstacked(found)


def check(model, format, published, tmp_path, matrix):
    """In, compared with the Linen module, out, and the same bits for that module to load."""
    params = tree(model)
    np.savez(tmp_path / "theirs.npz", **published(params))
    ours = parity.convert(tmp_path / "theirs.npz", tmp_path / "ours")
    assert parity.inspect(tmp_path / "theirs.npz").format == format
    expected = apply(model, params, NHWC)
    inward = gap_of_ours(ours, X, torch.tensor(expected))
    back = parity.convert(ours, tmp_path / "back.npz", target=format)
    outward = relative_gap(apply(model, loaded(back), NHWC), expected)
    matrix(format, "its Linen module", "Linen's apply", inward=inward, outward=outward)
    assert_same_bits(tmp_path / "theirs.npz", back)


def test_big_vision_takes_the_position_of_the_class_token_into_the_token(tmp_path, x64, matrix):
    config = TINY.replace(activation="gelu_tanh", num_classes=5, mlp_width=48)
    ours = vit_torch.api.from_state(config, random_state(config, 0))
    vit_torch.save(ours, tmp_path / "ours")
    file = parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="big_vision")
    with torch.no_grad():
        expected = ours(X)
    outward = relative_gap(apply(LinenViT("big_vision"), loaded(file), NHWC), expected)
    again = parity.convert(file, tmp_path / "again")
    inward = gap_of_ours(again, X, expected)
    name = "ViT with a position of the class token"
    matrix("big_vision", name, "Linen's apply", inward=inward, outward=outward, folds=True)
    assert_same_bits(
        file, parity.convert(again, tmp_path / "twice.npz", target="big_vision")
    )  # folded once, it stays


def test_bfloat16_crosses_bit_for_bit(tmp_path, x64):
    params = prefixed(tree(LinenViT("big_vision")))
    np.savez(tmp_path / "x.npz", **{n: a.astype(ml_dtypes.bfloat16) for n, a in params.items()})
    ours = parity.convert(tmp_path / "x.npz", tmp_path / "ours")
    assert vit_torch.load(ours).head.weight.dtype == torch.bfloat16
    back = parity.convert(ours, tmp_path / "back.npz", target="big_vision")
    assert_same_bits(tmp_path / "x.npz", back)


def test_a_target_that_cannot_hold_the_model_says_every_reason(tmp_path):
    config = TINY.replace(layer_scale=0.1, qkv_bias=False)
    vit_torch.save(vit_torch.create(config), tmp_path / "ours")
    message = r"augreg cannot hold this model: .*activation .*qkv_bias False .*layer_scale 0.1"
    with pytest.raises(ValueError, match=message):
        parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="augreg")
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("format", ["augreg", "big_vision"])
def test_a_pool_that_the_tree_does_not_say_is_noted(format, tmp_path, x64):
    for pool, said in (("gap", True), ("tok", False)):
        params = tree(LinenViT(format, pool=pool))
        params = prefixed(params) if format == "big_vision" else params
        np.savez(tmp_path / "x.npz", **params)
        parity.convert(tmp_path / "x.npz", tmp_path / pool)
        notes = read_certificate(tmp_path / pool)["remarks"]
        assert ("pool 'mean'" in notes[0]) is said
        assert "other image sizes differ from the original's: Google's code resamples" in notes[1]


def test_states_of_the_optimizer_stay_behind_with_a_note(tmp_path, x64):
    params = prefixed(tree(LinenViT("big_vision")))
    np.savez(tmp_path / "x.npz", **params)
    more = {
        "opt/0/mu/head/bias": np.zeros(5),
        "extra/step": np.zeros(()),
        "opt/0/count": np.ones(1),
    }
    np.savez(tmp_path / "training.npz", **params, **more)
    ours = parity.convert(tmp_path / "x.npz", tmp_path / "ours")
    assert_same_bits(ours, parity.convert(tmp_path / "training.npz", tmp_path / "other"))
    notes = read_certificate(tmp_path / "other")["remarks"]
    listed = "left out: opt (2 tensors), extra/step (1 tensor)"
    assert any(listed in note for note in notes), notes
