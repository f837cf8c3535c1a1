"""Steps whose loss or gradient is NaN or infinite: they change nothing, and are explained.

The step itself only looks at two numbers. What went wrong is computed again when it has.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from vit_jax.functional import Params, merge
from vit_jax.masks import sample_masks
from vit_jax.parallel import shardings_of, train_step_on
from vit_jax.sharding import over_batch, replicated
from vit_jax.training import Metrics, TrainState, costs, summed
from vit_spec import OptimConfig
from vit_spec.parameters import parameters
from vit_spec.words import some


class NotFiniteError(ArithmeticError):
    """The loss or a gradient became NaN or infinite."""


def guarded(update: Callable[..., tuple[TrainState, Metrics]], limit: int) -> Callable[..., Any]:
    """`(state, skipped, *batch) -> (state, skipped, metrics)` around a training step.

    Where loss or gradient norm is not finite, `skipped` (int32) grows by one and parameters,
    moments and average stay; counts go on, so schedule and data keep in step. Beyond `limit` all
    stays, in later steps too: that state is the one before the step that failed. `metrics` has
    `finite` and `skipped` as well.
    """

    def step(state: TrainState, skipped: Array, *batch: Any) -> tuple[TrainState, Array, Metrics]:
        new, metrics = update(state, *batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        skipped = skipped + jnp.where(finite, 0, 1)
        running = skipped <= limit

        def choose(new: Array, old: Array) -> Array:
            floating = jnp.issubdtype(new.dtype, jnp.floating)
            return jnp.where(finite & running if floating else running, new, old)

        state = jax.tree.map(choose, new, state)
        return state, skipped, metrics | {"finite": finite, "skipped": skipped}

    return step


def jit_guarded_step(
    structure: Any, optim: OptimConfig, state: TrainState, mesh: Mesh, *, limit: int
) -> Callable[..., Any]:
    """The compiled step of a run, `(state, skipped, batch, key) -> (state, skipped, metrics)`: that
    of `train_step_on`, guarded. It donates `state` and `skipped`; `state` may be shapes here."""
    shardings, whole, shared = shardings_of(state, mesh), replicated(mesh), over_batch(mesh)
    return jax.jit(
        guarded(train_step_on(structure, optim, mesh), limit),
        in_shardings=(shardings, whole, shared, whole),
        out_shardings=(shardings, whole, whole),
        donate_argnums=(0, 1),
    )


def explain(
    structure: Any,
    state: TrainState,
    batch: Mapping[str, Array],
    key: Array,
    optim: OptimConfig,
    *,
    bad_images: list[int],
) -> str:
    """What is not finite, in the order of the computation: parameters, images, layers, gradients.

    Takes the batch in the parts that `optim.accumulate` has the step take, so it needs no more
    memory. `key` is the run's. Layers are computed without dropout. `batch` is what the step got;
    `bad_images` are the places of images that are not finite themselves.
    """
    params, parts = state.params, optim.accumulate
    broken = _bad(params, params)
    found = [f"parameters {some(list(map(str, broken)), 5)}"] if broken else []
    found += [f"images of the batch {some(list(map(str, bad_images)), 5)}"] if bad_images else []
    if "teacher" in batch and _bad(batch, ["teacher"]):
        found.append("the teacher's logits")
    order: dict[str, None] = {}

    def forward(params: Params, part: tuple[Array]) -> dict[str, Array]:
        points = dict(merge(structure, params).points(*part))
        order.update(dict.fromkeys(points))  # a compiled function returns them sorted by name
        return {n: jnp.where(jnp.isfinite(x).all(), 0, jnp.nan) for n, x in points.items()}

    marks = jax.jit(lambda params, images: summed(forward, params, (images,), parts))
    layers = _bad(marks(params, batch["image"]), order)
    found += [f"in the forward pass first {layers[0]}"] if layers else []

    def objective(params: Params, part: Any) -> Array:
        return costs(merge(structure, params), *part, optim)[1].mean() / parts

    # What lies on other hosts too must be an argument: a compiled function may not close over it.
    def backward(params: Params, batch: Mapping[str, Array], key: Array, step: Array) -> Params:
        images, config = batch["image"], merge(structure, params).config
        grid, key = config.grid_of(*images.shape[1:3]), jax.random.fold_in(key, step)
        masks = sample_masks(config, len(images), key=key, grid=grid)
        whole = (images, batch["label"], masks, batch.get("teacher"))
        return summed(jax.grad(objective), params, whole, parts)

    gradients = jax.jit(backward)(params, batch, key, state.step)
    grads = _bad(gradients, _module_order(structure, params))
    if grads:  # the last layer's gradient is the first that is computed
        found.append(f"gradients of {len(grads)} of {len(params)} parameters, first {grads[-1]}")
    return "; ".join(found) or "all gradients are finite, but not their norm: they are too large"


def _bad(tree: Mapping[str, Array], order: Iterable[str]) -> list[str]:
    finite = jax.device_get({name: jnp.isfinite(x).all() for name, x in tree.items()})
    return [name for name in order if not finite[name]]


def _module_order(structure: Any, params: Params) -> list[str]:
    """Names of the parameters from the images to the logits."""
    modules = [name.rpartition(".")[0] for name in parameters(merge(structure, params).config)]
    return sorted(params, key=lambda name: modules.index(name.rpartition(".")[0]))
