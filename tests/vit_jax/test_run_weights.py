"""`vit_jax.load` of a step of a run that is damaged, or that leads out of its folder."""

import json
import os
import shutil
from typing import Any

import numpy as np
import pytest

import vit_jax
from vit_jax.api import get_state
from vit_jax.checkpoints import Checkpoints
from vit_jax.run_weights import header_of
from vit_jax.training import init_state
from vit_spec import Header, OptimConfig, ViTConfig
from vit_spec.run_step import DamageError, sealed

CONFIG = ViTConfig(
    image_size=32, patch_size=16, width=64, depth=1, num_heads=1, mlp_width=128, num_classes=3
)
MANIFEST, RUN = "state/manifest.ocdbt", "run/metadata"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A step as training writes it, and its weights."""
    folder = tmp_path_factory.mktemp("run")
    weights: Any = get_state(vit_jax.create(CONFIG))
    checkpoints = Checkpoints(folder, keep=1, best=False)
    run = {"header": json.loads(Header(config=CONFIG).to_json())}
    checkpoints.save(3, init_state(weights, OptimConfig()), run)
    checkpoints.wait()
    checkpoints.close()
    return folder / "3", weights


@pytest.fixture
def step(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "step")


def values(step):
    """The file that has the values of the arrays."""
    return max(step.glob("state/ocdbt.process_0/d/*"), key=lambda file: file.stat().st_size)


def cut(file, size=40):
    os.truncate(file, size)


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def piped(file):
    file.unlink()
    os.mkfifo(file)


def moved_out(place):
    step = next(folder for folder in place.parents if folder.name == "step")
    place.symlink_to(place.rename(step.with_name("outside")))


def linked(file, to):
    file.unlink()
    file.symlink_to(to)


def edited(file, **changes):
    body = json.loads(file.read_text())["body"] | changes
    file.write_text(json.dumps(sealed(body)))


LINK, PIPE = "is a link that leads out of its folder", "is neither a file nor a folder"
DAMAGES = {
    "no manifest": (lambda s: (s / MANIFEST).unlink(), "state: .*does not exist"),
    "empty manifest": (lambda s: cut(s / MANIFEST, 0), "state: .*manifest.ocdbt"),
    "cut manifest": (lambda s: cut(s / MANIFEST), "state: .*manifest.ocdbt"),
    "no values": (lambda s: values(s).unlink(), "state: .*Error reading"),
    "cut values": (lambda s: cut(values(s)), "state: .*not valid for value of size 40"),
    "other values": (lambda s: flipped(values(s)), "tensors are not as saved, first|Zstd"),
    "empty run": (lambda s: cut(s / RUN, 0), "run/metadata is not JSON"),
    "flipped run": (lambda s: flipped(s / RUN), "run/metadata (has another|is not JSON)"),
    "a run of no arrays": (lambda s: edited(s / RUN, digests={}), "names no arrays"),
    "an array elsewhere": (
        lambda s: edited(s / RUN, digests={".params['../../x']": "0" * 16}), "names no arrays"
    ),
    "a pipe of values": (lambda s: piped(values(s)), PIPE),
    "a pipe of a manifest": (lambda s: piped(s / MANIFEST), PIPE),
    "a pipe of a run": (lambda s: piped(s / RUN), PIPE),
    "a pipe beside": (lambda s: piped(s / "_CHECKPOINT_METADATA"), PIPE),
    "values elsewhere": (lambda s: moved_out(values(s)), LINK),
    "state elsewhere": (lambda s: moved_out(s / "state"), LINK),
    "run elsewhere": (lambda s: moved_out(s / RUN), LINK),
    "a link to nothing": (lambda s: linked(values(s), "/nowhere"), LINK),
    "a link to a device": (lambda s: linked(values(s), "/dev/zero"), LINK),
    "a link to itself": (lambda s: linked(values(s), values(s)), PIPE),
}  # fmt: skip


def test_a_whole_step_gives_its_weights(saved, step):
    found = get_state(vit_jax.load(step))
    assert all(np.array_equal(found[name], array) for name, array in saved[1].items())
    assert header_of(step).config == CONFIG


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_step_is_named_in_one_message_and_never_waited_for(damage, message, step, capfd):
    damage(step)
    with pytest.raises(DamageError, match=message) as error:
        vit_jax.load(step)
    text = str(error.value)
    assert str(step) in text and text.isprintable() and len(text) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [piped, moved_out])
def test_what_the_model_is_is_not_read_from_elsewhere(damage, step):
    damage(step / RUN)
    with pytest.raises(DamageError, match=f"run/metadata: it {LINK}|{PIPE}"):
        header_of(step)


def test_what_only_orbax_reads_need_not_be_whole(saved, step):
    (step / "state" / "_METADATA").unlink()
    assert get_state(vit_jax.load(step)).keys() == saved[1].keys()
