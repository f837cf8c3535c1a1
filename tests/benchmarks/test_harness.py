"""Benchmarks run end to end, small; how fast anything is here is not judged."""

import ast
import json
import statistics
import sys
import time
from pathlib import Path

import pytest

from benchmarks import __main__ as listing
from benchmarks import _limits, _machine, compile, infer, suite, train
from benchmarks._cases import Case, pairs, parsed
from benchmarks._largest import first_power, largest
from benchmarks._measured import LIMIT, Settings, measure, of_matmul
from benchmarks._program import parser
from benchmarks._rounds import in_rounds, ratios, spread
from benchmarks._workers import WorkerError, WorkerProcess

FOLDER = Path(train.__file__).parent
CASE = Case(model="Ti/16@32", batch_size=4, dtype="float32", depth=2)
SETTINGS = Settings(device="cpu", threads=1, rounds=3, seconds=1.0, tiny=True)


def test_the_list_has_the_programs_and_only_those(capsys):
    listing.main()
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[2].removeprefix("benchmarks.") for line in lines}
    programs = {
        file.stem for file in FOLDER.glob("*.py") if '__name__ == "__main__"' in file.read_text()
    }
    assert listed == programs - {"__main__", "_worker"}


def test_help_names_the_command_as_it_is_typed():
    assert parser(train.__doc__, rounds=1).prog == "python -m benchmarks.train"


@pytest.mark.parametrize(
    ("contender", "expected"),
    [
        ("vit_jax", {}),
        ("vit_jax:scan,remat=full", {"scan": True, "remat": "full"}),
        ("vit_jax:scan=false", {"scan": False}),
        ("timm:compile,mode=max-autotune", {"compile": True, "mode": "max-autotune"}),
    ],
)  # fmt: skip
def test_a_contender_is_a_library_and_its_options(contender, expected):
    assert parsed(contender) == (contender.partition(":")[0], expected)


@pytest.mark.parametrize("contender", ["keras", "timm", "timm:compile,eager", "vit_torch:eager,x"])
def test_a_contender_that_cannot_be_is_refused(contender):
    with pytest.raises(ValueError, match="one of"):
        parsed(contender)


def test_lengths_are_those_of_their_names():
    found = infer.cases("gpu", models=["B/16"])
    assert {case.tokens for case in found} == {196, 197, 256, 257, 577}
    assert all(case.config.class_token == case.class_token for case in found)
    asked = infer.cases("gpu", models=["S/16"], tokens=[257], batch_sizes=[1])
    assert [(case.tokens, case.image_size, case.batch_size) for case in asked] == [(257, 256, 1)]


