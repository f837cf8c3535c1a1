"""Orbax: steps of runs as training writes them, and what Orbax itself restores of ours."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch

import parity
import vit_jax
from parity.inputs import random_state
from tests.parity.format_oracles import gap_of_ours, images
from tests.twin_models import TINY, relative_gap
from vit_jax.api import get_state
from vit_jax.checkpoints import Checkpoints
from vit_jax.training import init_state
from vit_spec import Header, OptimConfig

X = images()
VARIANTS = {
    "parameters": (TINY.replace(depth=1), None),
    "moving_average": (
        TINY.replace(num_registers=2, layer_scale=0.1, mlp="swiglu", activation="silu"), 0.5
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "decay"), VARIANTS.values(), ids=VARIANTS)
def test_orbax(config, decay, tmp_path, x64, matrix):
    model = vit_jax.api.from_state(config, random_state(config, 0))
    given = get_state(model)
    state = init_state(given, OptimConfig(ema_decay=decay))
    checkpoints = Checkpoints(tmp_path / "run", keep=1, best=False)
    checkpoints.save(3, state, {"header": json.loads(Header(config=config).to_json())})
    checkpoints.wait()
    checkpoints.close()
    step = tmp_path / "run" / "3"
    part = "params" if decay is None else "ema"
    restored = ocp.StandardCheckpointer().restore(step / "state")[part]
    expected = outputs(model, restored)
    ours = parity.convert(step, tmp_path / "ours")
    inward = gap_of_ours(ours, X, torch.tensor(expected))
    back = parity.convert(ours, tmp_path / "back", target="orbax")
    target = {"params": jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)}
    again = ocp.StandardCheckpointer().restore(back / "state", target)["params"]
    outward = relative_gap(outputs(model, again), expected)
    matrix("orbax", "vit_jax.ViT", "Orbax's restore", inward=inward, outward=outward)
    assert again.keys() == restored.keys() == given.keys()
    for name, array in again.items():
        assert array.dtype == np.float64, name
        assert array.tobytes() == restored[name].tobytes() == np.asarray(given[name]).tobytes()


def outputs(model, state):
    """What the JAX twin computes with weights that Orbax restored."""
    vit_jax.api.set_state(model, state)
    return np.asarray(model(X.permute(0, 2, 3, 1).numpy()))
