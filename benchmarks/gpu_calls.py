"""Lists cuDNN's attention calls in the training programs for NVIDIA GPUs, on any machine.

    python -m benchmarks.gpu_calls                          models of odd and even token counts
    python -m benchmarks.gpu_calls --models B/16 --dtype float16 --attention xla

Programs are lowered, not compiled, so neither a GPU nor CUDA is needed. Exit codes: 0 every block
has a call in the forward and one in the backward pass, 1 one has not.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

import vit_jax
from vit_jax.functional import merge
from vit_jax.parallel import abstract_state
from vit_jax.sharding import AXES
from vit_jax.training import costs
from vit_spec import OptimConfig, ViTConfig, get

MODELS = ("Ti/16", "S/16", "B/16", "B/32", "L/14", "deit_tiny_distilled_patch16_224",
          "vit_small_patch14_dinov2", "vit_base_patch16_siglip_224")  # fmt: skip
FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
KIND = "NVIDIA H100 80GB HBM3"


@contextmanager
def on_gpu() -> Iterator[None]:
    """What is traced within is for a GPU, and JAX takes cuDNN for installed."""
    from jax._src.cudnn import fused_attention_stablehlo

    mesh = AbstractMesh((1, 1, 1), AXES, (AxisType.Auto,) * 3,
                        abstract_device=AbstractDevice(KIND, None, "gpu"))  # fmt: skip
    asked = mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    with asked, jax.sharding.use_abstract_mesh(mesh):
        yield


def lowered_step(config: ViTConfig, *, batch: int = 2, **options: Any) -> str:
    """The program for CUDA of a model's loss and gradient, of options as in `vit_jax.create`."""
    config = config if config.num_classes else config.replace(num_classes=10)
    optim = OptimConfig()
    structure, state = abstract_state(lambda: vit_jax.create(config, **options), optim)
    images = jax.ShapeDtypeStruct((batch, *config.image_shape, config.in_channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def loss(params: Any, images: Any, labels: Any) -> Any:
        return costs(merge(structure, params), images, labels, None, None, optim)[1].mean()

    with on_gpu():
        traced = jax.jit(jax.value_and_grad(loss)).trace(state.params, images, labels)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def attention_calls(program: str) -> Counter[str]:
    """How many calls of cuDNN's attention a program holds, by target."""
    return Counter(re.findall(r"@(__cudnn\$fmha\w+)", program))


def main(arguments: list[str] | None = None) -> int:
    """Prints a row a model; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_calls", description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--attention", choices=("auto", "cudnn", "xla"), default="auto")
    options = parser.parse_args(arguments)
    print("| model | tokens | blocks | forward | backward | mask |\n|---|---:|---:|---:|---:|---|")
    complete = True
    for name in options.models:
        config = get(name)
        how = {"dtype": options.dtype, "attention": options.attention}
        program = lowered_step(config, **how)
        calls, tokens = attention_calls(program), config.grid[0] * config.grid[1]
        counts = calls[FORWARD], calls[BACKWARD]
        masked = "padding" if '"PADDING"' in program.replace("\\22", '"') else "none"
        row = (name, tokens + config.num_prefix_tokens, config.depth, *counts, masked)
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        complete &= counts == (config.depth, config.depth)
    return int(not complete)


if __name__ == "__main__":
    sys.exit(main())
