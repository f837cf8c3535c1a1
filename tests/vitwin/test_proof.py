"""What a run ends with: which level, and that it is not repeated."""

from dataclasses import replace

import numpy as np
import pytest

import vit_jax
import vit_torch
from tests.twin_models import TINY
from vit_data.recipe import Recipe
from vit_data.recipes import RECIPES
from vit_jax.run_folder import PROOF
from vit_spec import get
from vitwin import proof
from vitwin.proof import level_of, prove

RECIPE = Recipe(proof="weights")


@pytest.fixture
def run(tmp_path):
    vit_jax.save(vit_jax.create(TINY.replace(num_classes=10, depth=1), seed=1), tmp_path / "run")
    return tmp_path / "run"


class Batches(list):
    """Test batches in memory."""

    def close(self):
        pass


def batches():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, *TINY.image_shape, TINY.in_channels)).astype(np.float32)
    masks = np.ones((2, 6), np.float32)
    masks[1, 4:] = 0
    labels = rng.integers(10, size=(2, 6))
    rows = zip(images, labels, masks, strict=True)
    return Batches({"image": x, "label": y, "mask": m} for x, y, m in rows)


def test_a_proof_that_passed_is_a_certificate_and_is_not_repeated_unasked(run, capsys):
    assert prove(RECIPE, run, batches)
    assert "the same prediction for 10 of 10 images" in capsys.readouterr().out
    assert prove(replace(RECIPE, proof="auto"), run, lambda: pytest.fail("it was repeated"))
    said = f"proven up to weights already: {run / PROOF}; --proof training proves it again"
    assert said in capsys.readouterr().out
    assert prove(RECIPE, run, batches)
    assert "10 of 10" in capsys.readouterr().out
    vit_jax.save(vit_jax.create(TINY.replace(num_classes=10, depth=1), seed=2), run)
    assert proof.proven(run) is None


def test_a_level_below_the_full_one_looks_at_as_many_images_as_its_cost_allows(
    run, capsys, monkeypatch
):
    monkeypatch.setattr(proof, "BUDGET", 0)
    assert prove(RECIPE, run, batches)
    out = capsys.readouterr().out
    assert "the same prediction for 1 of the first 1 image\n" in out
    assert f"this went up to weights; the full proof, which takes longer: parity check {run}" in out


def test_a_proof_that_fails_is_not_kept(run, monkeypatch):
    assert prove(RECIPE, run, batches)
    load = vit_torch.load

    def wrong(path):
        model = load(path)
        model.head.bias.data[3] += 9
        return model

    monkeypatch.setattr("vit_torch.load", wrong)
    assert not prove(RECIPE, run, batches)
    assert not (run / PROOF).exists()


def test_no_proof_says_how_to_get_one(run, capsys):
    assert prove(replace(RECIPE, proof="none"), run, lambda: pytest.fail("it was proven"))
    assert f"was not checked (--proof none): parity check {run} does it" in capsys.readouterr().out


def test_small_models_get_the_full_proof_and_others_their_outputs():
    small = [RECIPES[name]().model for name in ("digits", "fashion_mnist")]
    assert {level_of(config) for config in small} == {"training"}
    assert {level_of(get(name)) for name in ("Ti/16", "S/16", "B/16")} == {"outputs"}
