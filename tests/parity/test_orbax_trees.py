"""Trees that others wrote by Orbax: vit_jax's parameters, and Google's, in any place of a tree."""

import json
import os
import shutil
from pathlib import Path

import flax.traverse_util
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import parity
import vit_jax
from parity.certificate_file import read as read_certificate
from parity.cli import main
from parity.containers.files import BrokenFile
from parity.inputs import random_state
from tests.parity.format_oracles import assert_same_bits, tensors
from tests.twin_models import TINY
from vit_spec import Header, checkpoint

CONFIG = TINY.replace(depth=1, layer_scale=0.1, num_registers=2)
ADAM = optax.adamw(1e-3)


@pytest.fixture(scope="module")
def model():
    state = {name: a.astype("float32") for name, a in random_state(CONFIG, 0).items()}
    return vit_jax.api.from_state(CONFIG, state)


@pytest.fixture(scope="module")
def ours(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "ours"
    vit_jax.save(model, folder)
    return folder


def variables(model):
    return nnx.state(model, nnx.Param)


def pure(model):
    return nnx.to_pure_dict(variables(model))


def standard(path, content):
    with ocp.StandardCheckpointer() as writer:
        writer.save(path, content)


def files(path, content):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as writer:
        writer.save(path, content)


def pytree(path, content):
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(path, content)


def managed(path, **items):
    """A step of a CheckpointManager: one item, or several by name."""
    names = None if set(items) == {"default"} else tuple(items)
    with ocp.CheckpointManager(path, item_names=names) as manager:
        for step in (7, 12):
            saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            one = saves["default"] if names is None else ocp.args.Composite(**saves)
            manager.save(step, args=one)
        manager.wait_until_finished()


def training(model):
    """What a training loop keeps; the moments have the names of the parameters."""
    params = pure(model)
    return {"params": params, "opt": ADAM.init(params), "step": np.array(7)}


WRITERS = {
    "StandardCheckpointer": lambda path, m: standard(path, pure(m)),
    "of Variables": lambda path, m: standard(path, variables(m)),
    "PyTreeCheckpointer": lambda path, m: pytree(path, pure(m)),
    "files": lambda path, m: files(path, pure(m)),
    "flat names": lambda path, m: pytree(path, vit_jax.api.get_state(m)),
    "TrainState": lambda path, m: pytree(
        path, TrainState.create(apply_fn=None, params=pure(m), tx=ADAM)  # pyright: ignore
    ),
    "a tuple": lambda path, m: pytree(path, (pure(m), ADAM.init(pure(m)), 5)),
    "CheckpointManager": lambda path, m: managed(path, default=training(m)),
    "items": lambda path, m: managed(path, params=pure(m), opt=ADAM.init(pure(m))),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_tree_of_vit_jax_is_read_whoever_wrote_it(write, model, ours, tmp_path):
    write(tmp_path / "theirs", model)
    out = parity.convert(tmp_path / "theirs", tmp_path / "out", model=ours)
    assert_same_bits(ours, out)
    assert read_certificate(out)["source"]["format"] == "orbax"
    assert parity.verify(out).passed


def test_the_newest_step_is_taken_and_said_and_another_may_be_named(model, ours, tmp_path, capsys):
    managed(tmp_path / "run", default=training(model))
    command = ["--from", "orbax", "--model", str(ours), "--no-verify"]
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), *command]) == 0
    out = capsys.readouterr().out
    assert "the newest of 2 steps is taken, 12 (7, 12)" in out
    assert "the weights are those of 'params'" in out and "opt (" in out
    for path in ("run/7", "run/7/default"):
        assert_same_bits(ours, parity.convert(tmp_path / path, tmp_path / "one", model=ours))


def test_of_parameters_and_their_average_the_average_is_taken_and_said(model, ours, tmp_path):
    params = pure(model)
    standard(tmp_path / "x", {"params": params, "ema": nnx.to_pure_dict(variables(model))})
    notes: list[str] = []
    parity.convert(tmp_path / "x", tmp_path / "out", model=ours, note=notes.append)
    assert any("'ema', the moving average; prefix='params/' takes 'params'" in n for n in notes)
    out = parity.convert(f"{tmp_path / 'x'}:params", tmp_path / "raw", model=ours)
    assert_same_bits(ours, out)


def test_inspect_shows_names_and_sizes_and_asks_for_what_the_tree_does_not_say(
    model, tmp_path, capsys
):
    standard(tmp_path / "x", pure(model))
    assert main(["inspect", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    assert "orbax" in out and "blocks/0/attn/qkv/kernel" in out and "32 x 96" in out
    assert "--model" in out
    with pytest.raises(ValueError, match="no published model of vit_jax has width 32.*model="):
        parity.convert(tmp_path / "x", tmp_path / "out")


def test_a_tree_of_google_is_read_from_orbax_too(tmp_path):
    config = TINY.replace(depth=1, activation="gelu_tanh")
    checkpoint.write(tmp_path / "ours", Header(config=config), random_state(config, 0))
    file = parity.convert(tmp_path / "ours", tmp_path / "x.npz", target="augreg")
    params = flax.traverse_util.unflatten_dict(tensors(file), sep="/")
    pytree(tmp_path / "x", {"params": params, "step": 3})
    assert parity.inspect(tmp_path / "x").format == "augreg"
    assert_same_bits(tmp_path / "ours", parity.convert(tmp_path / "x", tmp_path / "out"))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    standard(folder / "tree", pure(model))
    files(folder / "files", pure(model))
    return folder


def changed(path, **said):
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def moved_out(path):
    path.symlink_to(path.rename(path.parents[1] / "outside"))


def piped(path):
    path.unlink()
    os.mkfifo(path)


KERNEL = "patch_embed.proj.kernel"
DAMAGES = {
    "zarr 3": ("files", lambda f: changed(f / "_METADATA", use_zarr3=True), "are of zarr 3"),
    "no names": ("tree", lambda f: changed(f / "_METADATA", tree_metadata=None), "no leaf"),
    "cut names": ("tree", lambda f: os.truncate(f / "_METADATA", 99), "_METADATA: the file is not"),
    "no manifest": ("tree", lambda f: (f / "manifest.ocdbt").unlink(), "do not fit"),
    "a pipe": ("tree", lambda f: piped(f / "manifest.ocdbt"), "neither a file nor a folder"),
    "a link": ("tree", lambda f: moved_out(f / "manifest.ocdbt"), "leads out of its folder"),
    "no values": ("files", lambda f: next((f / KERNEL).glob("0*")).unlink(), "is not there"),
    "cut values": (
        "files", lambda f: os.truncate(next((f / KERNEL).glob("0*")), 5), "packed in no usual way"
    ),
    "another size": (
        "files", lambda f: changed(f / KERNEL / ".zarray", shape=[1 << 30] * 4), "pieces"
    ),
    "a name that leads out": (
        "files",
        lambda f: (f / "_METADATA").write_text(
            (f / "_METADATA").read_text().replace('"pos_embed"', '"../x"')
        ),
        "is no leaf of a tree",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_tree_is_refused(kind, damage, message, saved, tmp_path):
    folder = Path(shutil.copytree(saved / kind, tmp_path / "at" / "x"))
    damage(folder)
    with pytest.raises(BrokenFile, match=message) as error:
        parity.inspect(folder)
    assert str(folder) in str(error.value) and str(error.value).isprintable()
