"""A target that differs in one field: `--change` converts on request, and says what it moves."""

import json
import re

import numpy as np
import pytest
import torch

import parity
import vit_torch
from parity import changing
from parity.certificate_file import read as read_certificate
from parity.cli import main
from parity.inputs import image_sets, random_state
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY
from vit_spec import Header, checkpoint, get


@pytest.fixture
def ours(tmp_path):
    """A ViT as in transformers: erf GELU, epsilon 1e-12."""
    config = TINY.replace(norm_eps=1e-12, pos_embed_antialias=False)
    checkpoint.write(tmp_path / "ours", Header(config=config), random_state(config, 0))
    return tmp_path / "ours"


def test_the_refusal_names_the_line_that_converts(ours, tmp_path, capsys):
    target = str(tmp_path / "x.npz")
    command = ["convert", str(ours), target, "--to", "augreg"]
    assert main(command) == 2
    error = capsys.readouterr().err
    found = re.search(r"how far the outputs move, give (--change .*)\n$", error)
    assert found and found[1] == "--change activation=gelu_tanh norm_eps=1e-06"
    assert main([*command, *found[1].split()]) == 0
    line = (
        "note: changed on request: activation 'gelu' to 'gelu_tanh', norm_eps 1e-12 to 1e-06; "
        "outputs on 8 random images of 32x32 move by "
    )
    assert line in capsys.readouterr().out
    record = read_certificate(target)
    assert record["change"]["fields"] == {
        "activation": ["gelu", "gelu_tanh"], "norm_eps": [1e-12, 1e-6],
    }  # fmt: skip
    assert record["outputs"]["verdict"] == "PASS" and record["same_bits"]
    assert record["config"]["activation"] == "gelu_tanh"
    assert parity.verify(target).passed
    assert parity.read(target)[0].config.norm_eps == 1e-6


def test_the_movement_is_that_of_the_outputs(ours, tmp_path):
    notes = []
    change = {"activation": "gelu_tanh"}
    again = parity.convert(ours, tmp_path / "y", change=change, note=notes.append)
    header, state = checkpoint.read(ours)
    images = image_sets(header.config, changing.IMAGES, changing.SEED)["32x32"]
    x = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        before, after = (
            vit_torch.api.from_state(config, state).double()(x).numpy()
            for config in (header.config, header.config.replace(**change))
        )
    found = read_certificate(again)["change"]["outputs"]
    assert found["largest"] == pytest.approx(np.abs(after - before).max() / np.abs(before).max())
    assert found["same_class"] == (before.argmax(-1) == after.argmax(-1)).sum()
    assert f"{found['largest']:.1e} of the largest" in notes[0]
    assert_same_bits(ours, again)
    assert checkpoint.read_header(again).config == header.config.replace(**change)
    assert parity.verify(again).passed


def test_a_changed_conversion_that_no_longer_holds_fails(ours, tmp_path):
    target = parity.convert(ours, tmp_path / "x", target="timm", change={"norm_eps": 1e-6})
    assert parity.verify(target).passed
    file = target / "model.safetensors"
    tensors = checkpoint.read_tensors(file)
    tensors["norm.bias"] = tensors["norm.bias"] + 1
    checkpoint.write_tensors(file, tensors, metadata={"format": "pt"})
    assert not parity.verify(target).passed


def test_verify_tells_what_was_changed_and_refuses_a_damaged_entry(ours, tmp_path, capsys):
    target = parity.convert(ours, tmp_path / "x", target="timm", change={"norm_eps": 1e-6})
    assert main(["verify", str(target)]) == 0
    assert (
        "changed on request: norm_eps 1e-12 to 1e-06; outputs on 8 ran" in capsys.readouterr().out
    )
    file = target / "parity.json"
    record = json.loads(file.read_text())
    record["change"]["fields"]["norm_eps"] = [1e-6]
    file.write_text(json.dumps(record))
    assert main(["verify", str(target)]) == 2
    assert "change.fields.norm_eps [1e-06] must be the old value and" in capsys.readouterr().err


def test_fields_of_repeated_options_all_change(ours, tmp_path):
    command = ["convert", str(ours), str(tmp_path / "y"), "--no-verify"]
    command += ["--change", "activation=gelu_tanh", "pos_embed_antialias=True"]
    assert main([*command, "--change", "norm_eps=1e-6"]) == 0
    config = checkpoint.read_header(tmp_path / "y").config
    assert (config.activation, config.norm_eps) == ("gelu_tanh", 1e-6)
    assert config.pos_embed_antialias is True


def test_without_memory_for_the_outputs_a_change_says_that_the_movement_is_not_known(
    ours, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("parity.memory.available_bytes", lambda: 1000)
    command = ["convert", str(ours), str(tmp_path / "y"), "--no-verify"]
    assert main([*command, "--change", "norm_eps=1e-6"]) == 0
    assert "how far the outputs move is not known: comparing the outp" in capsys.readouterr().out


def test_nothing_changes_unasked(ours, tmp_path):
    assert "change" not in read_certificate(parity.convert(ours, tmp_path / "y"))


def test_no_line_is_named_where_none_would_do():
    header = Header(config=get("Ti/16", layer_scale=0.1, norm_eps=1e-12))
    from parity.formats import FOREIGN
    from parity.formats.kept import lost

    with pytest.raises(ValueError, match=r"has only 1e-06\)$"):
        lost(header, FOREIGN["augreg"])


WRONG = {
    "activatoin=gelu_tanh": "unknown config field 'activatoin': did you mean activation?",
    "activation=relu": "activation 'relu' is none of",
    "width=64": "other tensors go with another width, and a conversion keeps all: leave it out",
    "activation": "--change 'activation' must be a field once and its value, such as activation=",
}


@pytest.mark.parametrize("option", WRONG)
def test_a_change_that_is_none_is_refused(option, ours, tmp_path, capsys):
    command = ["convert", str(ours), str(tmp_path / "y"), "--no-verify", "--change", option]
    assert main(command) == 2
    assert WRONG[option] in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
