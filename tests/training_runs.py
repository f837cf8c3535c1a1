"""Short float64 training runs in either framework, with every setting of the optimizer in use."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

import vit_jax
import vit_torch
from parity.inputs import batches, random_state
from tests.twin_models import TINY
from vit_jax.functional import split
from vit_jax.training import init_state, make_train_step
from vit_spec import Header, OptimConfig, TrainingState
from vit_torch.training import init_ema, make_optimizer, train_step
from vit_torch.training_state import get_training

MODEL = TINY.replace(dropout=0.1, drop_path=0.3)
OPTIM = OptimConfig(
    lr=1e-3, end_lr=1e-5, warmup_steps=4, total_steps=20, clip_norm=1.0, label_smoothing=0.1,
    ema_decay=0.9, eps=1e-5,  # a small one amplifies the rounding of gradients that are zero
)  # fmt: skip
BATCHES = list(batches(MODEL, 4, OPTIM.total_steps, 0))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def jax_step(structure, optim, state, images, labels, masks):
    return make_train_step(structure, optim)(state, images, labels, masks)


def run_jax(run, some):
    """A step for each of some batches from `(structure, state, optim)`; losses and the run."""
    structure, state, optim = run
    losses = []
    for batch in some:
        masks = {site: jnp.asarray(mask) for site, mask in batch.masks.items()}
        images, labels = jnp.asarray(batch.images), jnp.asarray(batch.labels)
        state, metrics = jax_step(structure, optim, state, images, labels, masks)
        losses.append(float(metrics["loss"]))
    return losses, (structure, state, optim)


def run_torch(run, some):
    """The same from `(model, optimizer, optim, step, ema)`."""
    model, optimizer, optim, start, ema = run
    losses = []
    for step, batch in enumerate(some, start):
        masks = {site: torch.from_numpy(mask) for site, mask in batch.masks.items()}
        images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
        labels = torch.from_numpy(batch.labels)
        metrics = train_step(
            model, optimizer, images, labels, masks, config=optim, step=step, ema=ema
        )
        losses.append(float(metrics["loss"]))
    return losses, (model, optimizer, optim, start + len(losses), ema)


def new_jax(optim=OPTIM, dtype="float64"):
    weights = {name: a.astype(np.dtype(dtype)) for name, a in random_state(MODEL, 0).items()}
    structure, params = split(vit_jax.api.from_state(MODEL, weights))
    return structure, init_state(params, optim), optim


def new_torch(optim=OPTIM, dtype="float64"):
    weights = {name: a.astype(np.dtype(dtype)) for name, a in random_state(MODEL, 0).items()}
    model = vit_torch.api.from_state(MODEL, weights)
    return model, make_optimizer(model, optim), optim, 0, init_ema(model, optim)


def save_jax(run, path, **header):
    structure, state, optim = run
    vit_jax.save_training(structure, path, state, optim, **header)


def save_torch(run, path, **header):
    model, optimizer, optim, step, ema = run
    vit_torch.save_training(model, path, optimizer, optim, step=step, ema=ema, **header)


def torch_state(run):
    model, optimizer, optim, step, ema = run
    return get_training(model, optimizer, optim, step=step, ema=ema)


def everything(state: TrainingState):
    return {f"param.{name}": array for name, array in state.params.items()} | state.tensors()


def assert_same_bits(ours: TrainingState, theirs: TrainingState):
    assert (ours.step, ours.optim, ours.header) == (theirs.step, theirs.optim, theirs.header)
    a, b = everything(ours), everything(theirs)
    assert a.keys() == b.keys()
    assert all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


def random_training(dtype="float32", optim=OPTIM, step=7) -> TrainingState:
    """Distinct random tensors everywhere."""
    trees = [
        {name: array.astype(np.dtype(dtype)) for name, array in random_state(MODEL, seed).items()}
        for seed in range(4)
    ]
    params, m, v, ema = trees
    return TrainingState(
        header=Header(config=MODEL), optim=optim, step=step, params=params, m=m, v=v,
        ema=None if optim.ema_decay is None else ema,
    )  # fmt: skip
