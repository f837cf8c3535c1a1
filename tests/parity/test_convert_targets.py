"""What a conversion replaces, and that its target is the old one or the new one at any time."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import parity
from parity import foreign, targets
from parity.cli import main
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY
from vit_spec import Header, checkpoint, parameters


def write(path, seed, **changes):
    """A checkpoint of random float32 weights that transformers' ViT and timm can hold."""
    config = TINY.replace(pos_embed_antialias=False, **changes)
    rng = np.random.default_rng(seed)
    shapes = parameters(config).items()
    state = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes}
    checkpoint.write(path, Header(config=config), state)
    return path


@pytest.fixture
def ours(tmp_path):
    return write(tmp_path / "ours", 0)


@pytest.fixture
def other(tmp_path):
    return write(tmp_path / "other", 1)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_run(place, other):
    write(place, 1)
    (place / "checkpoints" / "8").mkdir(parents=True)
    (place / "metrics.jsonl").write_text("{}")


def a_saved_model(place, other):
    write(place, 1)


def a_folder_of_others(place, other):
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def a_text(place, other):
    place.write_text("mine")


def another_format(place, other):
    parity.convert(other, place, target="timm")


def a_changed_output(place, other):
    parity.convert(other, place, target="hf_vit")
    with (place / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")


def an_output_with_more(place, other):
    parity.convert(other, place, target="hf_vit")
    (place / "notes.txt").write_text("mine")


def an_archive(place, other):
    np.savez(place.with_suffix(".npz"), a=np.zeros(2))
    place.with_suffix(".npz").rename(place)


def a_file_of_mine(place, other):
    parity.convert(other, place, target="safetensors", certificate=False)


def a_changed_file(place, other):
    parity.convert(other, place, target="safetensors")
    place.write_bytes(place.read_bytes()[:-1] + b"\7")


@pytest.mark.parametrize(
    ("there", "target", "message"),
    [
        (a_file_of_mine, "safetensors", "has no certificate of a conversion beside it"),
        (a_changed_file, "safetensors", "is not as it was converted"),
        (a_run, "vitwin", "a directory with checkpoints, config.json, metrics.jsonl, model.saf"),
        (a_run, "safetensors", "is a directory, and safetensors is one file"),
        (
            a_saved_model,
            "vitwin",
            "with config.json, model.safetensors, without a certificate",
        ),
        (a_folder_of_others, "hf_vit", "a directory with notes.txt, without a certificate"),
        (a_folder_of_others, "torchvision", "is one file, such as .*x/model.pth"),
        (a_text, "hf_vit", "is a file, and hf_vit is a directory"),
        (a_text, "safetensors", "is no file of tensors, and safetensors is one of safetensors"),
        (an_archive, "safetensors", "is a file of npz, and safetensors is one of safetensors"),
        (another_format, "hf_vit", "is of the format timm"),
        (a_changed_output, "hf_vit", "not as it was converted: model.safetensors changed"),
        (an_output_with_more, "hf_vit", "holds notes.txt beside the output of a conversion"),
    ],
)
def test_what_no_such_conversion_wrote_is_refused_and_stays(
    there, target, message, ours, other, tmp_path, capsys
):
    there(tmp_path / "x", other)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match=message + ".*choose another path, or remove it"):
        parity.convert(ours, tmp_path / "x", target=target)
    assert files(tmp_path) == before
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", target]) == 2
    assert "choose another path" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x", "x.safetensors", "deep/x"])
def test_a_target_below_a_file_names_the_file(name, ours, tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert main(["convert", str(ours), str(file / name), "--no-verify"]) == 2
    said = f"{file} is a file, so nothing can be written as {file / name}: choose another path"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".bin", ".msgpack"])
@pytest.mark.parametrize("target", ["hf_vit", "vitwin"])
def test_no_directory_gets_the_name_of_a_file_of_tensors(target, suffix, ours, tmp_path):
    message = f"x{suffix} is the name of a file, and {target} is a directory: choose a name witho"
    with pytest.raises(ValueError, match=message):
        parity.convert(ours, tmp_path / f"x{suffix}", target=target)
    assert not (tmp_path / f"x{suffix}").exists()
    assert parity.convert(ours, tmp_path / f"x{suffix}.d", target=target).is_dir()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "part.safetensors"])
def test_no_file_comes_into_the_directory_of_another_checkpoint(name, ours, other):
    if name.startswith("part"):
        (other / "model.safetensors").rename(other / name)
    before = files(other)
    target = "safetensors" if name.endswith("safetensors") else "deit"
    with pytest.raises(FileExistsError, match="other is the directory of a checkpoint, which"):
        parity.convert(ours, other / name, target=target)
    assert files(other) == before


