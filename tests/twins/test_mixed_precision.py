"""What a training step in bfloat16 computes in which type, read from its program."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax
from tests.jaxprs import equations
from tests.twin_models import TINY
from vit_jax.functional import split
from vit_jax.training import init_state, make_train_step
from vit_spec import OptimConfig

OPTIM = OptimConfig(ema_decay=0.9, accumulate=2, label_smoothing=0.1)


@pytest.mark.parametrize(
    "options", [{}, {"remat": "dots"}, {"remat": "full", "scan": True}], ids=str
)
def test_a_step_in_bfloat16_keeps_state_norms_softmax_and_loss_in_float32(options):
    model = vit_jax.create(TINY.replace(qk_norm=True), dtype="bfloat16", **options)
    structure, params = split(model)
    state, step = init_state(params, OPTIM), make_train_step(structure, OPTIM)
    batch = jnp.zeros((4, 32, 32, 3)), jnp.zeros(4, jnp.int32)
    new, metrics = jax.eval_shape(step, state, *batch)
    floats = [x for x in jax.tree.leaves((new, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype.name for x in floats} == {"float32"}
    found = {}
    for equation in equations(jax.make_jaxpr(step)(state, *batch).jaxpr):
        shape = equation.outvars[0].aval
        name = equation.primitive.name
        if name != "exp" or shape.ndim != 3:  # that of GELU's gradient is (b, t, d)
            found.setdefault(name, []).append(shape.dtype.name)
    for name in ("exp", "log", "reduce_max", "rsqrt", "sqrt"):  # softmax, loss, norms, Adam
        assert set(found[name]) == {"float32"}, name
    assert found["dot_general"].count("bfloat16") > found["dot_general"].count("float32")
