"""`parity convert` of one step of a training run, as train.py writes it, and to Orbax."""

import json
import os
import re
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import parity
import train
import vit_jax
import vit_torch
from parity.cli import main
from parity.containers import BrokenFile
from parity.formats.said import model_of
from parity.orbax.arrays import Arrays
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY, images
from vit_jax import run_weights
from vit_jax.api import get_state
from vit_spec import checkpoint
from vit_spec.run_step import sealed, unsealed

MODEL = "--model.depth 1 --model.width 16 --model.num-heads 2 --model.mlp-width 16"
DOCS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
TAKEN = (
    "the weights are the moving average of this step of a run; what stays behind: state of the "
    "optimizer, parameters, number of the step"
)
STEPS = "--optim.total-steps 6 --optim.warmup-steps 1 --checkpoint.every 3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of six steps."""
    folder = tmp_path_factory.mktemp("orbax") / "run"
    recipe = train.parse(["digits", *MODEL.split(), *STEPS.split(), "--out", str(folder)])[1]
    train.train(recipe, train.RunFolder(folder, writes=True))
    return folder


def test_the_moving_average_of_a_step_becomes_a_file_of_another_library(run, tmp_path):
    step = run / "checkpoints" / "3"
    written = parity.convert(step, tmp_path / "out", target="timm", verify=True)
    assert parity.verify(written / "parity.json").passed
    assert json.loads((written / "parity.json").read_text())["remarks"][0] == TAKEN
    back = parity.convert(written, tmp_path / "back")
    ours, theirs = vit_jax.load(step), vit_torch.load(back)
    report = parity.check(ours, theirs, level="outputs")
    assert report.passed, parity.render(report)


def test_the_last_step_is_the_model_of_the_finished_run(run, tmp_path):
    written = parity.convert(run / "checkpoints" / "6", tmp_path / "out")
    finished, last = vit_jax.load(run), vit_jax.load(written)
    x = images(finished.config).astype(np.float32)
    np.testing.assert_array_equal(finished(x), last(x))
    assert parity.inspect(run / "checkpoints" / "6").header == parity.inspect(run).header


def test_what_stays_behind_is_said_where_nothing_is_compared(run, tmp_path, capsys):
    ours = shutil.copytree(run, tmp_path / "a", ignore=shutil.ignore_patterns("checkpoints"))
    (ours / "training.safetensors").touch()
    for source, note in ((run / "checkpoints" / "3", TAKEN), (ours, "the training state stays")):
        target = str(tmp_path / f"{source.name}.safetensors")
        assert main(["convert", str(source), target, "--no-verify", "--no-certificate"]) == 0
        assert f"note: {note}" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["other weights", "cut short", "no digests"])
