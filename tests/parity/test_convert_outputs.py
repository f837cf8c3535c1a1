"""A conversion compares the outputs of both sides, and says what it did not compare."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

import parity
import vit_torch
from parity import conversion_outputs, foreign, memory
from parity.certificate_file import beside
from parity.cli import main
from tests.twin_models import TINY
from vit_spec import get


@pytest.fixture
def ours(tmp_path):
    vit_torch.save(vit_torch.create(TINY), tmp_path / "ours")
    return tmp_path / "ours"


def record(target, part="outputs"):
    return json.loads(beside(target).read_text())[part]


@pytest.mark.parametrize("format", ["timm", "hf_vit", "safetensors", "torchvision"])
def test_the_command_compares_outputs_and_records_them(format, tmp_path, capsys):
    vit_torch.save(vit_torch.create(TINY.replace(width=128)), tmp_path / "ours")
    target = tmp_path / ("x.safetensors" if format == "safetensors" else "x")
    assert main(["convert", str(tmp_path / "ours"), str(target), "--to", format]) == 0
    found = record(target)
    assert found["verdict"] == "PASS" and found["images"] == 2 and found["size"] == "32x32"
    assert found["largest_gap"] <= found["bound"] < 1e-12
    assert "outputs of both sides on 2 images of 32x32: largest gap" in capsys.readouterr().out


def test_a_folded_target_is_compared_by_what_it_says_of_itself(tmp_path):
    model = vit_torch.create(TINY.replace(activation="gelu_tanh"))
    vit_torch.save(model, tmp_path / "ours")
    target = parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="big_vision", verify=True)
    found = record(target)
    assert found["verdict"] == "PASS" and found["folded"]
    assert found["largest_gap"] < found["bound"] < 2e-6  # of float32: the sum was rounded
    assert record(target, "same_bits") is False
    assert "sums of values of cls_token, pos_embed, rounded" in record(target, "remarks")[-1]
    back = parity.convert(target, tmp_path / "back")
    again = parity.convert(back, tmp_path / "again.npz", target="big_vision")
    assert record(back, "same_bits") is record(again, "same_bits") is True  # of zeros


def test_outputs_that_differ_exit_with_1_and_are_recorded(ours, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(conversion_outputs, "proof_bound", lambda depth: -1.0)
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", "timm"]) == 1
    assert "computes something else than the source" in capsys.readouterr().err
    assert record(tmp_path / "x")["verdict"] == "FAIL"


def test_no_verify_compares_bits_alone(ours, tmp_path, capsys):
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", "timm", "--no-verify"]) == 0
    assert "outputs were not compared: not asked for" in capsys.readouterr().out
    assert record(tmp_path / "x") == {"verdict": "NONE", "reason": "not asked for"}


@pytest.mark.parametrize("extra", ["jax", "torch"])
def test_without_a_framework_it_says_which_extra_is_missing(
    extra, ours, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == extra else find(n))
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", "timm"]) == 0
    out = capsys.readouterr().out
    assert f"not compared: {extra} not installed (pip install 'vitwin[{extra}]', or" in out


def test_a_model_too_large_for_the_memory_is_refused_before_anything_is_written(
    ours, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000_000)
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", "timm"]) == 2
    error = capsys.readouterr().err
    assert "about 0.6 GB" in error and "0.1 GB of memory are free" in error
    assert "--no-verify" in error and not (tmp_path / "x").exists()


def test_the_memory_that_is_needed_grows_with_the_model():
    small, large = (conversion_outputs.needed_bytes(get(n)) for n in ("B/16", "g/14"))
    assert 1.5e9 < small < 4e9 and large > 20e9
    assert (memory.available_bytes() or 0) > 0


def test_verify_compares_the_outputs_again(ours, tmp_path):
    target = parity.convert(ours, tmp_path / "x", target="timm", verify=True)
    assert parity.verify(target).passed
    again = parity.verify(target).outputs
    assert again is not None and again["verdict"] == "PASS"


@pytest.mark.parametrize("way", ["to hf_vit", "to orbax", "from orbax"])
def test_without_verifying_the_command_starts_fast_and_imports_no_framework(way, ours, tmp_path):
    if way == "from orbax":
        ours = parity.convert(ours, tmp_path / "theirs", target="orbax")
    target = "vitwin" if way == "from orbax" else way.removeprefix("to ")
    script = (
        "import sys; from parity.cli import main\n"
        f"command = ['convert', {str(ours)!r}, {str(tmp_path / 'x')!r}, '--to', {target!r}]\n"
        "assert main([*command, '--no-verify']) == 0\n"
        "loaded = {'jax', 'torch', 'flax', 'orbax', 'timm', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    environment = os.environ.copy()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start compiles all anew
    spent = []
    while len(spent) < 3 and min(spent, default=1) >= 0.5:
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", script]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # what it computed, not what it waited
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5, spent


@pytest.mark.parametrize("broken", ["config.json", "preprocessor_config.json"])
def test_a_target_with_a_broken_config_is_not_verified_as_if_it_said_none(
    broken, ours, tmp_path, monkeypatch
):
    written = foreign.write

    def faulty(dst, format, source, shard):
        target = written(dst, format, source, shard)
        content = json.loads((dst / broken).read_text())
        (dst / broken).write_text(json.dumps(content | {"resample": 9, "use_rope": True}))
        return target

    monkeypatch.setattr(foreign, "write", faulty)
    with pytest.raises(ValueError, match="use_rope True|resample 9"):
        parity.convert(ours, tmp_path / "x", target="hf_vit", verify=True)
    assert not (tmp_path / "x").exists()


def test_a_target_that_lost_its_config_is_not_verified_by_that_of_the_source(
    ours, tmp_path, monkeypatch
):
    written = foreign.write

    def faulty(dst, format, source, shard):
        target = written(dst, format, source, shard)
        (dst / "config.json").unlink()
        return target

    monkeypatch.setattr(foreign, "write", faulty)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        parity.convert(ours, tmp_path / "x", target="timm", verify=True)
    assert not (tmp_path / "x").exists()


def test_a_target_whose_format_has_no_place_for_the_config_is_verified(tmp_path):
    said = {"pos_embed": "sincos2d", "activation": "gelu_tanh", "class_token": False}
    vit_torch.save(vit_torch.create(TINY.replace(pool="mean", **said)), tmp_path / "ours")
    file = parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="big_vision", verify=True)
    record = json.loads((tmp_path / f"{file.name}.parity.json").read_text())
    assert record["outputs"]["verdict"] == "PASS"
    assert "say which model it is" in record["remarks"][0]


def test_without_a_certificate_outputs_are_compared_all_the_same(
    ours, tmp_path, capsys, monkeypatch
):
    command = ["convert", str(ours), str(tmp_path / "x"), "--to", "timm", "--no-certificate"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "outputs of both sides on 2 images" in out and "certificate:" not in out
    assert not (tmp_path / "x" / "parity.json").exists()
    monkeypatch.setattr(conversion_outputs, "proof_bound", lambda depth: -1.0)
    command[2] = str(tmp_path / "y")
    assert main(command) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
