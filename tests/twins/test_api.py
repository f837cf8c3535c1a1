"""What `create`, `load` and `save` take on both sides, and what they refuse."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from torch import nn

import vit_jax
import vit_torch
from parity.inputs import random_state
from tests.twin_models import TINY, images, relative_gap
from vit_spec.positions import resample_matrices

SIDES = pytest.mark.parametrize("side", [vit_jax, vit_torch], ids=["jax", "torch"])


@pytest.fixture(scope="module", autouse=True)
def programs_compile_quickly(quickly_compiled):
    """They run once."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of TINY with random float32 weights, and the weights."""
    state = {name: np.asarray(x, np.float32) for name, x in random_state(TINY, 0).items()}
    path = tmp_path_factory.mktemp("saved") / "tiny"
    vit_torch.save(vit_torch.api.from_state(TINY, state), path)
    return path, state


def state_of(side, model):
    state = side.api.get_state(model)
    return vit_jax.api.to_torch_layout(state) if side is vit_jax else state


@SIDES
def test_fields_of_the_config_are_keywords_of_create(side):
    model = side.create("Ti/16", depth=1, num_classes=5, image_size=32)
    assert (model.config.num_classes, model.config.depth, model.config.grid) == (5, 1, (2, 2))
    assert state_of(side, model)["head.weight"].shape == (5, 192)


@SIDES
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_clases": 5}, "unknown option or field 'num_clases': did you mean num_classes"),
        ({"seeds": 5, "dept": 1}, "'seeds': did you mean seed?.*'dept': did you mean depth"),
        ({"num_heads": 7}, "width 192 is not a multiple of num_heads 7"),
    ],
    ids=["near", "all", "value"],
)
def test_unknown_and_impossible_keywords_are_named(side, wrong, message, saved):
    with pytest.raises(ValueError, match=message):
        side.create("Ti/16", **wrong)
    with pytest.raises(ValueError, match=message.replace("192", "32")):
        side.load(saved[0], **wrong)


@SIDES
def test_a_checkpoint_is_loaded_with_another_head_and_everything_else_as_it_was(side, saved):
    path, state = saved
    model = side.load(path, num_classes=3, drop_path=0.1)
    found = state_of(side, model)
    assert (model.config.num_classes, model.config.drop_path) == (3, 0.1)
    assert found["head.weight"].shape == (3, 32) and not found["head.weight"].any()
    for name in state.keys() - {"head.weight", "head.bias"}:
        np.testing.assert_array_equal(found[name], state[name])
    kept = state_of(side, side.load(path, num_classes=7))
    np.testing.assert_array_equal(kept["head.weight"], state["head.weight"])


@SIDES
def test_a_checkpoint_is_loaded_at_another_size_with_its_positions_resampled(side, saved):
    path, state = saved
    found = state_of(side, side.load(path, image_size=(24, 40)))["pos_embed"]
    rows, columns = resample_matrices(TINY, (3, 5))
    table = state["pos_embed"][0, 1:].astype(np.float64).reshape(4, 4, -1)
    expected = np.einsum("rh,cw,hwd->rcd", rows, columns, table).reshape(1, 15, -1)
    np.testing.assert_allclose(found[:, 1:], expected, rtol=0, atol=1e-6)


@SIDES
def test_a_trunk_that_the_file_lacks_is_refused(side, saved):
    with pytest.raises(ValueError, match=r"depth 2.* than the one asked for .*depth 3"):
        side.load(saved[0], depth=3)


def test_both_sides_load_the_same_function_with_changes(saved):
    changes = {"num_classes": 0, "image_size": 40, "norm_eps": 1e-3}
    ours, theirs = (side.load(saved[0], **changes) for side in (vit_jax, vit_torch))
    x = images(ours.config, batch=1).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    assert relative_gap(ours(jnp.asarray(x)), expected) < 1e-5


def test_pytorchs_dtype_may_be_a_name(saved):
    assert vit_torch.create(TINY, dtype="bfloat16").cls_token.dtype is torch.bfloat16
    assert vit_torch.load(saved[0], dtype="float64").cls_token.dtype is torch.float64
    assert vit_torch.load(saved[0]).cls_token.dtype is torch.float32
    for wrong in ("bf16", torch.int32):
        with pytest.raises(
            ValueError, match="is none of 'float64', 'float32', 'float16', 'bfloat16'"
        ):
            vit_torch.create(TINY, dtype=wrong)


@SIDES
@pytest.mark.parametrize(
    "address", ["hf://org/name@v2/m.bin", Path("hf://org/name@v2/m.bin")], ids=str
)
def test_an_address_is_answered_with_the_ways_to_load_it(side, address):
    with pytest.raises(ValueError) as caught:
        side.load(address)
    assert "parity convert hf://org/name@v2/m.bin DIR" in str(caught.value)
    assert "parity.read('hf://org/name@v2/m.bin')" in str(caught.value)


def test_a_replaced_head_is_saved_once_the_config_follows_and_the_error_says_how(tmp_path):
    ours, theirs = vit_jax.create(TINY), vit_torch.create(TINY)
    ours.head, theirs.head = nnx.Linear(32, 3, rngs=nnx.Rngs(0)), nn.Linear(32, 3, bias=False)
    message = (
        r"head has 3 outputs .* num_classes 7: first set model.config = model.config.replace\({}\)"
    )
    with pytest.raises(ValueError, match=message.format("num_classes=3")):
        vit_jax.save(ours, tmp_path / "m")
    with pytest.raises(ValueError, match="replace.num_classes=3, head_bias=False."):
        vit_torch.save(theirs, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    ours.config = ours.config.replace(num_classes=3)
    vit_jax.save(ours, tmp_path / "m")
    assert vit_torch.load(tmp_path / "m").head.weight.shape == (3, 32)
    theirs.head = nn.Identity()
    with pytest.raises(ValueError, match="head has 0 outputs .*replace.num_classes=0."):
        vit_torch.save(theirs, tmp_path / "n")


def test_images_on_a_mesh_of_explicit_axes_are_refused():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    model = vit_jax.create(TINY)
    x = jax.device_put(jnp.zeros((2, 32, 32, 3)), NamedSharding(mesh, PartitionSpec("data")))
    with pytest.raises(ValueError, match="mesh of explicit axes.*AxisType.Auto"):
        jax.eval_shape(model, x)
