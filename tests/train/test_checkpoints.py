"""Checkpoints: whole or not there, damage found, any sharding, and what a full disk does."""

import logging
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoints import Checkpoints, SaveError, abstract, quiet
from vit_jax.digests import digests
from vit_jax.training import init_state
from vit_spec import OptimConfig
from vit_spec.checkpoint import replacing

ROOT = Path(__file__).parents[2]
RUN = {"data": {"batches": 7}, "seed": 0, "half": 0.1}


def state(step, size=64):
    """A training state whose every tensor depends on the step."""
    params = {"blocks.0.kernel": jnp.arange(size * 4.0).reshape(size, 4) + step, "b": jnp.ones(3)}
    return init_state(params, OptimConfig(ema_decay=0.9))._replace(step=jnp.int32(step))


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", keep=2, best=True)
    yield opened
    opened.close()


def saved(checkpoints, *steps, accuracy=None):
    for step in steps:
        checkpoints.save(step, state(step), RUN, accuracy=(accuracy or {}).get(step))
        checkpoints.wait()


def test_the_newest_state_comes_back_bit_for_bit(checkpoints):
    assert checkpoints.restore(abstract(state(0))) is None
    saved(checkpoints, 1, 2)
    found = checkpoints.restore(abstract(state(0)))
    assert found.step == 2 and same(found.state, state(2)) and not found.damaged
    assert {name: found.run[name] for name in RUN} == RUN


def test_the_newest_and_the_best_are_kept_also_by_the_next_process(checkpoints, tmp_path):
    saved(checkpoints, 1, 2, 3, 4, accuracy={1: 0.1, 2: 0.9, 3: 0.5})
    assert checkpoints.steps() == [2, 3, 4]
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", keep=2, best=True)
    saved(again, 5, 6, accuracy={5: 0.8})
    assert again.steps() == [2, 5, 6]
    again.close()


def test_an_accuracy_is_noted_of_a_step_that_is_there_without_writing_its_arrays_again(
    checkpoints, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("no checkpoint is removed or written for a note")

    saved(checkpoints, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "delete", refuse)
        patch.setattr(checkpoints._manager, "save", refuse)
        saved(checkpoints, 1)
        checkpoints.save(1, state(1), RUN | {"seed": 7}, accuracy=0.5)
    assert checkpoints.restore(abstract(state(0))).run["seed"] == 7
    saved(checkpoints, 2, 3)
    assert checkpoints.steps() == [1, 2, 3]  # 1 is the best


@pytest.mark.parametrize("after", [0, 1])
def test_a_program_that_ends_within_a_note_loses_nothing(checkpoints, monkeypatch, after):
    saved(checkpoints, 1)
    count = iter(range(9))

    def end(target):
        if next(count) == after:
            raise KeyboardInterrupt
        return replacing(target)

    monkeypatch.setattr("vit_jax.checkpoints.replacing", end)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(1, state(1), RUN | {"seed": 7}, accuracy=0.5)
    monkeypatch.undo()
    found = checkpoints.restore(abstract(state(0)))
    assert found.step == 1 and same(found.state, state(1)) and found.run["seed"] == 0


def test_a_note_that_the_disk_refuses_is_a_save_error(checkpoints, monkeypatch):
    def full(target):
        raise OSError(28, "No space left on device")

    saved(checkpoints, 1)
    monkeypatch.setattr("vit_jax.checkpoints.replacing", full)
    with pytest.raises(SaveError, match="accuracy of step 1 was not noted: .*No space left"):
        saved(checkpoints, 1, accuracy={1: 0.5})
    assert same(checkpoints.restore(abstract(state(0))).state, state(1))


DAMAGE = {
    "values": "state/d/*",
    "values of a process": "state/ocdbt.process_0/d/*",
    "names": "state/_METADATA",
    "manifest": "state/manifest.ocdbt",
    "run": "run/metadata",
}


def test_of_errors_of_tasks_only_those_that_orbax_raises_itself_are_not_logged(caplog):
    quiet()
    never = "Task exception was never retrieved: "  # asyncio says so when it is collected
    for of in ("/orbax/checkpoint/_src/serialization/type_handlers.py", "/other.py"):
        logging.getLogger("asyncio").error(never + of)
    assert [record.msg for record in caplog.records] == [never + "/other.py"]


# TensorStore's callbacks after the first error find that Orbax has closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pattern", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_newest_is_named_and_the_one_before_it_taken(checkpoints, pattern, how):
    saved(checkpoints, 1, 2)
    newest = checkpoints.path / "2"
    files = [f for f in newest.glob(pattern) if f.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        if how == "gone":
            file.unlink()
            continue
        for place in range(0, len(content), 16) if how == "flipped" else ():
            content[place] ^= 1
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    found = checkpoints.restore(abstract(state(0)))
    if not found.damaged and "ocdbt.process_0" in pattern:  # merged into the others, not needed
        assert found.step == 2 and same(found.state, state(2))
        return
    assert found.step == 1 and same(found.state, state(1)) and list(found.damaged) == [2]
    assert checkpoints.steps() == [1] and (checkpoints.path.parent / "damaged" / "2").is_dir()
    saved(checkpoints, 2)
    assert checkpoints.restore(abstract(state(0))).step == 2


def test_values_that_orbax_reads_without_complaint_are_compared_with_their_digests(
    checkpoints, monkeypatch
):
    saved(checkpoints, 1, 2)
    whole = checkpoints._manager.restore

    def restore(step, args):
        items = whole(step, args=args)
        if step == 2 and "state" in args:
            bad = items.state.params["blocks.0.kernel"].at[5, 1].add(1e-3)
            items.state.params["blocks.0.kernel"] = bad
        return items

    monkeypatch.setattr(checkpoints._manager, "restore", restore)
    found = checkpoints.restore(abstract(state(0)))
    assert found.damaged == {2: "1 tensors are not as saved, first .params['blocks.0.kernel']"}


def test_all_damaged_is_an_error_that_moves_nothing(checkpoints):
    saved(checkpoints, 1, 2)
    for step in (1, 2):
        (checkpoints.path / str(step) / "run" / "metadata").write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole:\n  step 2: run: .*\n  st"):
        checkpoints.restore(abstract(state(0)))
    assert checkpoints.steps() == [1, 2]


def test_another_model_is_not_damage(checkpoints):
    saved(checkpoints, 1)
    with pytest.raises(ValueError, match=r"another model or optimizer:\n  .params\['blocks.0.kern"):
        checkpoints.restore(abstract(state(0, size=32)))
    assert checkpoints.steps() == [1]


def test_digests_know_every_bit_and_place_of_a_tensor():
    kinds = [np.float32, np.int32, np.int8, jnp.bfloat16, np.bool_]
    variants = []
    for kind in kinds:
        a = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], kind)
        changed = a.copy()
        changed[2, 3] = 1
        variants += [a, a.T, a.ravel(), a[::-1, ::-1], changed]
    found = [digests({"x": jnp.asarray(v)})["['x']"] for v in variants]
    assert len(set(found)) == len(found)
    zero = jnp.zeros(4)
    assert digests([zero]) != digests([-zero])


