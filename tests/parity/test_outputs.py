"""Outputs of other structures and shapes, and keywords that only one side takes."""

import numpy as np
import pytest
import torch
from flax import nnx

import parity

X = np.random.default_rng(0).normal(size=(3, 4))


class Jax(nnx.Module):
    def __init__(self, change=lambda h: h):
        self.fc, self.change = nnx.Linear(4, 6, rngs=nnx.Rngs(0)), change

    def __call__(self, x):
        return self.change(self.fc(x))


class Torch(torch.nn.Module):
    def __init__(self, change=lambda h: h):
        super().__init__()
        self.fc, self.change = torch.nn.Linear(4, 6), change

    def forward(self, x):
        return self.change(self.fc(x))


def made(jax_change, torch_change):
    theirs = Torch(torch_change)
    return parity.transfer(theirs, Jax(jax_change)), theirs


def both(h):
    return {"logits": h, "mean": h.mean()}


STRUCTURES = {
    "one_of_a_tuple": (
        lambda h: h, lambda h: (h, h.mean()), "torch_output=lambda output: output[0]"
    ),
    "one_of_a_dict": (lambda h: h, both, 'torch_output=lambda output: output["logits"]'),
    "tuple_and_dict": (
        lambda h: (h, h.mean()), both, 'jax_output=lambda output: {"logits": output[0]}'
    ),
    "more_in_jax": (lambda h: {**both(h), "loss": h.max()}, both, "jax_output="),
    "nothing": (lambda h: None, lambda h: h, "JAX no array"),
}  # fmt: skip


@pytest.mark.parametrize("level", ["outputs", "training"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_another_structure_is_one_early_error_with_the_way_out(kind, level):
    ours, theirs, way = STRUCTURES[kind]
    with pytest.raises(ValueError, match="the models return other structures") as caught:
        parity.check(*made(ours, theirs), inputs=X, level=level)
    assert way in str(caught.value)
    with pytest.raises(ValueError, match="the models return other structures"):
        parity.diagnose(*made(ours, theirs), inputs=X)


def test_what_is_compared_is_chosen_for_either_side():
    pair = made(lambda h: (h, h.mean()), both)
    report = parity.check(
        *pair, inputs=X, steps=3,
        jax_output=lambda output: output[0], torch_output=lambda output: output["logits"],
    )  # fmt: skip
    assert report.passed, parity.render(report)
    assert [g.name for g in report.of("outputs")] == ["output"]
    assert report.levels == parity.LEVELS
    compared = parity.compare(lambda x: (x, x), lambda x: x, X, jax_output=lambda output: output[1])
    assert compared.passed


@pytest.mark.parametrize("change", [lambda h: h[:, None, :, None], lambda h: h[:2]])
def test_another_shape_fails_and_nothing_is_pulled_through_it(change):
    report = parity.check(*made(change, lambda h: h), inputs=X, level="training")
    assert not report.passed
    assert report.levels == ("weights", "outputs", "layers")
    assert "nothing beyond layers is compared" in report.notes[-1]


def test_keywords_go_to_the_side_that_takes_them():
    class Sided(Jax):
        def __call__(self, x, *, scale, deterministic):
            assert deterministic is True
            return super().__call__(x) * scale

    class TorchSided(Torch):
        def forward(self, x, keep):
            return super().forward(x) * (2.0 * keep)

    theirs = TorchSided()
    ours = parity.transfer(theirs, Sided())
    options = {
        "jax_kwargs": {"deterministic": True, "scale": np.full(6, 2.0)},
        "torch_kwargs": {"keep": np.ones(6)},
    }
    report = parity.check(ours, theirs, inputs=X, steps=3, **options)
    assert report.passed, parity.render(report)
    assert "input 0" in {g.name for g in report.of("gradients")}
    assert parity.diagnose(ours, theirs, inputs=X, level="layers", **options).location is None


def test_keywords_in_any_order_are_the_same_inputs_on_both_sides():
    def function(params, b, a):
        return b @ params["kernel"] + a

    class Twin(torch.nn.Linear):
        def forward(self, b, a):
            return super().forward(b) + a

    twin = Twin(4, 6, bias=False)
    pair = parity.transfer(twin, (function, {"kernel": np.zeros((4, 6), "float32")}))
    report = parity.check(pair, twin, inputs={"b": X, "a": np.ones((3, 6))}, level="gradients")
    assert report.passed, parity.render(report)


def test_options_of_other_models_are_refused_for_twins(tiny):
    with pytest.raises(ValueError, match="jax_kwargs= is for models that are not this project's"):
        parity.check(tiny, jax_kwargs={"train": False})
