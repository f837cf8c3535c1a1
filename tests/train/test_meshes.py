"""What lies where on a mesh, and that a mesh changes nothing: losses, files, test images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import vit_jax
from tests.train import meshes
from vit_data.recipe import MeshShape
from vit_jax.api import names
from vit_jax.sharding import RULES, check_model, logical_axes, make_mesh
from vit_spec import ViTConfig, get, variants

ROOT = Path(__file__).parents[2]


def test_meshes_and_processes_give_the_losses_of_one_device():
    for job, case, loss, gap, parameters in meshes.rows(meshes.REDUCED):
        assert np.isfinite(loss) and gap < 1e-10 and parameters < 1e-10, (job, case)


LAYOUT = """
import json, jax, numpy as np, vit_jax
from vit_jax.digests import digests
from vit_jax.distillation import ModelTeacher, Taught
from vit_jax.parallel import jit_train_step, new_key, new_state, to_devices, to_share
from vit_jax.sharding import make_mesh
from vit_jax.stacking import Stacking
from vit_spec import OptimConfig, Preprocessing, ViTConfig
config = ViTConfig(image_size=16, patch_size=4, width=64, depth=4, num_heads=4, mlp_width=128,
                   num_classes=16)
optim, mesh = OptimConfig(ema_decay=0.9), make_mesh(2, 2, 2)
structure, state = new_state(lambda: vit_jax.create(config, scan=True), optim, mesh)
arrays = {"image": np.ones((8, 16, 16, 3), np.float32), "label": np.zeros(8, np.int32)}
batch = to_devices(arrays, mesh)
blocks = Stacking(structure, state.params, optim)
state = blocks.stack(state)
step = jit_train_step(blocks.structure, optim, state, mesh)
print(json.dumps([
    [list(x.shape), list(x.addressable_shards[0].data.shape)] for x in batch.values()
]))
state, _ = step(state, batch, new_key(0, mesh))
def pieces(tree):
    print(json.dumps([
        [jax.tree_util.keystr(path), list(leaf.shape), list(leaf.addressable_shards[0].data.shape)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]))
pieces(state)
state = blocks.unstack(state)
pieces(state)
for _ in range(4):  # a program a leaf, each with a sum over the devices
    sums = digests(state)
assert sums == digests(jax.device_get(state))
arrays["image"] = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
model, facts = vit_jax.create(config, seed=1), Preprocessing()
taught = next(Taught(iter([arrays]), ModelTeacher(model, mesh, theirs=facts, ours=facts), 16))
np.testing.assert_allclose(taught["teacher"], model(arrays["image"]), atol=1e-5)
np.testing.assert_array_equal(to_share(taught["teacher"]), taught["teacher"])
pieces(to_devices(taught, mesh) | ModelTeacher(model, mesh, theirs=facts, ours=facts).params)
"""


def test_every_leaf_is_divided_moments_as_their_parameters_and_a_teacher_as_its_student():
    result = subprocess.run(
        [sys.executable, "-c", LAYOUT], cwd=ROOT, env=meshes.environment(1, 8, 0), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    batch, stacked, leaves, teacher = map(json.loads, result.stdout.splitlines())
    assert [(whole[0], piece[0]) for whole, piece in batch] == [(8, 2), (8, 2)]
    pieces: dict[str, set] = {}
    for path, whole, piece in leaves:
        if "'" in path:
            pieces.setdefault(path.split("'")[-2], set()).add((tuple(whole), tuple(piece)))
    for path, whole, piece in leaves + stacked:
        large = 256 * (4 if "blocks.stacked." in path else 1)
        if np.prod(whole) > large:  # nothing large is on every device: fsdp x tensor is 4
            assert np.prod(piece) * 4 == np.prod(whole), (path, whole, piece)
    fc1 = {tuple(piece) for path, _, piece in stacked if "stacked.mlp.fc1.kernel" in path}
    assert fc1 == {(4, 32, 64)}  # of all blocks the same piece
    assert all(len(found) == 1 for found in pieces.values()), pieces
    assert pieces["blocks.0.attn.qkv.kernel"] == {((64, 192), (16, 192))}
    assert pieces["blocks.0.mlp.fc1.kernel"] == {((64, 128), (32, 64))}
    assert pieces["blocks.0.mlp.fc1.bias"] == {((128,), (64,))}
    counts = {}
    for path, *_ in leaves:
        name = path.split("'")[-2] if "'" in path else path
        counts[name] = counts.get(name, 0) + 1
    assert counts["blocks.0.mlp.fc1.kernel"] == 4  # parameter, two moments, average
    teacher = {path.split("'")[1]: (tuple(whole), tuple(piece)) for path, whole, piece in teacher}
    assert teacher["teacher"] == ((8, 16), (2, 16)) and teacher["label"] == ((8,), (2,))
    assert all({teacher[name]} == pieces[name] for name in pieces if name in teacher)
    assert teacher.keys() > pieces.keys()


PARTS = """
import re, jax, jax.numpy as jnp, vit_jax
from benchmarks._hlo import largest
from vit_jax.parallel import abstract_state, jit_train_step
from vit_jax.sharding import make_mesh
from vit_spec import OptimConfig, ViTConfig
config = ViTConfig(image_size=8, patch_size=4, width=64, depth=1, num_heads=4, mlp_width=128)
optim, mesh = OptimConfig(accumulate=2), make_mesh(1, 8, 1)
structure, state = abstract_state(lambda: vit_jax.create(config), optim)
batch = {"image": jnp.zeros((16, 8, 8, 3)), "label": jnp.zeros(16, jnp.int32)}
step = jit_train_step(structure, optim, state, mesh)
program = step.lower(state, batch, jax.random.key(0)).compile().as_text()
(carried,) = re.findall(r" = (.*) while[(]", program)
print(len(re.findall(r"f32.8,192.", carried)), len(re.findall(r"f32.64,(?:128|192)]", carried)))
print(largest(program)["all-gather"])
"""


def test_a_loop_over_parts_of_a_batch_keeps_no_parameter_whole():
    result = subprocess.run(
        [sys.executable, "-c", PARTS], cwd=ROOT, env=meshes.environment(1, 8, 0), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    pieces, whole, gathered = map(int, result.stdout.split())
    assert pieces > 0 and whole == 0
    assert gathered == 64 * 1000  # the head's kernel, and nothing with it


def test_every_parameter_that_a_config_can_name_has_one_rule():
    base = ViTConfig(image_size=32, patch_size=16, width=32, depth=1, num_heads=2, mlp_width=32)
    gated = {"activation": "silu", "layer_scale": 0.1, "qk_norm": True, "pre_norm": True}
    configs = [
        base.replace(distillation_token=True),
        base.replace(mlp="swiglu", **gated, num_registers=2, representation_size=32),
        base.replace(mlp="swiglu_packed", **gated, fc_norm=True, pool="mean"),
        base.replace(class_token=False, pool="map"),
    ]
    for config in configs:
        with jax.ensure_compile_time_eval():
            model = vit_jax.create(config)
        for name, rank in names(model):
            axes = logical_axes(name, rank)
            assert len(axes) == rank and set(axes) <= set(RULES)
            assert logical_axes(name, rank + 1) == (None, *axes)  # stacked
            if rank > 1 and "kernel" in name:
                assert any(axes), f"{name} is on every device"
    with pytest.raises(ValueError, match="parameter blocks.0.gate.kernel of rank 2 has no rule"):
        logical_axes("blocks.0.gate.kernel", 2)


def test_what_a_mesh_cannot_divide_is_refused_with_a_way_out():
    shape = jax.sharding.AbstractMesh((1, 4, 4), ("data", "fsdp", "tensor"))
    with pytest.raises(ValueError) as caught:
        check_model(get("Ti/16", width=200, num_heads=2, mlp_width=30), shape)
    text = str(caught.value)
    assert "num_heads 2 is not a multiple of the mesh's tensor 4: use at most 2 there" in text
    assert "mlp_width 30" in text and "width 200 is not a multiple of the mesh's fsdp x ten" in text
    with pytest.raises(
        ValueError, match="fsdp 7 x tensor 1 does not match the 1 available device:"
    ):
        make_mesh(-1, 7, 1, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="fsdp 0 must be at least 1"):
        MeshShape(fsdp=0)
    with pytest.raises(ValueError, match="only one of data, fsdp and tensor can be -1"):
        MeshShape(fsdp=-1)


def test_a_mesh_that_goes_along_no_axes_of_a_tpu_slice_is_refused():
    chips = [
        SimpleNamespace(platform="tpu", device_kind="TPU v5", coords=place, core_on_chip=0)
        for place in np.ndindex(4, 4, 4)
    ]
    with pytest.raises(ValueError, match="data 2 x fsdp 32 x tensor 1 does .* slice, 4 x 4 x 4: "):
        make_mesh(2, 32, 1, devices=chips)


def test_every_variant_can_be_divided_by_what_it_is_large_enough_for():
    shape = jax.sharding.AbstractMesh((1, 16, 1), ("data", "fsdp", "tensor"))
    for name in variants():
        check_model(get(name), shape)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
GKE = {
    "JAX_FORCE_TPU_INIT": "1", "TPU_SKIP_MDS_QUERY": "1", "MEGASCALE_NUM_SLICES": "1",
    "MEGASCALE_SLICE_ID": "0", "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    "TPU_WORKER_HOSTNAMES": "localhost,localhost",
}  # fmt: skip
FIELDS = {
    "optim.total-steps": 4, "optim.warmup-steps": 2, "log-every": 2, "eval-every": 4,
    "model.depth": 1, "model.width": 32, "model.num-heads": 2, "model.mlp-width": 32,
}  # fmt: skip
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
TEACHER = ViTConfig(image_size=8, patch_size=4, in_channels=1, num_classes=10, width=32, depth=1,
                    num_heads=2, mlp_width=32)  # fmt: skip
SHORT = ["digits", *(f"--{name}={value}" for name, value in FIELDS.items())]


def together(command: list[str], variables: list[dict[str, str]]) -> list[str]:
    """Output of processes that run beside each other; all have to succeed."""
    shared = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_PORT": str(meshes.free_port())}
    running = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=shared | own, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for own in variables
    ]  # fmt: skip
    found = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * len(running), found
    lines = [out.splitlines(keepends=True) for out, _ in found]
    return ["".join(line for line in out if not line.startswith("[Gloo]")) for out in lines]


def test_two_processes_of_two_devices_train_as_one_and_only_the_first_writes(tmp_path):
    vit_jax.save(vit_jax.create(TEACHER, seed=9), tmp_path / "teacher")
    taught = [f"--teacher={tmp_path / 'teacher'}", "--optim.distill=soft"]
    script = (
        "import sys, train; train.check_twin = lambda recipe, path: True\n"
        f"sys.argv = ['train.py', *{SHORT + taught!r}, *sys.argv[1:]]\n"
        "raise SystemExit(train.main())"
    )
    data = ["--data-dir", str(tmp_path / "data")]
    ranks = [
        {**SLURM, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "XLA_FLAGS": TWO_DEVICES}
        for i in range(2)
    ]
    together(["-c", script, *data, "--out", str(tmp_path / "one")], [{}])
    first, second = together(["-c", script, *data, "--out", str(tmp_path / "two")], ranks)
    assert "on 4 cpu devices" in first and second == ""
    (one, two) = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        keys = a.keys() - {"images_per_second", "data_wait", "test_accuracy_by_class"}
        assert a.get("test_accuracy_by_class") == b.get("test_accuracy_by_class")
        assert [b[key] for key in keys] == pytest.approx([a[key] for key in keys], rel=1e-5)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["test_images"] == 360


def test_each_process_explains_a_bad_step_and_keeps_its_share(tmp_path):
    script = (
        "import sys, train, numpy as np, jax; following = train.Batches.__next__\n"
        "def spoiled(self):\n    batch = following(self)\n"
        "    batch['image'][2, 1, 1] = np.nan if jax.process_index() else 0\n    return batch\n"
        "train.Batches.__next__ = spoiled\n"
        f"sys.argv = ['train.py', *{SHORT!r}, *sys.argv[1:]]\n"
        "sys.stderr = sys.__stdout__; raise SystemExit(train.main() != 1)"
    )
    ranks = [{**SLURM, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    folders = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    said = together(["-c", script, *folders], ranks)
    for i, text in enumerate(said):
        kept = np.load(tmp_path / "run" / f"bad_batch_step1_process{i}.npz")
        assert kept["image"].shape[0] == 64 and np.isnan(kept["image"]).any() == bool(i)
        assert f"of the training examples {kept['index'].tolist()}" in text
        assert ("images of the batch 2; in the forward pass first embed" in text) == bool(i)


@pytest.mark.parametrize("cluster", ["gke", "variables"])
def test_processes_find_each_other_on_cloud_tpu_and_by_variables(cluster):
    script = (
        "from vit_jax.processes import start_processes, union, end_processes\n"
        "start_processes('auto'); import jax; i = jax.process_index()\n"
        "both = union({'both': 0, str(i): 'long ' * i})\n"
        "print(i, jax.process_count(), ','.join(sorted(both))); end_processes()"
    )
    port = meshes.free_port()
    given = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    ranks = [
        GKE | {"TPU_WORKER_ID": str(i)} if cluster == "gke" else given | {"JAX_PROCESS_ID": str(i)}
        for i in range(2)
    ]
    assert [line.split() for line in together(["-c", script], ranks)] == [
        ["0", "2", "0,1,both"],
        ["1", "2", "0,1,both"],
    ]


def test_half_set_variables_are_refused(monkeypatch):
    from vit_jax.processes import start_processes

    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID: set"):
        start_processes("auto")
    start_processes("none")
