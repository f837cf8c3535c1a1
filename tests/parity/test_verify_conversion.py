"""`parity verify` notices other files beside the weights, which say what the model is."""

import json
from pathlib import Path

import pytest

import parity
import vit_torch
from parity.cli import main
from tests.twin_models import TINY


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A directory `there` of transformers' ViT."""
    monkeypatch.chdir(tmp_path)
    vit_torch.save(vit_torch.create(TINY), "ours")
    return parity.convert("ours", "there", target="hf_vit")


def attribute(name, value):
    """Writes one attribute of a JSON file."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("config.json", attribute("hidden_act", "quick_gelu"), "config"),
        ("config.json", attribute("num_attention_heads", 4), "config"),
        ("config.json", Path.unlink, "config"),
        ("preprocessor_config.json", attribute("image_mean", [0.1] * 3), None),
        ("preprocessor_config.json", Path.unlink, None),
    ],
    ids=["activation", "heads", "no config", "mean", "no preprocessing"],
)
def test_another_file_beside_the_target_is_the_one_mismatch(there, name, change, part, capsys):
    assert main(["verify", "there"]) == 0
    change(there / name)
    capsys.readouterr()
    assert main(["verify", "there"]) == 1
    out = capsys.readouterr().out
    assert out.count("MISMATCH") == 1 and f"target.{part or name}.sha256" in out


@pytest.mark.parametrize("source", ["there", "there/model.safetensors"])
@pytest.mark.parametrize(
    "change", [attribute("hidden_act", "quick_gelu"), Path.unlink], ids=["activation", "none"]
)
def test_another_file_beside_the_source_is_a_mismatch(there, source, change, capsys):
    parity.convert(source, "back")
    assert main(["verify", "back"]) == 0
    change(there / "config.json")
    capsys.readouterr()
    assert main(["verify", "back"]) == 1
    result = capsys.readouterr()
    assert "source.config.sha256" in result.out and not result.err


def test_outputs_that_differ_name_the_file(there, capsys):
    parity.convert("ours", "checked", target="hf_vit", verify=True)
    attribute("hidden_act", "quick_gelu")(Path("checked/config.json"))
    assert main(["verify", "checked"]) == 1
    out = capsys.readouterr().out
    assert "target.config.sha256" in out and "outputs.verdict" in out
    record = Path("checked/parity.json")
    outputs = json.loads(record.read_text())["outputs"] | {"largest_gap": 1}
    attribute("outputs", outputs)(record)
    assert main(["verify", "checked"]) == 2
    assert "outputs.largest_gap 1 passes and is over its bound" in capsys.readouterr().err


def test_a_changed_file_is_not_replaced(there):
    attribute("hidden_act", "quick_gelu")(there / "config.json")
    with pytest.raises(FileExistsError, match=r"not as it was converted: config\.json changed"):
        parity.convert("ours", "there", target="hf_vit")


@pytest.mark.parametrize("path", ["ours", "ours/model.safetensors"])
def test_a_path_without_a_certificate_is_told_what_to_give(there, path, capsys):
    assert main(["verify", path]) == 2
    error = capsys.readouterr().err
    assert f"{path} has no certificate of a conversion: give what `parity convert`" in error


def test_the_certificate_of_a_file_is_found_beside_it(there):
    vit_torch.save(vit_torch.create(TINY.replace(activation="gelu_tanh")), "tanh")
    parity.convert("tanh", "s.npz", target="augreg")
    assert main(["verify", "s.npz"]) == main(["verify", "s.npz.parity.json"]) == 0
    Path("config.json").write_text("{}")  # of another model
    assert main(["verify", "s.npz"]) == 0