def test_digests_of_float64(x64):
    a = jnp.arange(5, dtype=jnp.float64)
    assert digests([a]) != digests([a.at[2].add(1e-15)])


def test_another_number_of_devices_and_another_sharding_restore_the_same(checkpoints, tmp_path):
    """8 devices, the kernel in eighths, read what one device wrote; one reads what they wrote."""
    saved(checkpoints, 1)
    script = f"""
import jax, sys
sys.path.insert(0, {str(ROOT)!r})
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from tests.train.test_checkpoints import state, same, RUN
from vit_jax.checkpoints import Checkpoints, abstract
assert len(jax.devices()) == 8
mesh = jax.make_mesh((8,), ("data",))
def place(x):
    sharding = NamedSharding(mesh, P("data") if x.ndim == 2 else P())
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
target = jax.tree.map(place, state(0))
checkpoints = Checkpoints({str(checkpoints.path)!r}, keep=2, best=True)
found = checkpoints.restore(target)
kernel = found.state.params["blocks.0.kernel"]
assert same(found.state, state(1)) and not found.damaged
assert kernel.addressable_shards[0].data.shape == (8, 4)
checkpoints.save(2, jax.tree.map(lambda x, t: jax.device_put(x, t.sharding), state(2), target), RUN)
checkpoints.wait(); checkpoints.close()
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PATH": ""}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    again = Checkpoints(checkpoints.path, keep=2, best=True)
    found = again.restore(abstract(state(0)))
    assert found.step == 2 and same(found.state, state(2)) and not found.damaged
    again.close()


FULL_DISK = """
import sys
sys.path.insert(0, {root!r})
import shutil
from tests.train.test_checkpoints import state, same, RUN
from vit_jax.checkpoints import Checkpoints, SaveError, abstract
import jax
checkpoints = Checkpoints("{folder}/checkpoints", keep=2, best=True)
checkpoints.save(1, state(1), RUN); checkpoints.wait()
big = {{"noise": jax.random.normal(jax.random.key(0), (2_000_000,))}}
try:
    checkpoints.save(2, big, RUN); checkpoints.wait()
except SaveError as error:
    print(error)
free = shutil.disk_usage("{folder}").free
checkpoints.save(3, state(3), RUN); checkpoints.wait()
found = checkpoints.restore(abstract(state(0)))
print(checkpoints.steps(), found.step, same(found.state, state(3)), free > 3_000_000)
checkpoints.close()
"""


def test_a_full_disk_leaves_the_checkpoints_before_it_whole_and_no_debris(tmp_path):
    """A disk of 4 MB, mounted in a namespace of its own."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    script = FULL_DISK.format(root=str(ROOT), folder=tmp_path)
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1"']
    result = subprocess.run(
        [*command, sys.executable, script], cwd=ROOT, capture_output=True, text=True
    )
    message, summary = result.stdout.splitlines()
    assert message.startswith("the checkpoint of step 2 was not saved: No space left on device (")
    assert message.endswith("Checkpoints before it are whole: 1")
    assert summary == "[1, 3] 3 True True"


def test_an_error_while_the_save_is_started_is_a_save_error_too(checkpoints, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    saved(checkpoints, 1)
    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(SaveError, match="step 2 was not saved: No space left on device"):
        saved(checkpoints, 2)
    monkeypatch.undo()
    saved(checkpoints, 2)
    assert checkpoints.steps() == [1, 2]