def test_rounds_change_their_order_and_the_first_does_not_count():
    asked = []
    found = in_rounds(lambda name: asked.append(name) or len(asked), "abc", rounds=5)
    turns = [tuple(asked[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns) and len(set(turns)) > 1
    assert sorted(sum(found.values(), [])) == list(range(4, 19))


def test_no_round_begins_that_would_end_too_late():
    slept = in_rounds(lambda _: time.sleep(0.02), "a", 99, deadline=time.monotonic() + 0.1)
    assert 1 <= len(slept["a"]) < 6
    assert len(in_rounds(lambda _: 1.0, "a", 99, deadline=time.monotonic() - 1)["a"]) == 1


def test_ratios_are_of_one_round():
    (found,) = ratios({"a": [2.0, 8.0, 30.0], "b": [1.0, 2.0, 10.0]}, [("a", "b"), ("a", "c")])
    assert found["rounds"] == [2.0, 4.0, 3.0] and found["median"] == 3.0
    assert found["quartiles"] == [2.5, 3.5]
    assert spread([7.0]) == {"median": 7.0, "quartiles": [7.0, 7.0], "rounds": [7.0]}
    assert pairs(["vit_jax", "timm:eager", "vit_jax:scan"]) == [
        ("vit_jax", "timm:eager"), ("vit_jax:scan", "timm:eager"),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0, 1, 5, 31, 32, 100, 700, 1000])
def test_the_largest_batch_fits_and_a_little_more_does_not(limit):
    found = largest(lambda size: size <= limit, 32)
    step = first_power(found) // 8 if found >= 8 else 1
    assert found <= limit < found + step


class FakeWorker:
    """Answers as a process would: a step takes `seconds`; fails when asked to do `broken`."""

    deadline = None

    def __init__(self, seconds, amount=4.0, broken=None):
        self.seconds, self.amount, self.broken, self.answers = seconds, amount, broken, []
        self.closed = False

    def send(self, do, **request):
        self.answers.append((do, request))

    def answer(self):
        do, request = self.answers.pop(0)
        if do == self.broken:
            raise WorkerError("it broke")
        seconds = self.seconds * request.get("steps", 1)
        memory = {"kind": "resident", "peak": 1}
        return {"prepare": {"amount": self.amount, "facts": {}}, "time": {"seconds": seconds},
                "warm": {"first_seconds": 1.0, "memory": memory}}[do]  # fmt: skip

    def ask(self, do, **request):
        self.send(do, **request)
        return self.answer()

    def close(self):
        self.closed = True


@pytest.mark.parametrize("apart", [True, False])
def test_a_case_has_rates_ratios_and_limits_and_tells_what_failed(apart):
    workers = {
        "vit_jax": FakeWorker(0.1),
        "timm:eager": FakeWorker(0.2),
        "timm:compile": FakeWorker(0.1, broken="warm"),
        "vit_torch:eager": FakeWorker(0.1, broken="time"),
        "limits": FakeWorker(0.001, amount=1e9),
    }
    settings = Settings(device="cpu", threads=1, rounds=3, apart=apart)
    every = list(workers.values())
    names = [name for name in workers if name != "limits"]
    found = measure("train", CASE, names, settings, workers)  # type: ignore[arg-type]
    rates = {n: c["images_per_second"]["median"] for n, c in found["contenders"].items()}
    assert rates == pytest.approx({"vit_jax": 40.0, "timm:eager": 20.0})
    (ratio,) = found["ratios"]
    assert (ratio["of"], ratio["by"]) == ("vit_jax", "timm:eager")
    assert ratio["median"] == pytest.approx(2.0) and len(ratio["rounds"]) == 3
    assert found["failed"] == {"timm:compile": "it broke", "vit_torch:eager": "it broke"}
    assert found["limits"].keys() == _limits.LIMITS.keys()
    assert of_matmul(found, 40.0) == pytest.approx(40.0 * found["flops_per_image"] / 1e12)
    assert all(worker.closed for worker in every)
    assert f"{LIMIT}torch copy" not in found["failed"]


@pytest.mark.parametrize("name", _limits.LIMITS)
def test_limits_do_the_work_that_they_count(name):
    work = _limits.LIMITS[name]("float32", "cpu", tiny=True)
    work.run(2)
    side = _limits.SIDES["cpu"] // _limits.TINY
    expected = 2 * _limits.COPIED["cpu"] / _limits.TINY if name == _limits.COPY else 2 * side**3
    assert work.amount == expected


def test_a_worker_that_fails_ends_or_is_late_says_so():
    chosen = {"device": "cpu", "threads": 1}
    worker = WorkerProcess("limits", **chosen)
    with pytest.raises(WorkerError, match="KeyError: 'nothing'"):
        worker.ask("prepare", task="nothing", case={"dtype": "float32"}, options={})
    worker.process.kill()
    with pytest.raises(WorkerError, match="ended with -9"):
        worker.ask("time", task="nothing", steps=1)
    worker.close()
    late = WorkerProcess("limits", **chosen, deadline=time.monotonic())
    with pytest.raises(WorkerError, match="no answer within 0 s"):
        late.ask("time", task="nothing", steps=1)
    assert late.process.poll() is not None
    with pytest.raises(WorkerError, match="ended before"):
        late.ask("time", task="nothing", steps=1)


def test_training_is_measured_in_processes_and_written(tmp_path, capsys):
    file = tmp_path / "train.json"
    arguments = ["--tiny", "--device", "cpu", "--threads", "1", "--rounds", "1", "--seconds"]
    arguments += ["0.01", "--no-limits", "--json", str(file)]
    train.main([*arguments, "--contenders", "vit_jax", "vit_torch:eager"])
    found = json.loads(file.read_text())
    (case,) = found["cases"]
    assert not case["failed"] and case["contenders"].keys() == {"vit_jax", "vit_torch:eager"}
    assert all(c["memory"]["peak"] > 50e6 for c in case["contenders"].values())
    ours, theirs = (c["images_per_second"]["rounds"] for c in case["contenders"].values())
    assert case["ratios"][0]["median"] == statistics.median([ours[0] / theirs[0]])
    assert found["versions"]["jax"] and found["machine"]["cores"] and found["settings"]["rounds"]
    assert str(tmp_path) not in json.dumps(found)
    out = capsys.readouterr().out
    assert "x vit_torch:eager" in out and "images/s" in out and found["hardware"] in out


def test_only_ours_run_in_another_interpreter(tmp_path):
    other, file = tmp_path / "python", tmp_path / "train.json"
    other.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    arguments = ["--tiny", "--device", "cpu", "--threads", "1", "--rounds", "1", "--seconds"]
    arguments += ["0.01", "--no-limits", "--json", str(file), "--jax-python", str(other)]
    train.main([*arguments, "--contenders", "vit_jax", "vit_torch:eager"])
    found = json.loads(file.read_text())
    assert found["jax_versions"] == {
        name: found["versions"][name]
        for name in ("python", "numpy", "jax", "jaxlib", "flax", "optax")
    }
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if "_worker" in line]
    assert asked == ["-m benchmarks._worker vit_jax cpu"] and str(tmp_path) not in file.read_text()


