"""Several causes that explain the same values are all said; what rules one out leaves the rest."""

import numpy as np
import pytest
import torch

import parity
from parity.diagnosis.merging import merged
from parity.diagnosis.segments import Segment, closest, identify, rivals_of
from parity.diagnosis.weights import of_weights
from parity.findings import Cause

X = torch.linspace(1, 3, 7, dtype=torch.float64)[1:] ** 0.5  # no values of a coarser type
FORMS = {
    "as it is": lambda x: x,
    "twice": lambda x: 2 * x,
    "plus itself": lambda x: x + x,
    "squared": lambda x: x**2,
}


def found(target, *, x=X):
    def predict(settings):
        return FORMS[settings["form"]](x)

    return identify(Segment("place", target, {"form": tuple(FORMS)}, predict), 1e-13)


def test_two_forms_that_fit_equally_well_are_rivals():
    ours, theirs = closest(found(X), found(2 * X))
    assert (ours.settings, theirs.settings) == ({"form": "as it is"}, {"form": "twice"})
    assert rivals_of("form", ours, theirs) == ("form: JAX as it is, PyTorch plus itself",)


def test_a_form_that_fits_on_both_sides_is_no_difference():
    twos = torch.full((6,), 2.0, dtype=torch.float64)  # whose double is their square
    ours, theirs = closest(found(2 * twos + 1e-14, x=twos), found(X**2))
    assert ours.settings == theirs.settings == {"form": "squared"}


def cause(place, form, *rivals):
    texts = tuple(f"form: JAX as it is, PyTorch {rival}" for rival in rivals)
    return Cause(
        place=place, what="form", jax="as it is", torch=form, gap=1.0, residual=0.0,
        places=(place,), rivals=texts,
    )  # fmt: skip


@pytest.mark.parametrize("turn", [1, -1], ids=["ambiguous first", "ambiguous last"])
def test_a_place_that_only_one_cause_explains_decides_for_its_like(turn):
    places = [cause("blocks.0", "twice", "plus itself"), cause("blocks.1", "plus itself")]
    (only,) = merged(places[::turn])
    assert (only.torch, only.rivals) == ("plus itself", ())
    assert set(only.places) == {"blocks.0", "blocks.1"}


def test_what_explains_both_places_is_still_said_with_its_rival():
    (only,) = merged(
        [cause("norm", "twice", "squared", "plus itself"), cause("norm", "twice", "squared")]
    )
    assert only.rivals == ("form: JAX as it is, PyTorch squared",)
    assert "(or, explaining it as well, form: JAX as it is, PyTorch squared)" in str(only)


def test_other_places_keep_their_own_causes():
    assert len(merged([cause("norm", "twice", "squared"), cause("head", "squared")])) == 2


def test_functions_that_two_changes_explain_are_told_both():
    images = parity.Image(np.random.default_rng(0).normal(size=(3, 4, 5, 3)))
    report = parity.compare(lambda x: x.mean((1, 2)), lambda x: x.mean((2, 3)).flip(-1), images)
    assert report.diagnosis is not None
    (only,) = report.diagnosis.causes
    assert "returns the last axis reversed" in str(only)
    assert "takes the channels reversed (RGB/BGR)" in str(only)


TABLE = torch.arange(8.0, dtype=torch.float64).reshape(1, 2, 4)
NORMS = {name: torch.ones(4, dtype=torch.float64) for name in ("a.weight", "b.weight")}


@pytest.mark.parametrize(
    ("jax", "theirs", "texts"),
    [
        (
            {"reg_token": TABLE.flip(1)},
            {"reg_token": TABLE},
            ("rows in reverse order", "rows moved by one", "rows moved back by one"),
        ),
        (
            {**NORMS, "c.weight": NORMS["a.weight"]},
            {**NORMS, "c.weight": torch.arange(4.0, dtype=torch.float64)},
            ("1 everywhere (not loaded", "those of a.weight, or of 1 other like it"),
        ),
    ],
    ids=["two rows", "a constant"],
)
def test_tensors_that_several_mistakes_explain_are_told_all(jax, theirs, texts):
    (only,) = of_weights(jax, theirs, None)
    assert [text in str(only) for text in texts] == [True] * len(texts)


def test_one_rearrangement_has_one_name():
    kernel = torch.randn(
        5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    (only,) = of_weights({"conv.weight": kernel.mT}, {"conv.weight": kernel}, None)
    assert (only.jax, only.rivals) == ("height and width swapped", ())


def test_interleaving_by_channel_does_not_depend_on_the_heads():
    weight = torch.randn(24, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixed = weight.reshape(3, 8, 8).transpose(0, 1).reshape(24, 8)
    (only,) = of_weights({"qkv.weight": mixed}, {"qkv.weight": weight}, None)
    assert (only.jax, only.rivals) == ("interleaved by channel (heads, channels, 3)", ())
