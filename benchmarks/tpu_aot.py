"""Compiles the real training step for TPU slices on a machine without a TPU, and looks at it.

    python -m benchmarks.tpu_aot                       every case; or make tpu-aot
    python -m benchmarks.tpu_aot --models S/16 --slices v5e:4x4

Needs libtpu (`pip install 'vitwin[tpu]'`), which compiles for topologies that are not there. Checks
that a chip's memory holds the step and that no collective makes more parameters than one layer has.
Exit codes: 0 all hold, 1 one does not.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu compiles only; a chip of this machine stays free
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # what libtpu would look for
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import vit_jax
from benchmarks._hlo import beyond_a_layer, collectives, largest
from vit_jax.nonfinite import jit_guarded_step
from vit_jax.parallel import abstract_state, shardings_of
from vit_jax.sharding import check_batch_size, check_model, make_mesh, over_batch, replicated
from vit_jax.stacking import Stacking
from vit_spec import OptimConfig, get, parameters

HBM = {"v5e": 16e9, "v5p": 95e9}  # bytes a chip, of Google Cloud's pages on both
BATCH = {16: 1024, 64: 2048, 256: 4096}  # images of a step by chips
SLICES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4")
MODELS = ("S/16", "B/16", "L/16", "H/14", "G/14")
# Mesh numbers by model and chips, and what the backward pass computes again.
MESHES: dict[str, dict[int, tuple[int, int, int]]] = {
    "S/16": {16: (16, 1, 1), 64: (64, 1, 1), 256: (256, 1, 1)},
    "B/16": {16: (16, 1, 1), 64: (64, 1, 1), 256: (256, 1, 1)},
    "L/16": {16: (1, 16, 1), 64: (4, 16, 1), 256: (16, 16, 1)},
    "H/14": {16: (1, 16, 1), 64: (4, 16, 1), 256: (8, 32, 1)},
    "G/14": {16: (1, 16, 1), 64: (1, 16, 4), 256: (4, 64, 1)},
}
REMAT = {"S/16": "dots", "B/16": "dots", "L/16": "full", "H/14": "full", "G/14": "full"}


@dataclass(frozen=True)
class Result:
    """What one compilation showed; sizes in bytes a chip, lengths in numbers.

    `compile_seconds` are of all cores together, so other programs hardly change them.
    """

    model: str
    slice: str
    mesh: tuple[int, int, int]
    batch: int
    remat: str
    compile_seconds: float
    arguments: int
    temporary: int
    total: int
    hbm: float
    collectives: dict[str, int]
    largest: dict[str, int]
    layer: int

    @property
    def problems(self) -> list[str]:
        """What does not hold."""
        found = []
        if self.total > self.hbm:
            found.append(f"{self.total / 1e9:.1f} GB do not fit {self.hbm / 1e9:.0f} GB")
        return found + beyond_a_layer(self.largest, self.layer, self.mesh)


def compile_step(model: str, topology: str) -> tuple[Any, Any, tuple[int, int, int], int]:
    """The step of `train.py` compiled for a slice: bfloat16, AdamW, state donated, scan."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    numbers, batch = MESHES[model][len(devices)], BATCH[len(devices)]
    config, optim = get(model), OptimConfig(warmup_steps=10, total_steps=100)
    mesh = make_mesh(*numbers, devices=devices)
    check_model(config, mesh)
    check_batch_size(batch, mesh)
    options: dict[str, Any] = {"dtype": "bfloat16", "remat": REMAT[model], "scan": True}
    structure, shapes = abstract_state(lambda: vit_jax.create(config, **options), optim)
    blocks = Stacking(structure, shapes.params, optim)
    shapes = blocks.stack(shapes)

    def at(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(at, shapes, shardings_of(shapes, mesh))
    image_shape = (batch, *config.image_shape, config.in_channels)
    images = at(jax.ShapeDtypeStruct(image_shape, jnp.float32), over_batch(mesh))
    labels = at(jax.ShapeDtypeStruct((batch,), jnp.int32), over_batch(mesh))
    key = at(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))
    skipped = at(jax.ShapeDtypeStruct((), jnp.int32), replicated(mesh))
    step: Any = jit_guarded_step(blocks.structure, optim, shapes, mesh, limit=0)
    return (
        step.lower(state, skipped, {"image": images, "label": labels}, key).compile(),
        config,
        numbers,
        batch,
    )


def measure(model: str, topology: str) -> Result:
    """Compiles one case and reads memory and collectives."""
    start = time.process_time()
    compiled, config, numbers, batch = compile_step(model, topology)
    seconds = time.process_time() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    shapes = parameters(config)
    blocks = sum(math.prod(s) for name, s in shapes.items() if name.startswith("blocks.0."))
    others = (math.prod(s) for name, s in shapes.items() if not name.startswith("blocks."))
    return Result(
        model=model,
        slice=topology,
        mesh=numbers,
        batch=batch,
        remat=REMAT[model],
        compile_seconds=round(seconds, 1),
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        total=memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        hbm=HBM[topology.partition(":")[0]],
        collectives=collectives(text),
        largest=largest(text),
        layer=max(blocks, *others),
    )  # fmt: skip


def main() -> int:
    """Compiles the cases one after the other, a line each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu_aot", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--slices", nargs="+", choices=SLICES, default=SLICES)
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    results = []
    print(
        "| model | slice | mesh | batch | remat | state | total | of HBM | CPU time | collectives |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in arguments.models:
        for topology in arguments.slices:
            r = measure(model, topology)
            results.append(r)
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(r.collectives.items()))
            print(
                f"| {model} | {topology} | {' x '.join(map(str, r.mesh))} | {r.batch} | {r.remat} "
                f"| {r.arguments / 1e9:.2f} GB | {r.total / 1e9:.2f} GB | {r.total / r.hbm:.0%} "
                f"| {r.compile_seconds:.0f} s | {kinds} |",
                flush=True,
            )
            for problem in r.problems:
                print(f"{model} on {topology}: {problem}", file=sys.stderr)
            if arguments.json:
                with open(arguments.json, "w", encoding="utf-8") as file:
                    json.dump([dataclasses.asdict(r) for r in results], file, indent=1)
    return int(any(r.problems for r in results))


if __name__ == "__main__":
    sys.exit(main())
