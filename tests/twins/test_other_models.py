"""Rules that go by the names of a ViT refuse the names of other models."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import vit_jax
import vit_torch
from parity.sides import _parts
from tests.twin_models import TINY
from vit_jax.functional import split
from vit_jax.optimizers import by_layer, make_optimizer
from vit_spec import Header, OptimConfig, get, is_decayed, parameters, variants
from vit_spec.finetuning import fit
from vit_spec.groups import check_names, depth_of, kind_of, layer_of, layer_share
from vit_spec.layout import jax_name, torch_name
from vit_torch.initializers import initialize
from vit_torch.optimizers import make_optimizer as torch_optimizer
from vit_torch.training import init_ema

SWIN = {
    "patch_embed.proj.weight": (32, 3, 4, 4),
    "layers.0.blocks.0.attn.qkv.weight": (96, 32),
    "layers.0.blocks.0.attn.qkv.bias": (96,),
    "head.weight": (5, 32),
}
OURS = {**parameters(TINY), **parameters(TINY.replace(mlp="swiglu", activation="silu", qk_norm=True,
        pool="mean", fc_norm=True, num_registers=1, pre_norm=True, layer_scale=1.0))}  # fmt: skip


class Other(nn.Module):
    """A model with other names, an embedding and running statistics."""

    def __init__(self):
        super().__init__()
        self.embed, self.bn1, self.fc = nn.Embedding(7, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)


class OtherJax(nnx.Module):
    """The same."""

    def __init__(self):
        self.bn1 = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))


def test_every_name_of_every_variant_has_a_layer_a_kind_and_a_place_in_the_law():
    names = OURS | {k: v for name in variants() for k, v in parameters(get(name, depth=1)).items()}
    check_names(names, "a rule")
    for name, shape in names.items():
        assert 0 <= layer_of(name, 2) <= 3 and kind_of(name, len(shape))
        assert torch_name(jax_name(name, len(shape))[0], len(shape))[0] == name


def test_layers_of_other_models_are_refused():
    assert depth_of(SWIN) == depth_of(["blocks.stacked.norm1.scale"]) == 0
    with pytest.raises(ValueError, match=r"layer_decay goes by .* do not cover layers.0.blocks.0"):
        layer_share("layers.0.blocks.0.attn.qkv.weight", 0, 0.75)
    config = OptimConfig(layer_decay=0.75)
    updates = {name: jnp.zeros(shape) for name, shape in SWIN.items()}
    with pytest.raises(
        ValueError, match=r"layer_decay 0.75 goes by .* layers.0.*qkv.weight, layers.0.*qkv.bias"
    ):
        by_layer(updates, updates, config)
    with pytest.raises(ValueError, match="layer_decay 0.75 goes by .* embed.weight, bn1.weight"):
        torch_optimizer(Other(), config)


def test_muon_is_not_adam_in_silence():
    config = OptimConfig(optimizer="muon")
    with pytest.raises(ValueError, match="optimizer 'muon' goes by .* do not cover layers.0"):
        make_optimizer(config).init({name: jnp.zeros(shape) for name, shape in SWIN.items()})
    with pytest.raises(ValueError, match="optimizer 'muon' goes by .* do not cover embed.weight"):
        torch_optimizer(Other(), config)
    head = OptimConfig(optimizer="muon", freeze=("*", "!head.*"))
    message = (
        "moves the matrices of blocks.0, .* no parameter that is trained is one: use optimizer"
    )
    with pytest.raises(ValueError, match=message):
        torch_optimizer(vit_torch.create(TINY), head)
    with pytest.raises(ValueError, match=message):
        make_optimizer(head).init({"head.kernel": jnp.zeros((2, 3))})


@pytest.mark.parametrize(("name", "rank"), [("bn1.bias", 1), ("ln.bias", 1), ("logit_scale", 0)])
def test_a_kind_that_a_name_does_not_tell_is_refused_where_it_matters(name, rank):
    with pytest.raises(
        ValueError, match=f"the name {name} does not tell whether .* biases or norms"
    ):
        kind_of(name, rank)
    with pytest.raises(ValueError, match=f"decayed .*: the name {name} does not tell"):
        is_decayed(name, rank, ("kernels", "norms"))
    assert not is_decayed(name, rank)  # which of the kinds it is does not matter
    assert is_decayed(name, rank, ("biases", "norms", "tokens", "positions"))


def test_decay_of_other_models_can_be_told_to_the_optimizers():
    config, all_of_it = OptimConfig(decayed=("norms",)), lambda name, rank: True
    with pytest.raises(ValueError, match="bn1.bias does not tell"):
        torch_optimizer(Other(), config)
    (group,) = torch_optimizer(Other(), config, is_decayed=all_of_it).param_groups
    assert group["weight_decay"] == config.weight_decay
    torch_optimizer(Other(), OptimConfig())


def test_a_trunk_of_other_names_is_refused():
    start = {name: np.zeros(shape, np.float32) for name, shape in parameters(TINY).items()}
    source = Header(config=TINY)
    for state in (SWIN, {**parameters(TINY), "stages.0.conv.weight": (3, 3)}):
        arrays = {name: np.zeros(shape, np.float32) for name, shape in state.items()}
        with pytest.raises(ValueError, match="the checkpoint is another model"):
            fit(source, arrays, TINY, start)
    without_head = {name: value for name, value in start.items() if not name.startswith("head")}
    assert fit(source, without_head, TINY, start)[1].new == ("head.weight", "head.bias")


def test_an_embedding_is_not_transposed_as_a_kernel():
    with pytest.raises(
        ValueError, match="embed.weight does not tell whether it is a kernel or an emb"
    ):
        jax_name("embed.weight", 2)
    assert jax_name("blocks.0.attn.proj.weight", 2) == ("blocks.0.attn.proj.kernel", (1, 0))


def test_running_statistics_are_not_left_out_of_checkpoints_and_averages():
    with pytest.raises(ValueError, match="a checkpoint has parameters only, .* bn1.running_mean"):
        vit_torch.api.get_state(Other())
    with pytest.raises(
        ValueError, match="a moving average has parameters only, .* bn1.running_mean"
    ):
        init_ema(Other(), OptimConfig(ema_decay=0.9))
    assert init_ema(Other(), OptimConfig()) is None
    with pytest.raises(
        ValueError, match=r"a checkpoint has parameters only, .* bn1.mean \(BatchStat\)"
    ):
        vit_jax.api.get_state(OtherJax())
    with pytest.raises(
        ValueError, match=r"this form has parameters only, .* bn1.mean \(BatchStat\)"
    ):
        split(OtherJax())


def test_a_parameter_without_a_rule_to_start_from_is_named():
    model = copy.deepcopy(vit_torch.create(TINY))
    model.scale, model.blocks[0].bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="no rule to start from: scale, blocks.0.bias"):
        initialize(model, torch.Generator())


def test_gradients_in_halves_are_none_of_them_empty():
    assert _parts({name: 0 for name in SWIN}) == [list(SWIN)]
    assert _parts({"blocks.0.a": 0}) == [["blocks.0.a"]]
    assert _parts({"a": 0, "blocks.0.a": 0, "blocks.1.a": 0}) == [
        ["a", "blocks.0.a"],
        ["blocks.1.a"],
    ]
