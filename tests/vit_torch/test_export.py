"""Traced, exported and compiled models take every batch and image size that a model takes."""

import dataclasses
import warnings
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import onnxruntime
import pytest
import torch

import vit_torch
from parity.inputs import random_state
from vit_spec import ViTConfig, positions
from vit_torch import any_grid

CONFIGS = {
    "token": ViTConfig(
        image_size=16, patch_size=4, width=32, depth=1, num_heads=2, mlp_width=24, num_classes=5,
        num_registers=2, class_token_position=False, pos_embed_antialias=False,
        pos_embed_offset=0.1, mlp="swiglu_packed", activation="silu", layer_scale=0.1,
        representation_size=16,
    ),
    "distilled": ViTConfig(
        image_size=(16, 24), patch_size=(4, 8), width=32, depth=1, num_heads=4, mlp_width=24,
        num_classes=5, distillation_token=True, qk_norm=True, pos_embed_interpolation="bilinear",
        dropout=0.1, drop_path=0.1,
    ),
    "map": ViTConfig(
        image_size=16, patch_size=4, width=32, depth=1, num_heads=2, mlp_width=24, num_classes=5,
        in_channels=1, class_token=False, pool="map", pos_embed="sincos2d", activation="gelu_tanh",
        patch_bias=False, head_bias=False,
    ),
    "mean": ViTConfig(
        image_size=16, patch_size=4, width=32, depth=1, num_heads=2, mlp_width=24, num_classes=0,
        pool="mean", fc_norm=True, pos_embed="sincos2d_mae", mlp="swiglu", activation="silu",
        qkv_bias=False, norm_eps=1e-5,
    ),
    "clip": ViTConfig(
        image_size=16, patch_size=4, width=32, depth=1, num_heads=2, mlp_width=24, num_classes=5,
        pre_norm=True, activation="quick_gelu", pos_embed_interpolation="bilinear",
        pos_embed_antialias=False,
    ),
}  # fmt: skip
"""Together they have every value of every option."""

of_each_config = pytest.mark.parametrize("name", CONFIGS)


def test_the_configs_have_every_option():
    for field in dataclasses.fields(ViTConfig):
        values = {getattr(config, field.name) for config in CONFIGS.values()}
        hint = get_type_hints(ViTConfig)[field.name]
        if get_origin(hint) is Literal or hint is bool:
            assert values == set(get_args(hint) or (True, False)), field.name
        else:
            assert values - {field.default}, field.name


def model_and_images(name):
    """A model, images to trace it with, and others: of another batch, of other sizes."""
    config = CONFIGS[name]
    model = vit_torch.api.from_state(config, random_state(config, 0)).float()
    p, q = config.patch_shape
    sizes = [(2, 3 * p, 5 * q), (3, *config.image_shape), (1, 6 * p, 4 * q)]
    draw = torch.Generator().manual_seed(0)
    first, *others = (
        torch.randn(b, config.in_channels, *size, generator=draw) for b, *size in sizes
    )
    return model, first, others


def assert_same(ours, model, images):
    for some in images:
        with torch.no_grad():
            expected = model(some)
        torch.testing.assert_close(torch.as_tensor(ours(some)), expected, rtol=1e-5, atol=1e-5)


def onnx_session(file):
    """What ONNX Runtime computes from images."""
    session = onnxruntime.InferenceSession(file)
    (images,) = session.get_inputs()
    return lambda some: session.run(None, {images.name: some.numpy()})[0]


@of_each_config
def test_a_traced_model_takes_other_batches_and_sizes(name):
    model, first, others = model_and_images(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks of images, which a trace leaves out
        traced = torch.jit.trace(model, first)
    assert_same(traced, model, others)


@of_each_config
def test_an_exported_model_and_its_onnx_file_take_other_batches_and_sizes(name, tmp_path):
    model, first, others = model_and_images(name)
    (p, q), dim = CONFIGS[name].patch_shape, torch.export.Dim
    sizes = {"images": {0: dim("batch"), 2: p * dim("rows"), 3: q * dim("columns")}}
    program = torch.export.export(model, (first,), dynamic_shapes=sizes)
    assert_same(program.module(), model, others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        torch.onnx.export(program, (), tmp_path / "m.onnx", verbose=False)
    assert_same(onnx_session(tmp_path / "m.onnx"), model, others)


@of_each_config
def test_the_older_onnx_exporter_takes_other_batches_and_sizes(name, tmp_path):
    model, first, others = model_and_images(name)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (first,),
            tmp_path / "m.onnx",
            dynamo=False,
            input_names=["images"],
            dynamic_axes=axes,
        )
    assert_same(onnx_session(tmp_path / "m.onnx"), model, others)


@of_each_config
def test_a_compiled_model_takes_other_batches_and_sizes_as_one_graph(name):
    model, first, others = model_and_images(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
    assert_same(compiled, model, [first, others[0]])


def test_a_model_in_training_is_exported_with_masks_of_any_batch():
    model, first, others = model_and_images("distilled")
    program = torch.export.export(
        model.train(), (first,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    assert program.module()(first[:1]).shape == (1, 5)


@pytest.mark.parametrize("grid", [(4, 3), (4, 4), (7, 2), (3, 9)], ids=str)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_positions_at_any_grid_are_those_at_a_known_one(kernel, antialias, grid):
    config = CONFIGS["clip"].replace(
        pos_embed_interpolation=kernel, pos_embed_antialias=antialias, pos_embed_offset=0.1
    )
    ours = any_grid.resample_matrices(config, grid)
    theirs = [np.eye(4)] * 2 if grid == config.grid else positions.resample_matrices(config, grid)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    for mae in (True, False):
        table = any_grid.sincos2d(grid, 32, mae=mae, device=torch.device("cpu"))
        np.testing.assert_allclose(table, positions.sincos2d(grid, 32, mae=mae), rtol=0, atol=1e-14)
