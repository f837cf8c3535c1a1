"""What is written otherwise for CPUs computes the same, and spares the copies that it is for."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import attention, layers, mlp
from vit_jax.attention import attend
from vit_jax.options import Options
from vit_jax.sharding import make_mesh, platform
from vit_jax.vit import ViT
from vit_spec import ViTConfig

CONFIG = ViTConfig(image_size=(16, 24), patch_size=(4, 8), width=12, depth=1, num_heads=2)
RNG = np.random.default_rng(0)


def gradients(model, x):
    structure, state = nnx.split(model)

    def cost(state, x):
        return (nnx.merge(structure, state)(x) ** 3).sum()

    return jax.tree.leaves(jax.grad(cost, argnums=(0, 1))(state, x))


LAYERS = {
    "linear": lambda options, rngs: layers.linear(options, 12, 36, rngs=rngs),
    "patches": lambda options, rngs: layers.PatchEmbed(CONFIG, options, rngs=rngs),
    "attention": lambda options, rngs: layers.Attention(CONFIG, options, rngs=rngs),
    "mlp": lambda options, rngs: mlp.Mlp(CONFIG, options, rngs=rngs),
    "swiglu": lambda options, rngs: mlp.SwiGLU(CONFIG, options, rngs=rngs),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_cpus_compute_what_other_devices_do(layer, monkeypatch):
    with jax.enable_x64(True):
        model = LAYERS[layer](Options(param_dtype=jnp.float64), nnx.Rngs(0))
        x = jnp.asarray(RNG.standard_normal((2, 16, 24, 3) if layer == "patches" else (2, 5, 12)))
        tangent = jnp.asarray(RNG.standard_normal(x.shape))
        ours = [model(x), *gradients(model, x), jax.jvp(model, (x,), (tangent,))[1]]
        monkeypatch.setattr(layers, "platform", lambda: "tpu")
        monkeypatch.setattr(attention, "platform", lambda: "tpu")
        theirs = [model(x), *gradients(model, x), jax.jvp(model, (x,), (tangent,))[1]]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14 * max(1, np.abs(b).max()))


def test_the_gradient_of_a_kernel_copies_no_tokens():
    model = layers.linear(Options(), 8, 16, rngs=nnx.Rngs(0))
    text = (
        jax.jit(gradients, static_argnums=0).lower(model, jnp.ones((3, 5, 8))).compile().as_text()
    )
    assert "[15," in text  # all tokens as one matrix
    assert "[16,3,5]" not in text and "[8,3,5]" not in text


def compiled_gradients(layer):
    model = LAYERS[layer](Options(), nnx.Rngs(0))
    x = jnp.ones((3, 5, 12))
    return jax.jit(gradients, static_argnums=0).lower(model, x).compile().as_text()


def test_the_gradients_of_queries_keys_and_values_are_joined_once():
    assert compiled_gradients("attention").count(" concatenate(") == 1


def test_an_mlp_keeps_its_product_and_not_its_activation():
    assert compiled_gradients("mlp").count(" erf(") == 2  # forward, and again for the gradient


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_an_activation_is_computed_at_most_twice(remat):
    model = ViT(CONFIG, Options(remat=remat), rngs=nnx.Rngs(0))
    x = jnp.ones((2, *CONFIG.image_shape, 3))
    text = jax.jit(gradients, static_argnums=0).lower(model, x).compile().as_text()
    assert text.count(" erf(") == 2 * CONFIG.depth


def test_only_what_is_differentiated_is_held_apart():
    model = LAYERS["attention"](Options(), nnx.Rngs(0))
    x = jnp.ones((2, 5, 12))
    assert "optimization_barrier" not in jax.jit(model).lower(x).as_text()
    text = jax.jit(gradients, static_argnums=0).lower(model, x).as_text()
    assert text.count("optimization_barrier") >= 5  # sum, result, their gradients; of q, k and v


def ours(q, k, v):
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(attend(q, k, v, kernel="xla"), 1, 2)


def test_attention_is_that_of_jax_and_stands_large_logits():
    q, k, v = jnp.asarray(RNG.standard_normal((3, 2, 7, 2, 4)), jnp.float32)
    for scale in (1, 1e4):
        wanted = jax.nn.dot_product_attention(scale * q, k, v)
        np.testing.assert_allclose(ours(scale * q, k, v), wanted, rtol=0, atol=2e-6)

    def gradient(attention):
        return jax.grad(lambda *x: (attention(*x) ** 2).sum(), (0, 1, 2))(q, k, v)

    for a, b in zip(gradient(ours), gradient(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=4e-6)


def test_the_platform_is_that_of_the_mesh():
    assert platform() == jax.default_backend() == "cpu"
    with jax.sharding.use_abstract_mesh(make_mesh().abstract_mesh):
        assert platform() == "cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
@pytest.mark.parametrize(("batch_size", "kept"), [(32, True), (1, False)])
def test_a_large_step_does_not_fault_its_memory_in_again(batch_size, kept):
    program = (
        "from vit_jax.host_memory import keep_freed_memory as keep\n"
        "from vit_spec import get\n"
        f"keep(get('Ti/16'), {batch_size})\n"
        "import ctypes, resource, threading\n"
        "libc, found = ctypes.CDLL(None), []\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(3_000_000_000)))\n"
        "    assert block, 'no 3 GB of addresses: is there a memory limit?'\n"
        "    libc.memset(block, 1, ctypes.c_size_t(200_000_000)); libc.free(block)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "def use():\n"
        "    faults(); found.append(faults())\n"
        "thread = threading.Thread(target=use); thread.start(); thread.join(); use()\n"
        "print(max(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) < 1000) == kept  # of 48,829 pages of 4 KiB
