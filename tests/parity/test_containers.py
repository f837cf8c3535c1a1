"""Containers against the readers and writers of the libraries that own the kinds."""

import argparse
import json
import subprocess
import sys
import warnings
import zipfile

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from parity import containers
from parity.containers import info, msgpack_file

KINDS = containers.KINDS
ONLY = {  # dtypes that a kind cannot hold
    "npz": set(info.EXTENDED) - {"bfloat16"},
    "safetensors": {"complex128"},
}


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Some numbers of a dtype."""
    count = int(np.prod(shape))
    return (np.arange(count) % 7).astype(np.float32).astype(info.DTYPES[dtype]).reshape(shape)


def state() -> dict[str, np.ndarray]:
    """Names and shapes as they are published."""
    return {
        "Transformer/encoderblock_0/kernel": values("float32", (3, 4)),
        "Transformer/encoderblock_0/bias": values("bfloat16", (5,)),
        "Transformer/half": values("float16", (1, 2, 3)),
        "step": values("int64", ()),
        "mask": values("bool", (3,)),
        "empty": values("float32", (0, 4)),
    }


def write(path, kind, tensors, **options):
    """Writes arrays as a container."""
    infos = {name: containers.Info.of(a.dtype, a.shape) for name, a in tensors.items()}
    containers.write(path, kind, infos, tensors.__getitem__, **options)


def same(ours, theirs):
    """Equal names, dtypes, shapes and bits."""
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        other = np.asarray(theirs[name])
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name


def read(path) -> dict[str, np.ndarray]:
    """All tensors, with what is told of them beforehand."""
    with containers.opened(path) as opened:
        found = {name: opened.read(name) for name in opened.tensors}
        told = dict(opened.tensors)
    assert told == {n: containers.Info.of(a.dtype, a.shape) for n, a in found.items()}
    assert all(a.nbytes == told[n].nbytes for n, a in found.items())
    assert not any(a.flags.writeable or not a.flags.aligned for a in found.values())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", info.DTYPES)
def test_every_dtype_and_shape_survives(tmp_path, kind, dtype):
    arrays = {str(shape): values(dtype, shape) for shape in ((), (0,), (2, 0, 3), (5,), (2, 3, 4))}
    arrays["transposed"] = values(dtype, (3, 4)).T
    if dtype in ONLY.get(kind, ()):
        with pytest.raises(ValueError, match=dtype):
            write(tmp_path / "file", kind, arrays)
        assert not list(tmp_path.iterdir())
        return
    write(tmp_path / "file", kind, arrays)
    same(read(tmp_path / "file"), arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_from_the_content(tmp_path, kind):
    for name in ("a", "a.npz", "a.safetensors", "a.pth", "a.msgpack"):
        write(tmp_path / name, kind, state())
        with containers.opened(tmp_path / name) as opened:
            assert opened.kind == kind
        same(read(tmp_path / name), state())


def test_others_read_what_we_write(tmp_path):
    for kind in KINDS:
        write(tmp_path / kind, kind, state(), **META if kind == "safetensors" else {})
    same(safetensors.numpy.load_file(tmp_path / "safetensors"), state())
    with safetensors.safe_open(tmp_path / "safetensors", "numpy") as opened:
        assert opened.metadata() == META["metadata"]
    with np.load(tmp_path / "npz") as opened:
        loaded = {n: opened[n] for n in opened.files}
    name = "Transformer/encoderblock_0/bias"
    assert loaded[name].dtype == "V2"
    same(loaded | {name: loaded[name].view(ml_dtypes.bfloat16)}, state())
    tree = flax.serialization.msgpack_restore((tmp_path / "msgpack").read_bytes())
    nested = tree.pop("Transformer")
    block = nested.pop("encoderblock_0")
    flat = {f"Transformer/{k}": v for k, v in nested.items()}
    flat |= {f"Transformer/encoderblock_0/{k}": v for k, v in block.items()}
    same(flat | tree, state())
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "torch", weights_only=True, mmap=mapped)
        assert loaded[name].dtype == torch.bfloat16
        assert not any(t.data_ptr() % 64 for t in loaded.values() if mapped)
        same({n: t.float().numpy() for n, t in loaded.items()}, as_float(state()))


META = {"metadata": {"format": "pt", "é": 'ü\n"quoted"'}}


def as_float(tensors):
    """In float32, which holds all of these numbers."""
    return {n: a.astype(np.float32) for n, a in tensors.items()}


def test_we_read_what_others_write(tmp_path):
    arrays = state()
    path = tmp_path / "a"
    safetensors.numpy.save_file(arrays, path, META["metadata"])
    same(read(path), arrays)
    with containers.opened(path) as opened:
        assert opened.metadata == META["metadata"]
        assert opened.config is None
    raw = {n: a.view("V2") if a.dtype == ml_dtypes.bfloat16 else a for n, a in arrays.items()}
    raw["fortran"] = arrays["fortran"] = np.asfortranarray(values("float64", (3, 5)))
    raw["big"] = values("int32", (3,)).astype(">i4")
    arrays["big"] = values("int32", (3,))
    for save in (np.savez, np.savez_compressed):
        with path.open("wb") as out:
            save(out, **raw)
        same(read(path), arrays)
    with path.open("wb") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(out, x=values("bfloat16", (2,)))
    same(read(path), {"x": values("bfloat16", (2,))})


def test_flax_trees(tmp_path):
    tree = {
        "params": {"kernel": values("float32", (3, 4)), "bias": values("bfloat16", (2,))},
        "opt": {"0": {}, "1": {"count": np.int32(3), "none": None}},
        "numbers": [1, -3, 2.5, True, 2**63, 1 + 2j],
        "note": "text",
    }
    (tmp_path / "a").write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(tmp_path / "a")
    assert found["opt/1/count"].dtype == np.int32
    assert [found[f"numbers/{i}"].item() for i in range(6)] == tree["numbers"]
    assert found["numbers/4"].dtype == np.uint64
    same({"kernel": found["params/kernel"]}, {"kernel": tree["params"]["kernel"]})
    with containers.opened(tmp_path / "a") as opened:
        assert opened.metadata == {"not_tensors": "note, opt/1/none"}


def test_arrays_beyond_a_gigabyte_are_chunked_as_in_flax(tmp_path, monkeypatch):
    tensors = {"a/kernel": values("float32", (5, 7)), "b": values("bfloat16", (3,))}
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    monkeypatch.setattr(msgpack_file, "CHUNK", 40)
    write(tmp_path / "ours", "msgpack", tensors)
    same(read(tmp_path / "ours"), tensors)
    tree = flax.serialization.msgpack_restore((tmp_path / "ours").read_bytes())
    same({"a/kernel": tree["a"]["kernel"], "b": tree["b"]}, tensors)
    nested = {"a": {"kernel": tensors["a/kernel"]}, "b": tensors["b"]}
    (tmp_path / "theirs").write_bytes(flax.serialization.msgpack_serialize(nested))
    same(read(tmp_path / "theirs"), tensors)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("entry", ["", "model", "state_dict", "teacher"])
def test_tensors_of_torch_have_the_names_of_the_dicts_that_they_are_in(tmp_path, entry, zipped):
    tensors = {"block.weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3).bfloat16()}
    settings = argparse.Namespace(lr=0.1, data="imagenet")  # in releases of DeiT, DINO and MAE
    saved = {entry: tensors, "epoch": 3, "args": settings} if entry else tensors
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    before = f"{entry}." if entry else ""
    values = {"block.weight": tensors["block.weight"].numpy(), "half": values_of_ones()}
    same(read(tmp_path / "a.pth"), {before + name: value for name, value in values.items()})
    with containers.opened(tmp_path / "a.pth") as opened:
        assert set(opened.entries.values()) == {entry}
        beside = {"epoch": 3, "args.lr": 0.1, "args.data": "imagenet"}
        assert opened.beside == (beside if entry else {})


def values_of_ones():
    """Three ones in bfloat16."""
    return np.ones(3, ml_dtypes.bfloat16)


def test_torch_views_parameters_and_nested_modules(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    saved = {"a": {"t": base.T, "row": base[1]}, "p": torch.nn.Parameter(base), "n": None}
    torch.save(saved, tmp_path / "a")
    expected = {"a.t": base.T.numpy(), "a.row": base[1].numpy(), "p": base.numpy()}
    same(read(tmp_path / "a"), expected)


def test_stored_tensors_are_mapped_and_outlive_the_file(tmp_path):
    for kind in ("safetensors", "npz", "msgpack"):
        write(tmp_path / kind, kind, {"x": values("uint8", (2**20,)), "y": values("float32", (5,))})
        with containers.opened(tmp_path / kind) as opened:
            x = opened.read("x")
            assert type(x.base).__name__ == "mmap"
        with pytest.raises(ValueError, match="closed: read 'x' inside"):
            opened.read("x")
        write(tmp_path / kind, kind, {"x": values("float32", (2,))})
        assert x.sum() == values("uint8", (2**20,)).sum()


def test_config_and_unknown_names(tmp_path):
    write(tmp_path / "model.safetensors", "safetensors", state())
    (tmp_path / "config.json").write_text(json.dumps({"depth": 2}))
    with containers.opened(tmp_path) as opened:
        assert opened.config == {"depth": 2}
        with pytest.raises(KeyError, match="unknown tensor 'stop'.*did you mean step"):
            opened.read("stop")
    (tmp_path / "config.json").write_text('{"depth": 2')
    with (
        containers.opened(tmp_path) as opened,
        pytest.raises(containers.BrokenFile, match="config.json: the file is not JSON"),
    ):
        _ = opened.config


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, kind):
    write(tmp_path / "a", kind, state())
    before = (tmp_path / "a").read_bytes()
    infos = {name: containers.Info.of("float32", (3,)) for name in "xy"}

    def fails(error):
        def give(name):
            if name == "y":
                raise error
            return values("float32", (3,))

        return give

    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            containers.write(tmp_path / "a", kind, infos, fails(error))
    with pytest.raises(ValueError, match="'x' was declared float32 .* are float64"):
        containers.write(tmp_path / "a", kind, infos, lambda _: values("float64", (3,)))
    assert (tmp_path / "a").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_written_is_refused(tmp_path):
    x = values("float32", (2,))
    for kind in ("npz", "msgpack", "torch"):
        with pytest.raises(ValueError, match="no place for metadata"):
            write(tmp_path / "a", kind, {"x": x}, metadata={"a": "b"})
    with pytest.raises(ValueError, match="unknown kind of container 'numpy'"):
        write(tmp_path / "a", "numpy", {"x": x})
    for name in ("../x", "/x", "a/../../x", "C:x", "a\\b", ""):
        with pytest.raises(ValueError, match="cannot be the name"):
            write(tmp_path / "a", "npz", {name: x})
    with pytest.raises(ValueError, match="'a/b' is below 'a'"):
        write(tmp_path / "a", "msgpack", {"a": x, "a/b": x})
    with pytest.raises(ValueError, match="nbytes"):
        wrong = {"x": containers.Info("float32", (2,), 4)}
        containers.write(tmp_path / "a", "npz", wrong, lambda _: x)
    assert not list(tmp_path.iterdir())


def test_npz_members_are_aligned_stored_and_deterministic(tmp_path):
    write(tmp_path / "a", "npz", state())
    write(tmp_path / "b", "npz", state())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.testzip() is None
        assert {m.compress_type for m in archive.infolist()} == {zipfile.ZIP_STORED}
    with containers.opened(tmp_path / "a") as opened:
        assert type(opened.read("Transformer/half").base).__name__ == "mmap"


def test_no_framework_is_imported_and_pickles_say_that_they_need_torch(tmp_path):
    write(tmp_path / "a.npz", "npz", state())
    write(tmp_path / "a.pth", "torch", state())
    script = (
        "import sys\nfrom parity import containers\n"
        f"with containers.opened({str(tmp_path / 'a.npz')!r}) as c: c.read('step')\n"
        "loaded = {'torch', 'jax', 'flax', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "sys.modules['torch'] = None\n"
        f"try: containers.opened({str(tmp_path / 'a.pth')!r}).__enter__()\n"
        "except ModuleNotFoundError as e: print(e)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "pip install torch, or convert the file to safetensors" in result.stdout
