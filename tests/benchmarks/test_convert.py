"""The benchmark of conversions runs end to end, small; how fast it is here is not judged."""

import importlib.util
import json
import subprocess

import numpy as np
import pytest

from benchmarks import __main__ as listing
from benchmarks import convert


def test_the_list_names_every_benchmark(capsys):
    listing.main()
    assert "python -m benchmarks.convert" in capsys.readouterr().out


def run(tmp_path, *arguments):
    """The record of a run with the smallest model."""
    record = tmp_path / "x.json"
    common = ["--model", "Ti/16", "--dir", str(tmp_path), "--json", str(record)]
    convert.main([*common, *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    return json.loads(record.read_text())


def test_speed_is_measured_beside_cp(tmp_path, capsys):
    found = run(tmp_path, "--rounds", "1", "--only", "cp", "parity timm")
    assert set(found["seconds"]) == {"cp", "cp, fsync", "parity timm"}
    assert found["bytes"] == 4 * 5_717_416 and found["versions"]["numpy"]
    (one, other) = found["seconds"]["parity timm"], found["seconds"]["cp"]
    (row,) = (row for row in found["ratios"] if row["by"] == "cp")
    assert row["median"] == one[0] / other[0]
    assert "parity timm / cp, fsync" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_other_libraries_load_the_same_weights(library, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    convert.make(tmp_path / "ours", "Ti/16")
    convert.convert(tmp_path / "ours", tmp_path / "hf", target="hf_vit", certificate=False)
    python, flag, script, *rest = convert.commands(tmp_path, "Ti/16")[f"{library} load"]
    script += "\nprint(float(sum(p.detach().double().square().sum() for p in model.parameters())))"
    result = subprocess.run([python, flag, script, *rest], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded, squares = result.stdout.splitlines()
    assert loaded.startswith("load ")
    with convert.containers.opened(tmp_path / "ours") as opened:
        ours = sum(float(np.square(opened.read(n), dtype="f8").sum()) for n in opened.tensors)
    assert float(squares) == pytest.approx(ours, rel=1e-12)


def test_memory_stays_below_what_is_allowed(tmp_path):
    found = run(tmp_path, "--memory")
    assert [row["of"] for row in found["conversions"]] == [
        f"{name}, {way}" for name in (*convert.FORMATS, "orbax") for way in ("there", "back")
    ]
    allowed = 4 * found["largest_tensor"] / 1e3 + 400_000
    assert all(row["VmHWM_kB"] < allowed for row in found["conversions"])


def test_the_limit_of_memory_is_one(tmp_path):
    with pytest.raises(SystemExit, match="failed"):
        run(tmp_path, "--memory", "--limit", "60000")
