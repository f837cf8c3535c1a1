"""Attention kernels: cuDNN's calls in programs for NVIDIA GPUs, which need no GPU to be lowered."""

import re
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from benchmarks.gpu_calls import BACKWARD, FORWARD, attention_calls, lowered_step, on_gpu
from tests.twin_models import TINY
from vit_jax import sharding
from vit_jax.attention import attend, by_tokens, check_kernel
from vit_jax.sharding import make_mesh
from vit_spec import get

HALF = (jnp.float16, jnp.bfloat16)


def lowered_attention(tokens, keys, dtype, kernel="cudnn", channels=64):
    q, k, v = (jax.ShapeDtypeStruct((2, 3, n, channels), dtype) for n in (tokens, keys, keys))

    def loss(q, k, v):
        return attend(q, k, v, kernel=kernel).astype(jnp.float32).sum()

    with on_gpu():
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, v)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("kernel", ["auto", "cudnn"])
@pytest.mark.parametrize("dtype", HALF, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("tokens", "keys"), [(196, 196), (197, 197), (1, 50), (50, 7)], ids=str)
def test_forward_and_backward_are_cudnns_for_any_number_of_tokens(tokens, keys, dtype, kernel):
    program = lowered_attention(tokens, keys, dtype, kernel)
    assert attention_calls(program) == {FORWARD: 1, BACKWARD: 1}
    padded = rf'"dimensions": \["2", "3", "{tokens + tokens % 2}", "{keys + keys % 2}"\]'
    text = program.replace("\\22", '"')
    assert re.search(padded, text)
    assert ('"PADDING"' in text) == bool(tokens % 2 or keys % 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_types_are_xlas_by_themselves_and_an_error_if_cudnn_is_asked_for(dtype):
    with jax.enable_x64(True):
        assert not attention_calls(lowered_attention(8, 8, jnp.dtype(dtype), "auto"))
        message = f"takes dtype 'float16' or 'bfloat16', not '{dtype}'. Use attention 'auto' or"
        with pytest.raises(ValueError, match=message):
            lowered_attention(8, 8, jnp.dtype(dtype), "cudnn")


@pytest.mark.parametrize("channels", [36, 264])
def test_heads_that_cudnn_cannot_take_are_xlas_and_an_error_if_it_is_asked_for(channels):
    assert not attention_calls(lowered_attention(8, 8, jnp.bfloat16, "auto", channels))
    with pytest.raises(ValueError, match=f"cannot run here: The head dim .* got {channels}"):
        lowered_attention(8, 8, jnp.bfloat16, "cudnn", channels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Ti/16", {}),  # 197 tokens
        ("deit_tiny_distilled_patch16_224", {}),  # 198
        ("Ti/16", {"remat": "full"}),
        ("Ti/16", {"remat": "dots", "scan": True}),
        ("Ti/16", {"scan": True}),
    ],
    ids=str,
)
def test_every_block_of_a_half_precision_model_calls_cudnn_by_default(name, options):
    config = get(name).replace(depth=2)
    calls = attention_calls(lowered_step(config, dtype="bfloat16", **options))
    blocks = 1 if options.get("scan") else 2
    again = 2 if options.get("remat") in ("full", "dots") else 1  # the forward pass once more
    assert calls == {FORWARD: blocks * again, BACKWARD: blocks}
    assert not attention_calls(lowered_step(config, dtype="bfloat16", attention="xla", **options))
    assert not attention_calls(lowered_step(config, **options))


@pytest.mark.parametrize(("tokens", "keys"), [(7, 7), (6, 5)], ids=str)
def test_a_token_more_changes_neither_outputs_nor_gradients(tokens, keys):
    draw, sizes = np.random.default_rng(0).normal, (tokens, keys, keys, tokens)
    q, k, v, g = (jnp.asarray(draw(size=(2, 3, n, 8)), "float32") for n in sizes)

    def unpadded(q, k, v):
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
        return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation="xla"), 1, 2)

    @jax.jit
    def outputs_and_gradients(q, k, v, g):
        forms = unpadded, partial(by_tokens, implementation="xla")
        return [(y, pull(g)) for y, pull in (jax.vjp(form, q, k, v) for form in forms)]

    expected, padded = outputs_and_gradients(q, k, v, g)
    for ours, theirs in zip(jax.tree.leaves(padded), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@contextmanager
def machine(monkeypatch, capability, kind="NVIDIA A100-SXM4-40GB"):
    """As if this machine had such a GPU and a model ran on it."""
    gpu = SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(sharding.jax, "devices", lambda *_: [gpu])
    yield gpu


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("7.5", (7, 5)), ("8.0", (8, 0)), ("10.3", (10, 3)), ("gfx942", None), (None, None)],
)
def test_the_compute_capability_is_that_of_the_gpu(monkeypatch, capability, expected):
    kind = "NVIDIA A100-SXM4-40GB" if expected else "AMD Instinct MI300X"
    with monkeypatch.context() as patch, machine(patch, capability, kind):
        assert sharding.platform() == "gpu"
        assert sharding.compute_capability() == expected


def test_a_gpu_that_is_not_here_counts_as_one_that_has_cudnn():
    with on_gpu():
        assert sharding.compute_capability() == (8, 0)


def test_the_default_device_decides_where_there_is_no_mesh():
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA", compute_capability="9.0")
    assert sharding.platform() == "cpu"
    with jax.default_device("cpu"):
        assert sharding.platform() == "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding.jax, "devices", lambda name=None: [gpu])
        assert sharding.platform() == "gpu"
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            assert sharding.platform() == "cpu"


def test_old_gpus_and_missing_libraries_are_xlas_and_an_error_if_cudnn_is_asked_for(monkeypatch):
    x = jnp.ones((1, 1, 2, 8), jnp.bfloat16)
    for capability, problem in (
        ("7.5", "capability 8.0 or more, and this is one of 7.5"),
        ("8.0", "cuDNN is not detected"),  # JAX has no CUDA in the tests' environment
    ):
        with monkeypatch.context() as patch, machine(patch, capability):
            assert attend(x, x, x, kernel="auto").shape == x.shape
            with pytest.raises(ValueError, match=f"'cudnn' cannot run here: .*{problem}"):
                attend(x, x, x, kernel="cudnn")


def test_all_that_is_wrong_with_cudnn_is_said_before_a_run_begins():
    with pytest.raises(ValueError) as caught:
        check_kernel("cudnn", TINY, dtype="float32", mesh=make_mesh(devices=jax.devices()[:1]))
    assert str(caught.value) == (
        "attention 'cudnn' cannot run here: it needs an NVIDIA GPU of compute capability 8.0 or "
        "more, and this is a cpu; it takes dtype 'float16' or 'bfloat16', not 'float32'. Use "
        "attention 'auto' or 'xla'"
    )
    for kernel in ("auto", "xla"):
        check_kernel(kernel, TINY, dtype="float32", mesh=make_mesh(devices=jax.devices()[:1]))


def test_a_model_whose_kernel_cannot_run_says_so_when_it_is_called():
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="this is a cpu"):
        jax.eval_shape(lambda: vit_jax.create(TINY, attention="cudnn")(images))
