"""`to_jax` and `to_torch` carry every bit, in every dtype."""

import jax
import numpy as np
import pytest

import parity
import vit_jax
from parity.inputs import random_state
from parity.twins import weights
from vit_torch.api import from_state


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_round_trip_keeps_every_bit(tiny, dtype):
    state = {name: a.astype(np.dtype(dtype)) for name, a in random_state(tiny, 0).items()}
    with jax.enable_x64(True):
        there = parity.to_jax(from_state(tiny, state))
        back = parity.to_torch(there)
    found = weights(back)
    assert {a.dtype.name for a in found.values()} == {dtype}
    assert all(found[name].tobytes() == array.tobytes() for name, array in state.items())


def test_float64_without_x64_mode_says_what_to_do(tiny):
    with pytest.raises(ValueError, match=r"with jax.enable_x64\(True\)"):
        parity.to_jax(from_state(tiny, random_state(tiny, 0)))


def test_options_reach_the_jax_twin(pair):
    model = parity.to_jax(pair[1], remat="full", scan=True)
    assert (model.options.remat, model.options.scan) == ("full", True)
    assert isinstance(model, vit_jax.ViT)
