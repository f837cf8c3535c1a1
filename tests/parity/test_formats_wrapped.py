"""State dicts with what training wraps around names, and names that no format has."""

import torch
from safetensors.torch import load_file

import parity
from parity.certificate_file import read as read_certificate
from parity.cli import main
from tests.parity.format_oracles import assert_same_bits
from tests.parity.test_formats_said import saved
from tests.twin_models import TINY

SCALED = {"layer_scale": 1e-6, "class_token_position": False}


def wrapped(changes, folder, *more):
    """Our checkpoint, a state dict of the same tensors with the prefix of DDP, and its config."""
    ours = saved(TINY.replace(**changes), folder)
    state = {f"module.{n}": t for n, t in load_file(ours / "model.safetensors").items()}
    torch.save(state | {name: torch.ones(TINY.width) for name in more}, folder / "x.pth")
    return ours, folder / "x.pth", ours / "config.json"


def test_a_state_dict_of_timm_without_the_prefix_of_data_parallel_training(tmp_path):
    ours, source, model = wrapped(SCALED, tmp_path)
    told = parity.convert(source, tmp_path / "y", model=model, verify=False)
    assert read_certificate(told)["source"]["format"] == "timm"
    assert_same_bits(ours, told)
    ours, source, model = wrapped({}, tmp_path)
    assert_same_bits(ours, parity.convert(source, tmp_path / "z", source="timm", model=model))


def test_a_tensor_outside_of_the_prefix_is_no_part_of_the_model_and_is_named(tmp_path):
    for format, changes in (("timm", SCALED), ("deit", {})):
        ours, source, model = wrapped(changes, tmp_path, "norm.bias")
        told = parity.convert(source, tmp_path / f"y_{format}", source=format, model=model)
        assert_same_bits(ours, told)
        assert any("left out: norm.bias (1 tensor)" in r for r in read_certificate(told)["remarks"])


def test_a_wrong_format_where_none_is_known_says_what_the_names_are(tmp_path, capsys):
    torch.save({"net.a": torch.ones(2), "net.b": torch.ones(2)}, tmp_path / "x.pth")
    command = ["convert", str(tmp_path / "x.pth"), str(tmp_path / "y"), "--from", "timm"]
    assert main([*command, "--model", "deit_tiny_patch16_224"]) == 2
    assert capsys.readouterr().err.startswith(
        f"parity: {tmp_path / 'x.pth'} does not look like timm nor like another known format in "
        "torch: its first tensors are ['net.a', 'net.b']; `parity inspect` lists all; say a format "
        "that has such names (docs/formats.md), and what is before them, such as --prefix module.; "
        "as timm: "
    )


def test_other_tensors_than_those_of_the_config_are_listed_with_the_way_out(tmp_path, capsys):
    _, source, model = wrapped({}, tmp_path, "module.head2.weight")
    command = ["convert", str(source), str(tmp_path / "y"), "--from", "timm", "--model", str(model)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"extra    head2.weight ({TINY.width},)" in error
    assert "leave it out: --leave-out 'head2.*'\nIf it is not of timm, give --from deit" in error
    assert main([*command, "--leave-out", "head2.*", "--no-verify"]) == 0


def test_an_entry_may_have_a_slash_in_its_name(tmp_path):
    ours, source, model = wrapped({}, tmp_path)
    torch.save({"runs/1": torch.load(source), "lr": 0.1}, source)
    told = parity.convert(source, tmp_path / "y", source="timm", model=model, entry="runs/1")
    assert_same_bits(ours, told)


def test_a_file_without_tensors_and_one_of_which_all_is_left_out_are_called_that(tmp_path, capsys):
    _, source, model = wrapped({}, tmp_path)
    command = ["convert", str(source), str(tmp_path / "y"), "--from", "timm", "--model", str(model)]
    assert main([*command, "--leave-out", "*"]) == 2
    assert "leave_out leaves no tensor of the file" in capsys.readouterr().err
    torch.save({"a": torch.ones(2).numpy()}, source)
    assert main(command) == 2
    assert f"{source} holds no tensors; NumPy arrays in it are not read" in capsys.readouterr().err
