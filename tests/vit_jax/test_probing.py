"""Frozen features judged by neighbours and by a linear layer, against DINO's and scikit-learn's."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression

import vit_jax
from parity.inputs import random_state
from tests.twin_models import TINY, images, relative_gap
from vit_jax import probe, visualize
from vit_jax.attention_maps import attention_maps, attention_weights, filters, of_patches, rollout
from vit_jax.probing import extract, fit_linear, nearest_classes

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def clusters(n=200, d=8, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(9).normal(size=(classes, d))
    return (centres[labels] + 1.2 * rng.normal(size=(n, d))).astype(np.float32), labels


def dinos_knn(features, labels, test, k, temperature, classes):
    """Its formula: cosines, top k, exp(cosine / T) summed by class."""
    a, b = (F.normalize(torch.tensor(x), dim=1) for x in (features, test))
    cosines, places = (b @ a.T).topk(k, largest=True, sorted=True)
    hot = F.one_hot(torch.tensor(labels)[places], classes)
    return (hot * cosines.div(temperature).exp()[..., None]).sum(1).argmax(1).numpy()


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (5, 1.0)])
def test_neighbours_vote_as_in_dino(k, temperature):
    (features, labels), (test, truth) = clusters(), clusters(n=1100, seed=1)
    ours = nearest_classes(features, labels, test, k=k, temperature=temperature)
    assert np.array_equal(ours, dinos_knn(features, labels, test, k, temperature, 5))
    assert 0.5 < np.mean(ours == truth) < 1
    with pytest.raises(ValueError, match="k 201 must be from 1 to the 200 training images"):
        nearest_classes(features, labels, test, k=201)


def test_the_linear_probe_is_scikit_learns_logistic_regression(x64):
    features, labels = clusters()
    features = features.astype(np.float64)
    kernel, bias = fit_linear(features, labels, c=0.316)
    oracle = LogisticRegression(C=0.316, solver="newton-cg", max_iter=1000, tol=1e-12)
    oracle.fit(features, labels)
    np.testing.assert_allclose(kernel.T, oracle.coef_, atol=1e-6)
    ours, theirs = bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_features_are_what_the_head_is_given_without_padding():
    model = vit_jax.api.from_state(TINY, random_state(TINY, 0), param_dtype="float32")
    x = images(TINY, batch=4).astype(np.float32)
    batch = {"image": x, "label": np.arange(4), "mask": np.array([1.0, 1, 0, 1])}
    features, labels = extract(model, [batch, batch])
    assert labels.tolist() == [0, 1, 3] * 2
    assert relative_gap(model.classify(features[:3]), np.asarray(model(x))[[0, 1, 3]]) < 1e-5


@pytest.fixture
def saved(tmp_path):
    state = {n: a.astype(np.float32) for n, a in random_state(TINY, 0).items()}
    vit_jax.save(vit_jax.api.from_state(TINY, state), tmp_path / "model")
    return tmp_path / "model"


def test_the_probe_command_judges_a_checkpoint_on_a_folder(saved, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, level in (("dark", 40), ("light", 200)):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for i in range(6):
                pixels = np.clip(rng.normal(level, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / label / f"{i}.png")
    data = ["--data", str(tmp_path / "data"), "--k", "3", "--batch-size", "5"]
    assert probe.main([str(saved), *data]) == 0
    out = capsys.readouterr().out
    assert (
        "3 nearest neighbours: test accuracy 100" in out
        and "linear probe: test accuracy 100" in out
    )
    assert probe.main([str(tmp_path / "none"), *data]) == 2
    assert "does not exist" in capsys.readouterr().err


QK_NORM = dataclasses.replace(TINY, qk_norm=True, num_registers=2)


@pytest.mark.parametrize("config", [TINY, QK_NORM], ids=["plain", "qk_norm"])
def test_attention_maps_are_the_weights_that_the_blocks_use(x64, config):
    model = vit_jax.api.from_state(config, random_state(config, 0))
    x = images(config, 24, 40)
    tokens = model.blocks[0].norm1(model.norm_pre(model.embed(x)))
    weights = attention_weights(model.blocks[0].attn, tokens)
    b, t, d = tokens.shape
    value = model.blocks[0].attn.qkv(tokens).reshape(b, t, 3, 2, -1)[:, :, 2]
    mixed = np.einsum("bhts,bshk->bthk", weights, value).reshape(b, t, d)
    attn = model.blocks[0].attn
    assert relative_gap(attn.proj(mixed), attn(tokens)) < 1e-12
    maps = attention_maps(model, x)
    assert len(maps) == 2 and relative_gap(maps[0], weights) == 0
    flow = rollout(maps)
    np.testing.assert_allclose(np.asarray(flow).sum(-1), 1, rtol=1e-12)
    first, second = (np.asarray(m).mean(1) / 2 + np.eye(t) / 2 for m in maps)
    np.testing.assert_allclose(flow, second @ first, rtol=1e-12)
    seen = of_patches(maps[1], model, (3, 5))
    assert seen.shape == (3, 2, 3, 5)
    assert seen[1, 0, 2, 3] == maps[1][1, 0, 0, t - 15 + 13]


def test_filters_are_the_main_directions_of_the_patch_embedding():
    config = TINY.replace(patch_size=4)
    model = vit_jax.api.from_state(config, random_state(config, 0), param_dtype="float32")
    table = np.asarray(model.patch_embed.proj.kernel[...]).reshape(48, 32).astype(np.float64)
    found = filters(model, 3).reshape(3, -1)
    values, vectors = np.linalg.eigh(np.cov(table))
    np.testing.assert_allclose(np.abs(found @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-6)


def test_the_pictures_of_a_checkpoint_are_written(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo, out = tmp_path / "photo.jpg", tmp_path / "out.png"
    Image.effect_noise((50, 40), 80).convert("RGB").save(photo)
    assert visualize.main([str(saved), "--image", str(photo), "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 600 and picture.height > 900
        colours = picture.convert("RGB").getcolors(1 << 24) or []
    assert len(colours) > 1000
    assert visualize.main([str(saved), "--image", str(photo), "--layer", "2"]) == 2
    assert "there is no block 2: the model has blocks 0 to 1" in capsys.readouterr().err
    assert visualize.main([str(saved)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["filters.png", "out.png"]


@pytest.mark.parametrize("text", ["rollout over 12", "components of 384", "class token"])
def test_words_on_a_picture_stand_apart(text):
    picture = Image.new("L", (400, 24), "white")
    visualize.write(ImageDraw.Draw(picture), (4, 4), text, fill="black")
    inked = np.flatnonzero((np.asarray(picture) < 128).any(axis=0))
    gaps = np.sort(np.diff(inked) - 1)  # empty columns between strokes
    words = text.count(" ")
    assert gaps[-words] >= 5 and gaps[-words - 1] <= 3
