"""Save and load a training run between two steps. Twin: `vit_torch/training_state.py`.

structure, state, optim = load_training("run")
step = jax.jit(make_train_step(structure, optim), donate_argnums=0)
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.api import from_state
from vit_jax.functional import Params, merge, split
from vit_jax.optimizers import make_optimizer, moment_at, trainable
from vit_jax.training import TrainState, moments
from vit_spec import Header, OptimConfig, Preprocessing, TrainingState, training_state
from vit_spec.layout import State, to_jax_layout, to_torch_layout, torch_name


def save_training(
    structure: Any,
    path: str | os.PathLike[str],
    state: TrainState,
    optim: OptimConfig,
    *,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> None:
    """Writes the directory from which both twins train on (see `vit_spec.training_state`).

    `structure` is that of `split`. Raises `ValueError` if `state` is not one of `optim`.
    """
    training = get_training(structure, state, optim, preprocessing=preprocessing, labels=labels)
    training_state.write(path, training)


def load_training(
    path: str | os.PathLike[str], **options: Any
) -> tuple[Any, TrainState, OptimConfig]:
    """Structure, state and optimizer settings of a directory; options as in `vit_jax.Options`.

    A float64 state needs JAX's x64 mode. Raises `FileNotFoundError`, or `ValueError` naming every
    missing, extra and wrong-shaped tensor.
    """
    return from_training(training_state.read(path), **options)


def get_training(
    structure: Any,
    state: TrainState,
    optim: OptimConfig,
    *,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
) -> TrainingState:
    """A state as NumPy arrays in PyTorch's names and layout.

    Raises `ValueError` if the optimizer's state is not one of `optim`, or counts other steps.
    """
    _check(state, optim)
    header = Header(
        config=merge(structure, state.params).config,
        preprocessing=preprocessing or Preprocessing(),
        labels=labels,
    )
    m, v = moments(state)
    return TrainingState(
        header=header,
        optim=optim,
        step=int(state.step),
        params=_law(state.params),
        m=_law(m),
        v=_law(v),
        ema=None if state.ema is None else _law(state.ema),
    )


def from_training(training: TrainingState, **options: Any) -> tuple[Any, TrainState, OptimConfig]:
    """The inverse of `get_training`: copies, in the dtype of the parameters."""
    structure, params = split(from_state(training.header.config, training.params, **options))

    def placed(tree: State) -> Params:
        names = [(n, p.ndim) for n, p in params.items() if torch_name(n, p.ndim)[0] in tree]
        arrays = to_jax_layout(tree, names)
        return {name: jnp.array(a, params[name].dtype) for name, a in arrays.items()}

    trees = {"m": placed(training.m), "v": placed(training.v)}

    def filled(path: Any, leaf: Any) -> Any:  # a buffer for each leaf: a step donates them all
        kind, name = moment_at(path)
        if kind:
            return trees[kind][name]
        is_count = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.full(leaf.shape, training.step, leaf.dtype) if is_count else jnp.array(leaf)

    init = make_optimizer(training.optim).init
    new = init(trainable(params, training.optim))
    state = TrainState(
        step=jnp.asarray(training.step, jnp.int32),
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(filled, new),
        ema=None if training.ema is None else placed(training.ema),
    )
    return structure, state, training.optim


def _check(state: TrainState, optim: OptimConfig) -> None:
    """Raises `ValueError` unless `make_optimizer(optim)` can go on from `state`."""
    expected = jax.eval_shape(make_optimizer(optim).init, trainable(state.params, optim))
    if jax.tree.structure(expected) != jax.tree.structure(state.opt_state):
        raise ValueError(
            "the optimizer's state is not one of make_optimizer(optim): give the settings that "
            "it was made with (optimizer, clip_norm and freeze change its form)"
        )
    counts = {int(count) for _, count in optax.tree.get_all_with_path(state.opt_state, "count")}
    if counts != {int(state.step)}:
        raise ValueError(
            f"step {int(state.step)} is not what the optimizer counts, "
            f"{', '.join(map(str, sorted(counts)))}: give the state as make_train_step returned it"
        )


def _law(params: Any) -> State:
    return to_torch_layout({name: np.asarray(value) for name, value in params.items()})
