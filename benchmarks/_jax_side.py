"""What a worker does in JAX: the training step of `train.py`, the forward pass, compilation."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vit_jax
from benchmarks._cases import Case
from benchmarks._work import Work
from vit_jax.functional import merge, split
from vit_jax.host_memory import keep_freed_memory
from vit_jax.nonfinite import jit_guarded_step
from vit_jax.parallel import new_key, new_state, to_devices
from vit_jax.sharding import make_mesh
from vit_jax.stacking import Stacking
from vit_spec import OptimConfig

OPTIM = OptimConfig(warmup_steps=100, total_steps=100_000)


def train(case: Case, options: dict[str, Any], device: str) -> Work:
    """The step that `train.py` runs, on one device: float32 parameters, products in `case.dtype`.

    Its batch lies on the device. Metrics are computed and not read.
    """
    step, arguments, _ = _training(case, options)
    state, skipped, batch, key = arguments

    def run(steps: int) -> None:
        nonlocal state, skipped
        for _ in range(steps):
            state, skipped, _ = step(state, skipped, batch, key)
        jax.block_until_ready((state, skipped))

    del arguments
    return Work(run=run, amount=case.batch_size, peak=_peak(device))


def infer(case: Case, options: dict[str, Any], device: str) -> Work:
    """Logits of a batch that lies on the device; parameters in `case.dtype`.

    A batch of one waits for each result, as one who wants latency does.
    """
    keep_freed_memory(case.config, case.batch_size)
    chosen: dict[str, Any] = {"param_dtype": case.dtype} | options
    model = vit_jax.create(case.config, **chosen)
    structure, params = split(model)
    forward = jax.jit(lambda params, images: merge(structure, params)(images))
    images = jax.device_put(jnp.asarray(_images(case), case.dtype))

    def run(steps: int) -> None:
        logits = None
        for _ in range(steps):
            logits = forward(params, images)
            if case.batch_size == 1:
                logits.block_until_ready()
        jax.block_until_ready(logits)

    return Work(run=run, amount=case.batch_size, peak=_peak(device))


def compile(case: Case, options: dict[str, Any], device: str) -> Work:
    """The first training step part by part; the facts are seconds."""
    step, arguments, start = _training(case, options)
    times = {"init": time.perf_counter() - start}

    def part(name: str, run: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        found = run()
        times[name] = time.perf_counter() - begin
        return found

    traced = part("trace", lambda: step.trace(*arguments))
    lowered = part("lower", lambda: traced.lower())
    compiled = part("compile", lambda: lowered.compile())
    part("run", lambda: jax.block_until_ready(compiled(*arguments)))
    times["first"] = sum(times[name] for name in ("trace", "lower", "compile", "run"))
    return Work(run=_refused, facts={"seconds": times})


def _training(case: Case, options: dict[str, Any]) -> tuple[Any, tuple[Any, ...], float]:
    """The compiled step, what it takes, and when the state began to be made."""
    keep_freed_memory(case.config, case.batch_size)  # as train.py does, and as early
    mesh = make_mesh(devices=jax.devices()[:1])
    chosen: dict[str, Any] = {"dtype": case.dtype} | options
    begin = time.perf_counter()
    structure, state = new_state(lambda: vit_jax.create(case.config, **chosen), OPTIM, mesh)
    blocks = Stacking(structure, state.params, OPTIM)
    state = jax.block_until_ready(blocks.stack(state))
    labels = np.arange(case.batch_size, dtype=np.int32) % case.config.num_classes
    batch = to_devices({"image": _images(case), "label": labels}, mesh)
    step = jit_guarded_step(blocks.structure, OPTIM, state, mesh, limit=0)
    return step, (state, jnp.int32(0), batch, new_key(0, mesh)), begin


def _images(case: Case) -> np.ndarray:
    shape = (case.batch_size, *case.config.image_shape, case.config.in_channels)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _peak(device: str) -> Callable[[Callable[[], None]], dict[str, Any]] | None:
    """Of the process so far, its first step and XLA's tuning included: JAX cannot forget a peak."""
    if device == "cpu":
        return None

    def measured(run: Callable[[], None]) -> dict[str, Any]:
        run()
        found = jax.devices()[0].memory_stats() or {}
        return {"kind": "device", "peak": found.get("peak_bytes_in_use"), "since_start": True}

    return measured


def _refused(steps: int) -> None:
    raise ValueError("what compiles runs once, when it is prepared")
