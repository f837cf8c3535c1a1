"""`parity convert --max-shard-size`: several files and their index, as transformers has them."""

import json

import pytest

import parity
from parity.cli import main
from parity.containers import opened
from parity.containers.shard_writing import size_of
from parity.containers.shards import MOST_SHARDS
from tests.parity.format_oracles import assert_same_bits, randomised

transformers = pytest.importorskip("transformers")
LIMIT = 20_000


@pytest.fixture
def oracle(tmp_path):
    """A tiny model of transformers, and the directory in which it wrote itself."""
    settings = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        intermediate_size=48, num_labels=5,
    )  # fmt: skip
    model = randomised(transformers.ViTForImageClassification(settings))
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


def test_transformers_and_we_read_the_files_back(oracle, tmp_path):
    model, theirs = oracle
    ours = parity.convert(theirs, tmp_path / "ours", target="hf_vit", max_shard_size="20KB")
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    names = [f"model-{n + 1:05}-of-{len(files):05}.safetensors" for n in range(len(files))]
    assert len(files) > 2 and files == names and not (ours / "model.safetensors").exists()
    held = {}
    for file in files:
        with opened(ours / file) as shard:
            sizes = {name: info.nbytes for name, info in shard.tensors.items()}
        assert sum(sizes.values()) <= LIMIT or len(sizes) == 1
        held |= dict.fromkeys(sizes, file)
    assert held == index["weight_map"]
    loaded, said = transformers.ViTForImageClassification.from_pretrained(
        ours, output_loading_info=True, dtype="auto"
    )
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert tensor.equal(loaded.state_dict()[name]), name
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in model.state_dict().values()
    )
    back = parity.convert(ours, tmp_path / "back", target="hf_vit", verify=True)
    assert_same_bits(theirs / "model.safetensors", back / "model.safetensors")
    assert parity.verify(ours).passed
    parity.convert(theirs, ours, target="hf_vit", max_shard_size="30KB")  # replaces its own files
    assert parity.verify(ours).passed
    shard = sorted(ours.glob("model-*"))[0]
    shard.write_bytes(shard.read_bytes().replace(b'"format":"pt"', b'"format":"tp"'))
    changed = [change.what for change in parity.verify(ours).changes]
    assert changed == [f"target.{shard.name}.sha256"]
    with pytest.raises(FileExistsError, match=f"is not as it was converted: {shard.name} changed"):
        parity.convert(theirs, ours, target="hf_vit")


def test_what_fits_into_one_file_has_no_index(oracle, tmp_path):
    ours = parity.convert(oracle[1], tmp_path / "ours", target="hf_vit", max_shard_size=10**9)
    assert [p.name for p in ours.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("target", "size", "message"),
    [
        ("timm", "5GB", "--max-shard-size '5GB' is for directories of transformers, not for timm"),
        ("hf_vit", "5XB", "the size '5XB' must be whole bytes, or such as 5GB"),
        ("hf_vit", "0", "the size '0' must be whole bytes"),
        ("hf_vit", "1", f"files of 1 bytes; at most {MOST_SHARDS} are read"),
    ],
)
def test_sizes_that_cannot_be_are_refused(target, size, message, oracle, tmp_path, capsys):
    if size == "1":
        deep = transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=33, num_attention_heads=1, image_size=16, patch_size=8,
            intermediate_size=8,
        )  # fmt: skip
        transformers.ViTModel(deep).save_pretrained(oracle[1])
    out = tmp_path / "out"
    assert (
        main(["convert", str(oracle[1]), str(out), "--to", target, "--max-shard-size", size]) == 2
    )
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("size", "count"),
    [(7, 7), ("012", 12), ("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), (2**53 + 1, 2**53 + 1)],
)
def test_sizes_are_decimal_or_binary(size, count):
    assert size_of(size) == count


@pytest.mark.parametrize("size", ["9" * 400, "9" * 5000, "1.5", 1.5, "1.0", -1, "0.1 KB\n1", ""])
def test_what_is_no_size_is_refused_in_one_short_line(size):
    with pytest.raises(ValueError, match="^the size .* must be whole bytes, or such") as error:
        size_of(size)
    assert len(str(error.value)) < 160
