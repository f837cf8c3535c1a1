"""Bugs planted in what only some configs have: the diagnosis names them and nothing else."""

import types

import pytest
import torch

from parity.diagnosis.diagnose import explain_pair
from parity.mutants.mutant import Plant
from parity.precision import exact
from tests.twin_models import TINY
from vit_torch.layers import activate

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def rebind(module, forward, name="forward"):
    setattr(module, name, types.MethodType(forward, module))


def each_mlp(forward):
    def change(model):
        for block in model.blocks:
            rebind(block.mlp, forward)

    return change


def gate_behind(self, x, masks=None):
    values, gate = self.fc1(x).chunk(2, dim=-1)
    return self.fc2(activate(gate, "silu") * values)


def gelu_gate(self, x, masks=None):
    return self.fc2(activate(self.fc1_g(x), "gelu") * self.fc1_x(x))


def no_norm_pre(model):
    def features(self, images, masks=None):
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    rebind(model, features, "features")


def without_offset(model):
    def embed(self, images):
        config, self.config = self.config, self.config.replace(pos_embed_offset=0.0)
        try:
            return type(self).embed(self, images)
        finally:
            self.config = config

    rebind(model, embed, "embed")


def one_head(model):
    rebind(model, lambda self, x: self.head(x[:, 0]), "classify")


def one_token(model):
    rebind(model, lambda self, x: (self.head(x[:, 1]) + self.head_dist(x[:, 1])) / 2, "classify")


def distillation_last(model):
    def embed(self, images):
        x = type(self).embed(self, images)
        return torch.cat([x[:, :1], x[:, 2:], x[:, 1:2]], dim=1)

    rebind(model, embed, "embed")


def columns_first(model):
    rebind(model.patch_embed, lambda self, x: self.proj(x).mT.flatten(2).mT)


def table_turned(model):
    prefix, table = model.pos_embed.data[:, :1], model.pos_embed.data[:, 1:]
    table = table.unflatten(1, model.config.grid).transpose(1, 2).flatten(1, 2)
    embed, turned = type(model).embed, torch.nn.Parameter(torch.cat([prefix, table], dim=1))

    def change(self, images):
        given, self.pos_embed = self.pos_embed, turned
        try:
            return embed(self, images)
        finally:
            self.pos_embed = given

    rebind(model, change, "embed")


SWIGLU = {"mlp": "swiglu", "activation": "silu"}
DISTILLED = {"distillation_token": True}
BUGS = {
    "one_head": (
        one_head,
        DISTILLED,
        ("logits", "logits", "class token"),
    ),
    "one_token": (one_token, DISTILLED, ("pool", "pooling", "distillation token")),
    "distillation_last": (
        distillation_last,
        DISTILLED,
        ("embed", "order of tokens", "class, patches, distillation"),
    ),
    "columns_first": (
        columns_first,
        {},
        ("embed", "patches", "column by column, before the positions are added"),
    ),
    "table_turned": (
        table_turned,
        {},
        ("embed", "position embedding", "rows and columns of the table swapped"),
    ),
    "no_offset": (
        without_offset,
        {"pos_embed_offset": 0.1, "pos_embed_antialias": False},
        ("embed", "resampling offset", "0"),
    ),
    "no_norm_pre": (
        no_norm_pre,
        {"pre_norm": True, "patch_bias": False, "head_bias": False},
        ("norm_pre", "norm before the blocks", "left out"),
    ),
    "gate_behind": (
        each_mlp(gate_behind),
        {**SWIGLU, "mlp": "swiglu_packed"},
        ("blocks.0.mlp", "gate", "the second half"),
    ),
    "gelu_gate": (
        each_mlp(gelu_gate),
        {**SWIGLU, "mlp_width": 32},
        ("blocks.0.mlp", "activation of the gate", "erf GELU"),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_named_and_nothing_else(bug):
    change, fields, expected = BUGS[bug]
    plant = Plant(TINY.replace(**fields), 0)
    plant.in_torch.append(change)
    with exact():
        diagnosis = explain_pair(plant.pair(), level="layers")
    assert [(c.place, c.what, c.torch) for c in diagnosis.causes] == [expected]
    assert diagnosis.causes[0].rivals == ()
    assert not diagnosis.unexplained


@pytest.mark.parametrize("bug", BUGS)
def test_a_healthy_pair_has_no_cause(bug):
    with exact():
        diagnosis = explain_pair(Plant(TINY.replace(**BUGS[bug][1]), 0).pair(), level="layers")
    assert not diagnosis.causes
    assert not diagnosis.unexplained
