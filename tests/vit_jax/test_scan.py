"""The size of a scanned model's program does not depend on its depth."""

import jax
import jax.numpy as jnp

import vit_jax
from tests.jaxprs import equations
from tests.twin_models import TINY
from vit_jax.functional import merge
from vit_jax.masks import sample_masks
from vit_jax.parallel import abstract_state
from vit_jax.training import costs
from vit_spec import OptimConfig


def size(depth, **options):
    """Equations of the loss and its gradient, with dropout and stochastic depth."""
    config = TINY.replace(depth=depth, dropout=0.1, drop_path=0.1)
    optim = OptimConfig()
    structure, state = abstract_state(lambda: vit_jax.create(config, **options), optim)
    images = jnp.zeros((2, *config.image_shape, 3))
    grid = config.grid_of(*config.image_shape)
    masks = sample_masks(config, 2, key=jax.random.key(0), grid=grid)

    def loss(params):
        model = merge(structure, params)
        return costs(model, images, jnp.zeros(2, jnp.int32), masks, None, optim)[1].mean()

    return sum(1 for _ in equations(jax.make_jaxpr(jax.grad(loss))(state.params).jaxpr))


def test_a_scanned_model_is_as_large_at_any_depth_and_an_unrolled_one_grows():
    one, two, three = (size(depth) for depth in (1, 2, 3))
    assert three - two == two - one > 200
    assert size(2, scan=True) == size(4, scan=True) < two
    assert size(2, scan=True, remat="full") == size(3, scan=True, remat="full")