@pytest.mark.parametrize("target", ["hf_vit", "vitwin", "hf_flax_vit", "safetensors", "deit"])
def test_the_output_of_the_same_conversion_is_replaced(target, tmp_path):
    ours, other = write(tmp_path / "ours", 0), write(tmp_path / "other", 1)
    place = tmp_path / ("x.safetensors" if target == "safetensors" else "x")
    parity.convert(other, place, target=target)
    before = {path.name for path in tmp_path.iterdir()}
    parity.convert(ours, place, target=target)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert parity.verify(place if place.is_dir() else f"{place}.parity.json").passed
    again = parity.convert(place, tmp_path / "back", source=target, model=ours)
    assert_same_bits(ours, again)


@pytest.mark.parametrize("place", ["empty", "here", "link"])
def test_empty_and_linked_directories_stay_where_they_are(
    place, ours, other, tmp_path, monkeypatch
):
    folder = tmp_path / "x"
    folder.mkdir()
    if place == "link":
        parity.convert(other, folder, target="hf_vit")
        (tmp_path / "link").symlink_to(folder)
    elif place == "here":
        monkeypatch.chdir(folder)
    target = {"empty": folder, "here": ".", "link": tmp_path / "link"}[place]
    inode = folder.stat().st_ino
    parity.convert(ours, target, target="hf_vit")
    assert parity.verify(target).passed
    assert (tmp_path / "link").is_symlink() if place == "link" else folder.stat().st_ino == inode
    names = {"config.json", "model.safetensors", "parity.json", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("there", ["nothing", "a file", "a directory", "an empty directory"])
def test_what_someone_else_writes_meanwhile_is_not_replaced(there, ours, other, tmp_path):
    target = "safetensors" if there == "a file" else "hf_vit"
    place = tmp_path / ("x.safetensors" if there == "a file" else "x")
    if there == "an empty directory":
        place.mkdir()
    elif there != "nothing":
        parity.convert(other, place, target=target)
    mine = place if there in ("nothing", "a file") else place / "mine.txt"
    with (
        foreign.opened_as(ours, "vitwin", None) as source,
        pytest.raises(FileExistsError, match=f"{mine.name}.* changed during the conversion"),
        targets.staged(place) as staged,
    ):
        foreign.write(staged, target, source)
        mine.write_text("mine")
    assert mine.read_text() == "mine"
    assert not list(tmp_path.glob("**/.x*"))


def test_a_program_that_is_told_to_end_leaves_nothing(ours, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["convert", str(ours), str(tmp_path / "x"), "--to", "timm", "--no-verify"]
    monkeypatch.setattr("sys.argv", ["parity", *arguments])
    monkeypatch.setattr(foreign, "write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(SystemExit, match="143"):
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_the_weights_come_last_into_an_empty_directory(ours, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    rename, seen = type(tmp_path).rename, []

    def failing(self, target):
        seen.append(target.name)
        if target.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with pytest.raises(OSError, match="No space"):
        parity.convert(ours, tmp_path / "x", target="hf_vit")
    assert len(seen) == 4 and not any((tmp_path / "x").iterdir())


def test_a_certificate_does_not_outlive_its_file(ours, other, tmp_path):
    file = parity.convert(other, tmp_path / "x.safetensors")
    parity.convert(ours, file, certificate=False)
    assert not (tmp_path / "x.safetensors.parity.json").exists()
    assert_same_bits(ours, file)


@pytest.mark.parametrize(
    ("format", "suffix", "modes"),
    [
        ("hf_vit", "", ("kill", "fail", "kill-aside")),
        ("safetensors", ".safetensors", ("kill", "fail")),
    ],
)
def test_whatever_step_is_the_last_the_old_or_the_new_one_is_there(format, suffix, modes, tmp_path):
    write(tmp_path / "a", 0)
    write(tmp_path / "b", 1, activation="quick_gelu")  # of the same shapes: a mix would load
    command = [sys.executable, "-m", "tests.parity.interruptions"]
    command += [str(tmp_path), format, suffix, *modes]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for mode in modes:
        found = [row.split()[1:] for row in result.stdout.splitlines() if row.split()[0] == mode]
        states = [" ".join(row[:-1]) for row in found]
        assert set(states) <= {"old", "new", "old aside"} and states[0] == "old", states
        assert states[-1] == "new" and len(states) > 20
        assert states.count("old aside") == (mode == "kill-aside")
        if "fail" in mode:
            assert {row[-1] for row in found if row[0] == "old"} == {"0"}  # nothing was left