def test_damage_is_named_and_nothing_written(run, tmp_path, capsys, how):
    step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "3")
    if how == "other weights":  # whole, so that TensorStore has no error and digests alone tell
        shutil.rmtree(step / "state")
        shutil.copytree(run / "checkpoints" / "6" / "state", step / "state")
    elif how == "no digests":
        file = step / "run" / "metadata"
        content = unsealed(json.loads(file.read_text())) | {"digests": {}}
        file.write_text(json.dumps(sealed(content)))
    else:
        file = step / "state" / "_METADATA"
        file.write_bytes(file.read_bytes()[:-9])
    assert main(["convert", str(step), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(step) in said and ("is not as saved" in said) == (how == "other weights")
    assert ("has no digest of 19 tensors" in said) == (how == "no digests")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def step(run, tmp_path, monkeypatch):
    """A copy of a step whose parameters are files of zarr, and whose arrays must not be read."""
    step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "3")
    state = run_weights.read_run_checkpoint(step)[1]
    shutil.rmtree(step / "state")
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(step / "state", {"params": state})
    monkeypatch.setattr(Arrays, "read", lambda *_, **__: pytest.fail("read"))
    return step


def test_what_a_step_holds_is_told_without_its_values(step, run):
    found, ours = parity.inspect(step), parity.inspect(run)
    assert found.header == ours.header and found.tensors == ours.tensors and not found.notes


def edit(step, name, **changes):
    """Lets the metadata of an array say something else."""
    file = step / "state" / f"params.{name}" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_all_that_does_not_fit_the_config_is_named_before_an_array_is_read(step, capsys):
    edit(step, "fc_norm.bias", shape=[300_000_000], chunks=[300_000_000])
    edit(step, "head.bias", dtype="<i4")
    tree = step / "state" / "_METADATA"
    for old, new in (("pos_embed", "other"), ("head.kernel", "head.weight")):
        tree.write_text(tree.read_text().replace(old, new))
        (step / "state" / f"params.{old}").rename(step / "state" / f"params.{new}")
    for command in (["convert", str(step), str(step.parent / "out")], ["inspect", str(step)]):
        assert main(command) == 2
        said = capsys.readouterr().err
        for line in (
            f"{step} does not hold the tensors of its config (1 missing, 1 extra, 2 of another "
            "shape, 1 of another dtype)",
            "missing  pos_embed (1, 4, 16)", "extra    other (1, 4, 16)",
            "fc_norm.bias is (300000000,), must be (16,)",
            "head.weight is (16, 10), must be (10, 16)", "head.bias is int32, must be",
        ):  # fmt: skip
            assert line in said


def test_pieces_larger_than_their_array_and_arrays_of_one_parameter_are_refused(step):
    edit(step, "fc_norm.bias", chunks=[300_000_000])
    with pytest.raises(ValueError, match=r"fc_norm.bias is \(16,\) in pieces of \(300000000,\)"):
        parity.inspect(step)
    tree = step / "state" / "_METADATA"
    tree.write_text(tree.read_text().replace("fc_norm.bias", "fc_norm.weight"))
    (step / "state" / "params.fc_norm.bias").rename(step / "state" / "params.fc_norm.weight")
    with pytest.raises(ValueError, match=r"two arrays for fc_norm\.weight"):
        parity.inspect(step)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is list, not a JSON object"),
        ("{", "is not JSON"),
        ("{}", "has no content under a digest"),
        ('{"body": [], "sha256": 1}', "has no content under a digest"),
        ('{"body": {}, "sha256": 1}', "has another digest than"),
        (json.dumps(sealed({"header": []})), r"header \[\] must be an object"),
        (json.dumps(sealed({"header": {}})), "digests None must be an object"),
    ],
)
def test_what_a_step_says_of_itself_is_checked_by_type(tmp_path, text, message):
    (tmp_path / "state").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metadata").write_text(text)
    for read in (parity.inspect, run_weights.header_of):
        with pytest.raises(ValueError, match=f"run/metadata:? {message}"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["run", "state", "run/metadata"])
def test_a_step_has_no_links_out_of_it(step, tmp_path, name):
    (step / name).rename(tmp_path / "outside")
    (step / name).symlink_to(tmp_path / "outside")
    with pytest.raises(BrokenFile, match="it is a link that leads out of its folder"):
        parity.inspect(step)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["state/_METADATA", "state/d/more"])
def test_a_step_has_nothing_but_files_and_folders(run, tmp_path, name):
    step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "3")
    (step / name).unlink(missing_ok=True)
    os.mkfifo(step / name)
    with pytest.raises(BrokenFile, match=f"{name}: it is neither a file nor a folder"):
        parity.inspect(step)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.safetensors"])
def test_a_directory_of_ours_has_no_links_out_of_it(run, tmp_path, name):
    shutil.copytree(run, tmp_path / "a", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "a" / "training.safetensors").touch()
    (tmp_path / "a" / name).rename(tmp_path / "outside")
    (tmp_path / "a" / name).symlink_to(tmp_path / "outside")
    for read in (
        lambda path: parity.convert(path, tmp_path / "b", source="vitwin", target="timm"),
        parity.inspect,
    ):
        with pytest.raises(BrokenFile, match=f"{name}: it is a link that leads out of its folder"):
            read(tmp_path / "a")


