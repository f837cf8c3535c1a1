"""Reading and writing Orbax without JAX: the same digests and names, and one tensor at a time."""

import numpy as np
import pytest
from flax import nnx

import parity
import vit_jax.digests
from parity.orbax.digests import BLOCK, Digest, digest
from tests.memory_limit import limited
from tests.parity.format_oracles import assert_same_bits
from tests.parity.test_formats_refusals import CLIP, DINOV2, GATED, SIGLIP
from tests.twin_models import TINY
from vit_jax.api import names
from vit_jax.options import Options
from vit_spec import Header, checkpoint
from vit_spec.layout import jax_name
from vit_spec.parameters import parameters

MODELS = {
    "clip": CLIP,
    "dinov2": {**DINOV2, **GATED, "num_registers": 2},
    "siglip": SIGLIP,
    "rest": {"distillation_token": True, "qk_norm": True, "mlp": "swiglu", "activation": "silu"},
    "pooler": {"representation_size": 24},
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), (BLOCK + 7,)], ids=str)
def test_a_digest_is_that_of_jax_whatever_the_pieces(dtype, shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = vit_jax.digests.digests({"a": array})["['a']"]
    pieces = Digest(array.dtype, array.shape)
    for piece in np.array_split(array.reshape(-1), 3):
        pieces.update(np.ascontiguousarray(piece).view(np.uint8))
    assert digest(array) == pieces.text() == expected


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_names_of_jax_are_known_without_it(changes):
    config = TINY.replace(depth=1, **changes)
    model = nnx.eval_shape(lambda: vit_jax.ViT(config, Options(), rngs=nnx.Rngs(0)))
    found = [jax_name(name, len(shape)) for name, shape in parameters(config).items()]
    assert sorted((name, len(axes)) for name, axes in found) == sorted(names(model))
    shapes = {".".join(map(str, path)): x.shape for path, x in nnx.to_flat_state(nnx.state(model))}
    for (name, axes), shape in zip(found, parameters(config).values(), strict=True):
        assert tuple(shape[axis] for axis in axes) == shapes[name]


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    config = TINY.replace(width=512, depth=8, mlp_width=2048, num_heads=8)
    shapes = parameters(config)
    state = {n: np.full(shape, i, np.float32) for i, (n, shape) in enumerate(shapes.items())}
    checkpoint.write(tmp_path / "ours", Header(config=config), state)
    size, largest = (f(a.nbytes for a in state.values()) for f in (sum, max))
    assert size > 100_000_000 and largest < 5_000_000
    with limited(4 * largest + 50_000_000):
        written = parity.convert(
            tmp_path / "ours", tmp_path / "orbax", target="orbax", certificate=False
        )
        back = parity.convert(written, tmp_path / "back", certificate=False)
    assert_same_bits(tmp_path / "ours", back)
