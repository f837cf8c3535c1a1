"""One process of `meshes`: a tiny float64 training run on each of some meshes, to a file of arrays.

Takes one argument, JSON: `cases` (name -> mesh numbers), `fields` of the model, `options`, `out`.
"""

import json
import sys

import jax
import numpy as np

import vit_jax
from vit_jax.parallel import jit_train_step, new_key, new_state, to_devices, to_host
from vit_jax.processes import is_first, start_processes
from vit_jax.sharding import batch_share, make_mesh
from vit_jax.stacking import Stacking
from vit_spec import OptimConfig, ViTConfig

BATCH, STEPS = 16, 5
CONFIG = ViTConfig(
    image_size=16, patch_size=8, width=64, depth=2, num_heads=8, mlp_width=64, num_classes=7,
    dropout=0.1, drop_path=0.2,
)  # fmt: skip
OPTIM = OptimConfig(
    lr=1e-2, warmup_steps=1, total_steps=20, label_smoothing=0.1, ema_decay=0.9, eps=1e-5
)


def run(config: ViTConfig, options: dict, numbers: list[int]) -> dict[str, np.ndarray]:
    """Losses and the averaged parameters of a run on one mesh of all devices, or of the first."""
    devices = jax.devices() if np.prod(numbers) > 1 else jax.devices()[:1]
    mesh = make_mesh(*numbers, devices=devices)
    structure, state = new_state(
        lambda: vit_jax.create(config, param_dtype="float64", **options), OPTIM, mesh
    )
    blocks = Stacking(structure, state.params, OPTIM)
    state = blocks.stack(state)
    step = jit_train_step(blocks.structure, OPTIM, state, mesh)
    count, turn, _ = batch_share(BATCH, mesh)
    losses, key = [], new_key(1, mesh)
    for i in range(STEPS):
        rng = np.random.default_rng(i)
        images = rng.normal(size=(BATCH, *config.image_shape, config.in_channels))
        labels = rng.integers(0, config.num_classes, BATCH).astype(np.int32)
        mine = slice(turn * count, (turn + 1) * count)
        state, metrics = step(
            state, to_devices({"image": images[mine], "label": labels[mine]}, mesh), key
        )
        losses.append(np.asarray(metrics["loss"]))
    state = blocks.unstack(state)
    return {"losses": np.array(losses)} | to_host(state.ema or state.params)


def main() -> None:
    """Runs all cases; the first process writes the file."""
    job = json.loads(sys.argv[1])
    start_processes("auto")
    jax.config.update("jax_enable_x64", True)
    arrays = {}
    for name, numbers in job["cases"].items():
        found = run(CONFIG.replace(**job["fields"]), job["options"], numbers)
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    if is_first():
        np.savez(job["out"], **arrays)


if __name__ == "__main__":
    main()