@pytest.fixture
def wide(tmp_path):
    """A model in float64, and values that float32 does not have."""
    with jax.enable_x64(True):
        model = vit_jax.create(TINY, param_dtype="float64", seed=3)
        vit_jax.save(model, tmp_path / "wide")
    return tmp_path / "wide"


def test_weights_become_a_directory_of_orbax_and_back(wide, tmp_path):
    (tmp_path / "empty").mkdir()
    written = parity.convert(wide, tmp_path / "empty", target="orbax", verify=True)
    record = json.loads((written / "parity.json").read_text())
    assert record["same_bits"] and record["outputs"]["verdict"] == "PASS"
    assert parity.verify(written).passed
    back = parity.convert(written, tmp_path / "back", certificate=True)
    assert_same_bits(wide / "model.safetensors", back / "model.safetensors")
    assert (back / "config.json").read_bytes() == (wide / "config.json").read_bytes()
    with jax.enable_x64(True):
        ours, loaded = get_state(vit_jax.load(wide)), vit_jax.load(written)
        for name, array in get_state(loaded).items():
            np.testing.assert_array_equal(array, ours[name])


def test_orbax_alone_reads_what_is_written_as_documented(wide, tmp_path, monkeypatch):
    parity.convert(wide, tmp_path / "out", target="orbax")
    documented = re.findall(r"^ocp\.StandardCheckpointer.*$", DOCS, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(True):
        found = eval(documented[0], {"ocp": ocp, "Path": Path, "DIR": "out"})
        ours = get_state(vit_jax.load(wide))
        assert found.keys() == ours.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, ours[name])


def test_damage_in_the_last_digits_of_a_double_is_found(wide, tmp_path):
    written = parity.convert(wide, tmp_path / "out", target="orbax")
    _, state = run_weights.read_run_checkpoint(written)
    name = "patch_embed.proj.kernel"
    state[name] = np.nextafter(state[name], 9)
    shutil.rmtree(written / "state")
    with jax.enable_x64(True):
        ocp.PyTreeCheckpointer().save(written.absolute() / "state", {"params": state})
    with pytest.raises(ValueError, match=f"{name} is not as saved"):
        parity.read(written)


def test_the_other_commands_take_a_directory_of_orbax(wide, tmp_path):
    written = parity.convert(wide, tmp_path / "out", target="orbax", certificate=False)
    both, record = [str(written), str(wide)], str(tmp_path / "record.json")
    options = ["--level", "weights", "--json", record]
    assert main(["check", both[0], "--against", both[1], *options]) == 0
    assert main(["check", both[1], "--against", both[0], *options]) == 0
    assert main(["verify", record]) == 0
    assert main(["diagnose", *both, "--level", "weights"]) == 0
    assert model_of(written) == checkpoint.read_header(wide)


def test_the_disk_has_all_of_what_is_written(wide, tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync

    def noted(file):
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    written = parity.convert(wide, tmp_path / "out", target="orbax", certificate=False)
    assert not [p for p in (written, *written.rglob("*")) if p.stat().st_ino not in synced]


def test_a_full_disk_is_said_in_a_line_and_nothing_left(wide, tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        code = main(["convert", str(wide), str(tmp_path / "out"), "--to", "orbax", "--no-verify"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr().err
    assert code == 2 and said == "parity: File too large\n"
    assert list(tmp_path.iterdir()) == [wide]


def test_a_directory_of_orbax_is_not_replaced(wide, tmp_path, capsys):
    written = parity.convert(wide, tmp_path / "out", target="orbax")
    assert main(["convert", str(wide), str(written), "--to", "orbax"]) == 2
    assert "Orbax writes only into a new or empty directory" in capsys.readouterr().err
    assert parity.verify(written).passed
