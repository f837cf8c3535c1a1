"""Certificates say enough to repeat a check or a conversion, and notice when they do not hold."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import parity
import vit_torch
from parity import certificate_file, containers
from parity.cli import main
from parity.report import Gap, Report
from vit_spec import checkpoint
from vit_spec.training_state import digest

QUICK = ["--level", "outputs"]


@pytest.fixture
def directory(pair, tmp_path, monkeypatch):
    """A checkpoint `twin` in the current directory."""
    monkeypatch.chdir(tmp_path)
    vit_torch.save(pair[1], "twin")
    return tmp_path / "twin"


@pytest.fixture
def recorded(directory, tmp_path):
    """The file of a certificate on `twin`."""
    assert main(["check", "twin", *QUICK, "--json", "cert.json"]) == 0
    return tmp_path / "cert.json"


def tamper(model, path):
    """Saves the same model with one weight one step further."""
    model.head.bias.data[0].nextafter_(torch.tensor(9.0))
    vit_torch.save(model, path)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_certificate_says_what_was_found_for_which_weights(recorded, directory, tiny):
    content = json.loads(recorded.read_text())
    assert content["format"] == "parity certificate 1"
    assert (content["subject"], content["verdict"]) == ("twin", "PASS")
    assert content["config"] == tiny.to_dict()
    state = digest(checkpoint.read(directory)[1])
    for side in ("jax", "torch"):
        weights = content["weights"][side]
        assert weights["state_sha256"] == state
        assert weights["file"] == "twin/model.safetensors" and len(weights["file_sha256"]) == 64
    row = content["levels"][1]
    assert (row["level"], row["dtype"], row["failures"]) == ("outputs", "float64", 0)
    assert row["compared"] == 4 and row["name"].endswith(("32x32", "24x48"))
    assert 0 <= row["largest_gap"] <= row["bound"]
    assert content["precision"]["x64"] is True and content["precision"]["matmul"] == "highest"
    assert content["versions"]["torch"] == torch.__version__
    assert str(directory.parent) not in recorded.read_text()


def test_a_certificate_has_the_same_entries_in_the_same_order_each_time(directory):
    first, second = (parity.certificate(parity.check(directory, level="outputs")) for _ in range(2))
    assert list(first) == list(second)
    changing = dict.fromkeys(("seconds", "peak_bytes", "date"))
    assert json.dumps(first | changing) == json.dumps(second | changing)


def test_verify_repeats_the_check(recorded, capsys):
    capsys.readouterr()
    assert main(["verify", "cert.json"]) == 0
    out = capsys.readouterr().out
    assert "nothing changed" in out and "outputs" in out
    assert out.splitlines()[-1].startswith("PASS  up to outputs")


def test_other_circumstances_are_listed_and_do_not_fail(recorded, capsys):
    edit(recorded, lambda c: c["versions"].update(jax="0.0.1"))
    assert main(["verify", "cert.json"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "versions.jax" in x)
    assert "0.0.1" in line and "MISMATCH" not in line


def test_other_weights_are_a_mismatch_even_if_both_sides_agree(recorded, pair, capsys):
    tamper(pair[1], "twin")
    assert main(["verify", "cert.json"]) == 1
    out = capsys.readouterr().out
    assert out.count("MISMATCH") == 4 and "weights.jax.file_sha256" in out
    assert "4 entries differ from the certificate" in out


def test_another_config_for_the_same_weights_is_a_mismatch(recorded, pair, tiny, directory):
    header, state = checkpoint.read(directory)
    checkpoint.write("heads", checkpoint.Header(config=tiny.replace(num_heads=4)), state)
    verification = parity.verify(recorded, "heads")
    assert not verification.passed
    assert "config.num_heads" in [c.what for c in verification.changes if c.matters]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="x"), "format 'x', not 'parity certificate 1'"),
        (lambda c: c.update(kind=[]), "kind []: known are check, conversion"),
        (lambda c: c["arguments"].pop("seed"), "it lacks arguments.seed"),
        (lambda c: c["arguments"].update(steps="many"), "steps 'many' must be a whole number"),
        (lambda c: c["arguments"].update(level="all"), "unknown level 'all'"),
        (lambda c: c["levels"][0].update(bound="big"), "levels[0].bound 'big' must be a number"),
        (lambda c: c["levels"][1].update(largest_gap=1), "levels[1].largest_gap 1 passes and"),
        (lambda c: c.update(verdict="FAIL"), "verdict is 'FAIL' with 0 failures"),
        (lambda c: c["arguments"]["model"].update(name="gone"), "is gone: give --model"),
    ],
    ids=["format", "kind", "missing", "type", "level", "number", "gap", "verdict", "model"],
)
def test_a_damaged_certificate_exits_with_2_and_names_the_problem(
    recorded, change, message, capsys
):
    edit(recorded, change)
    assert main(["verify", "cert.json"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000], ids=["0", "{", "nul", "deep"])
def test_what_is_not_json_exits_with_2(tmp_path, text, capsys):
    (tmp_path / "x.json").write_text(text)
    assert main(["verify", str(tmp_path / "x.json")]) == 2
    assert "x.json is not JSON" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none.json")]) == 2


def test_another_digest_and_a_level_that_does_not_run_again_are_mismatches(recorded, capsys):
    edit(recorded, lambda c: c["weights"]["torch"].update(file_sha256="0" * 64))
    assert main(["verify", "cert.json"]) == 1
    edit(recorded, lambda c: c["arguments"].update(level="weights"))
    assert main(["verify", "cert.json"]) == 1 and "not run now" in capsys.readouterr().out


def test_a_moved_model_is_found_by_the_option(recorded, directory):
    directory.rename("moved")
    assert [main(["verify", "cert.json", *o]) for o in ([], ["--model", "moved"])] == [2, 0]


def test_a_failing_check_leaves_certificate_and_page(directory, pair, capsys):
    tamper(pair[1], "other")
    pages = ["--json", "cert.json", "--html", "report.html"]
    assert main(["check", "twin", "--against", "other", *QUICK, *pages]) == 1
    content = certificate_file.read("cert.json")
    assert content["verdict"] == "FAIL" and content["levels"][0]["failures"] == 1
    assert content["levels"][0]["name"] == "head.bias"
    page = (directory.parent / "report.html").read_text()
    assert "FAIL" in page and "parity certificate 1" in page
    assert main(["verify", "cert.json"]) == 1
    assert main(["verify", "cert.json", "--against", "twin"]) == 1
    assert "weights.torch.state_sha256" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_place_that_cannot_be_written_is_refused_before_the_check(option, tmp_path, capsys):
    assert main(["check", "no_such_model", option, str(tmp_path / "no" / "file")]) == 2
    assert "no is not a directory: make it first" in capsys.readouterr().err
    assert main(["check", "no_such_model", option, str(tmp_path)]) == 2
    assert "is a directory: name a file in it" in capsys.readouterr().err


def test_nan_and_infinity_are_valid_json(tmp_path):
    gap = Gap(level="outputs", dtype="float64", name="x", gap=math.nan, bound=1.0, scale=1.0)
    report = Report(
        subject="x",
        parameters=1,
        level="outputs",
        dtypes=("float64",),
        gaps=(gap, replace(gap, dtype="float32", gap=math.inf)),
        settings={"batch_size": np.int64(2), "steps": 1, "seed": 0},
        digests={"jax": "a", "torch": "b"},
        environment={"versions": {}, "device": {}, "precision": {}},
    )
    certificate_file.write(tmp_path / "x.json", parity.certificate(report))
    rows = certificate_file.read(tmp_path / "x.json")["levels"]
    assert [row["largest_gap"] for row in rows] == ["nan", "inf"]
    with pytest.raises(ValueError, match="not what parity.check returned"):
        parity.certificate(Report(subject="x", parameters=1, level="", dtypes=(), gaps=()))


def test_weights_with_nan_are_certified_as_failing(directory, pair):
    pair[1].head.bias.data[0] = math.nan
    vit_torch.save(pair[1], "nan")
    assert main(["check", "nan", *QUICK, "--json", "cert.json"]) == 1
    assert certificate_file.read("cert.json")["levels"][1]["largest_gap"] == "nan"
    assert main(["verify", "cert.json"]) == 1


def test_random_weights_are_repeated_from_the_seed(tiny, tmp_path):
    report = parity.check(tiny, level="outputs", seed=3)
    certificate_file.write(tmp_path / "c.json", parity.certificate(report))
    content = certificate_file.read(tmp_path / "c.json")
    assert content["arguments"]["seed"] == 3 and "file" not in content["weights"]["jax"]
    assert parity.verify(tmp_path / "c.json").passed
    edit(tmp_path / "c.json", lambda c: c["arguments"].update(seed=4))
    assert not parity.verify(tmp_path / "c.json").passed


def test_live_models_are_given_again_or_named_by_their_file(directory, pair, tmp_path):
    report = parity.check(*pair, level="outputs")
    certificate_file.write("live.json", parity.certificate(report))
    with pytest.raises(ValueError, match="live model, which no file holds: save it and give"):
        parity.verify("live.json")
    assert parity.verify("live.json", *pair).passed
    assert parity.verify("live.json", "twin", "twin").passed
    certificate_file.write("file.json", parity.certificate(report, files=["twin"]))
    assert parity.verify("file.json").passed
    tamper(pair[1], "twin")
    with pytest.raises(ValueError, match="holds other weights than those that were checked"):
        parity.certificate(report, files=["twin"])


def test_the_sides_of_a_torch_model_and_a_file_keep_their_places(directory, pair):
    report = parity.check(pair[1], "twin", level="outputs")
    weights = parity.certificate(report)["weights"]
    assert "file" in weights["jax"] and "file" not in weights["torch"]


def test_models_that_are_no_twins_need_their_inputs_again(tmp_path):
    def linear(params, x):
        return x @ params["weight"].T

    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 2, bias=False).double(), np.eye(3)
    ours = (linear, {"weight": model.weight.detach().numpy()})
    report = parity.check(ours, model, inputs=x, level="outputs")
    certificate_file.write(tmp_path / "c.json", parity.certificate(report))
    with pytest.raises(ValueError, match="a check with inputs= which no certificate can hold"):
        parity.verify(tmp_path / "c.json", ours, model)
    assert parity.verify(tmp_path / "c.json", ours, model, inputs=x).passed


def test_a_conversion_is_certified_beside_its_output(directory, tiny, capsys):
    assert main(["convert", "twin", "plain.safetensors"]) == 0
    assert "certificate: plain.safetensors.parity.json" in capsys.readouterr().out
    content = certificate_file.read("plain.safetensors.parity.json")
    assert content["tensors"] == {"weights": len(checkpoint.read(directory)[1])}
    assert content["source"]["sha256"].keys() == {"weights", "config"}
    assert main(["verify", "plain.safetensors.parity.json"]) == 0
    assert main(["verify", "plain.safetensors"]) == 0
    assert "tensors bit for bit the same" in capsys.readouterr().out
    parity.convert("plain.safetensors", "again", model=tiny)
    assert vit_torch.load("again").config == tiny
    assert main(["verify", "again/parity.json"]) == main(["verify", "again"]) == 0
    (directory.parent / "again").rename("elsewhere")
    assert main(["verify", "elsewhere"]) == 0
    parity.convert("elsewhere", "third", certificate=False)
    assert not (directory.parent / "third" / "parity.json").exists()


def test_a_converted_file_that_changed_is_a_mismatch(directory, pair, capsys):
    parity.convert("twin", "copy")
    tamper(pair[1], "copy")
    assert main(["verify", "copy"]) == 1
    out = capsys.readouterr().out
    assert "target.weights.sha256" in out and "head.bias has other values" in out
    (directory / "config.json").unlink()
    assert main(["verify", "copy"]) == 1
    assert "source.config.sha256" in capsys.readouterr().out
    directory.rename("moved")
    assert main(["verify", "copy"]) == 2
    assert "twin, which copy/parity.json is of, is gone: give --against" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["target"]["sha256"].pop("weights"), "it lacks target.sha256.weights"),
        (lambda c: c["source"]["sha256"].update({"../x": ""}), "it has files '../x': known are"),
        (lambda c: c["tensors"].update(training=None), "tensors.training None must be"),
        (lambda c: c["source"].update(taken={"entry": 1}), "source.taken.entry 1 must be a text"),
        (lambda c: c["source"].update(taken={"tower": "img"}), "source.taken has 'tower'"),
        (lambda c: c.update(change={"fields": {}, "outputs": {}}), "it lacks change.outputs.size"),
    ],
    ids=["missing", "unknown", "type", "taken", "taken_unknown", "change"],
)
def test_a_damaged_certificate_of_a_conversion_exits_with_2(directory, change, message, capsys):
    parity.convert("twin", "copy")
    edit(certificate_file.beside("copy"), change)
    assert main(["verify", "copy"]) == 2
    assert message in capsys.readouterr().err


def test_a_target_that_reads_back_other_than_written_is_an_error(directory, monkeypatch):
    written = containers.write

    def faulty(path, kind, tensors, values, **options):
        written(path, kind, tensors, lambda n: values(n) + (n == "head.bias"), **options)

    monkeypatch.setattr(containers, "write", faulty)
    with pytest.raises(OSError, match=r"head.bias .*: the disk is faulty"):
        parity.convert("twin", "copy")
    assert not certificate_file.beside("copy").exists()
