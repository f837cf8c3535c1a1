"""A training run over a mesh: the state made in its pieces, the compiled step, batches from hosts.

structure, state = new_state(make_model, optim, mesh)
step, key = jit_train_step(structure, optim, state, mesh), new_key(0, mesh)
state, metrics = step(state, to_devices({"image": images, "label": labels}, mesh), key)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax.functional import Params, merge, split
from vit_jax.masks import sample_masks
from vit_jax.sharding import check_model, over_batch, replicated, state_shardings
from vit_jax.training import Metrics, TrainState, init_state, make_train_step
from vit_spec import OptimConfig

Batch = Mapping[str, Array]
PARTS = ("image", "label", "teacher")  # of a batch that a step takes, the last if there is one
Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def abstract_state(make: Callable[[], nnx.Module], optim: OptimConfig) -> tuple[Any, TrainState]:
    """Structure of the model that `make` returns, and shapes of the state before the first step."""
    structure, *_ = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    return structure, jax.eval_shape(lambda: init_state(split(make())[1], optim))


def shardings_of(state: TrainState, mesh: Mesh) -> TrainState:
    """A sharding for each leaf of a state or of its shapes."""
    return state_shardings(state, {name: p.shape for name, p in state.params.items()}, mesh)


def new_state(
    make: Callable[[], nnx.Module],
    optim: OptimConfig,
    mesh: Mesh,
    *,
    start: Mapping[str, np.ndarray] | None = None,
) -> tuple[Any, TrainState]:
    """Structure and first state of the model that `make` returns, its numbers the same on any mesh.

    `start` are other parameters to begin with. Nothing is ever whole on one of many devices. Raises
    `ValueError` if the mesh cannot divide the model.
    """
    if start is None and mesh.size == 1:  # as one program, every block would be compiled
        structure, params = split(make())
        state = init_state(params, optim)
        return structure, jax.device_put(state, shardings_of(state, mesh))
    structure, shapes = abstract_state(make, optim)
    check_model(merge(structure, shapes.params).config, mesh)

    shardings = shardings_of(shapes, mesh)
    if start is None:
        return structure, jax.jit(
            lambda: init_state(split(make())[1], optim), out_shardings=shardings
        )()
    params = place(dict(start), shardings.params)
    return structure, jax.jit(lambda p: init_state(p, optim), out_shardings=shardings)(params)


def new_key(seed: int, mesh: Mesh) -> Array:
    """The key of a run, known to every device."""
    return jax.jit(jax.random.key, out_shardings=replicated(mesh))(seed)


def place(state: Any, shardings: Any) -> Any:
    """A state that every process holds whole, as NumPy arrays, brought to the devices in pieces."""

    def one(value: Any, sharding: Any) -> Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, state, shardings)


def train_step_on(structure: Any, optim: OptimConfig, mesh: Mesh) -> Step:
    """One step `(state, batch, key) -> (state, metrics)` over a mesh, to be compiled.

    `key` is the run's: each step draws its own masks from it.
    """
    update = make_train_step(structure, optim)

    def train_step(state: TrainState, batch: Batch, key: Array) -> Any:
        images, labels = batch["image"], batch["label"]
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            model = merge(structure, state.params)
            config, scan = model.config, model.options.scan
            key = jax.random.fold_in(key, state.step)
            grid = config.grid_of(*images.shape[1:3])  # of this step: images may grow
            masks = sample_masks(config, images.shape[0], key=key, grid=grid, together=scan)
            return update(state, images, labels, masks, teacher=batch.get("teacher"))

    return train_step


def jit_train_step(structure: Any, optim: OptimConfig, state: TrainState, mesh: Mesh) -> Step:
    """The compiled step of `train_step_on`; it donates the state. `state` may be shapes."""
    shardings, whole, shared = shardings_of(state, mesh), replicated(mesh), over_batch(mesh)
    return jax.jit(
        train_step_on(structure, optim, mesh),
        in_shardings=(shardings, shared, whole),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def step_arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch a step takes."""
    return {name: batch[name] for name in PARTS if name in batch}


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Arrays (b, ...) of this process's share of a batch, as arrays of the whole batch.

    What is a `jax.Array` is one already.
    """
    shared = over_batch(mesh)

    def one(x: Any) -> Array:
        whole = isinstance(x, Array)
        return x if whole else jax.make_array_from_process_local_data(shared, x)

    with jax.transfer_guard("allow"):  # to JAX this counts as implicit
        return jax.tree.map(one, batch)


def to_share(x: Any) -> np.ndarray:
    """This process's share of an array of the whole batch; a NumPy array is one already."""
    if not isinstance(x, Array):
        return x
    pieces = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(pieces[start]) for start in sorted(pieces)])


def to_host(params: Params) -> dict[str, Any]:
    """Whole parameters as NumPy arrays, one after the other. All processes have to call it."""
    return {
        name: np.asarray(multihost_utils.process_allgather(value, tiled=True))
        for name, value in params.items()
    }