@pytest.mark.parametrize("program", [None, "exit 3", "echo '{}'"])
def test_an_interpreter_without_jax_is_refused(program, tmp_path, capsys):
    other = tmp_path / "python"
    if program:
        other.write_text(f"#!/bin/sh\n{program}\n")
        other.chmod(0o755)
    with pytest.raises(SystemExit):
        train.main(["--tiny", "--jax-python", str(other)])
    wanted = "lacks numpy, jax, jaxlib, flax, optax" if program == "echo '{}'" else "is no Python"
    assert f"{other} {wanted}" in capsys.readouterr().err


def test_growth_of_compile_time_is_against_the_fewest_blocks_of_a_round():
    def row(depth, first, **more):
        return {"contender": "vit_jax", "depth": depth, "first": first, **more}

    rounds = [[row(12, 2.0), row(48, 8.0)], [row(12, 4.0), row(48, 10.0)]]
    shallow, deep = compile.summarized(rounds)
    assert shallow["growth"]["median"] == 1.0 and deep["growth"]["rounds"] == [4.0, 2.5]
    failed = [row(12, 2.0), {"contender": "vit_jax", "depth": 48, "error": "too slow"}]
    assert compile.summarized([failed])[1]["error"] == "too slow"


@pytest.mark.parametrize("device", _machine.DEVICES)
def test_the_suite_begins_with_training_and_lists_without_running(device, capsys):
    suite.main(["--list", "--device", device])
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.partition(":")[0] for line in lines]
    assert kinds == sorted(kinds, key=list(suite.MODULES).index) and set(kinds) == set(
        suite.MODULES
    )
    assert ("timm" in lines[0]) == (device != "tpu")


def test_the_suite_names_what_the_budget_does_not_allow(tmp_path, capsys):
    suite.main(["--tiny", "--device", "cpu", "--budget", "0", "--out", str(tmp_path)])
    records = [json.loads(file.read_text()) for file in sorted(tmp_path.iterdir())]
    assert [record["benchmark"] for record in records] == ["compile", "infer", "train"]
    items = suite.plan("cpu", tiny=True)
    assert sum(len(record["skipped"]) for record in records) == len(items)
    assert capsys.readouterr().out.count("0 s of the budget were left") == len(items)


def test_the_suite_needs_nothing_of_the_data_pipeline():
    for name in ("suite", "train", "infer", "compile", *(f.stem for f in FOLDER.glob("_[!_]*.py"))):
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        modules = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        roots = {module.partition(".")[0] for module in modules}
        assert not roots & {"vit_data", "grain", "tensorflow_datasets", "tyro", "train"}, name
