"""JSON beside the weights: what is wrong is named by file, attribute, value and rule."""

import json
import os
import random
import shutil
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parity
from parity.containers import BrokenFile
from tests.fuzz_json import Run
from vit_spec import checkpoint

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("seeds"))


def changed(folder, file, path, value):
    """The text of a JSON file with another value at a path; None: without it."""
    content = json.loads((folder / file).read_text())
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(content).encode()


def refusal(folder, file, text):
    """The message for a directory with another file, said in a second and in little memory."""
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(text)
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(ValueError) as caught:
            parity.inspect(folder)
        with pytest.raises(ValueError, match=r"(?s)."):
            parity.convert(folder, folder.with_name("back"), certificate=False)
        assert time.process_time() - begin < 1
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
        (folder / file).write_bytes(whole)
    assert type(caught.value) in (ValueError, BrokenFile)
    return str(caught.value)


MADE = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize(
    ("format", "file"),
    [("hf_vit", CONFIG), ("hf_vit", PREPROCESSOR), ("timm", CONFIG), ("vitwin", CONFIG)],
)
def test_what_is_no_file_is_not_taken_for_absent(format, file, make, run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(run.folders[format], folder)
    (folder / file).unlink()
    make(folder / file)
    message = rf"{file}: it is not a regular file; put the file there, or remove it"
    with pytest.raises(BrokenFile, match=message):
        parity.inspect(folder)
    with pytest.raises(ValueError, match=message):
        parity.convert(folder, tmp_path / "x", model="B/16")
    with pytest.raises((ValueError, OSError), match=f"{file}.* not a regular file|{file}'"):
        parity.convert(folder, tmp_path / "x", source=format, model="B/16")
    assert not (tmp_path / "x").exists()


def test_a_pipe_given_as_a_model_is_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(ValueError, match=r"config.json: it is not a regular file"):
        parity.convert(run.folders["timm"], tmp_path / "x", model=tmp_path / CONFIG)


VALUES = {  # format, file, place, value, message
    "text": ("hf_vit", CONFIG, ["hidden_size"], "64", "hidden_size '64' must be a whole number"),
    "list": ("hf_vit", CONFIG, ["hidden_act"], [], r"hidden_act \[\] must be one of gelu, gelu"),
    "bool": ("hf_vit", CONFIG, ["num_hidden_layers"], True, "num_hidden_layers True must be a"),
    "int for bool": ("hf_vit", CONFIG, ["qkv_bias"], 1, "qkv_bias 1 must be true or false"),
    "epsilon": ("hf_clip", CONFIG, ["layer_norm_eps"], 1, "layer_norm_eps 1 must be a number bet"),
    "labels": ("hf_vit", CONFIG, ["id2label"], {"a": "b"}, "id2label {'a': 'b'} must be an obj"),
    "ratio": ("hf_dinov2", CONFIG, ["mlp_ratio"], [4], r"mlp_ratio \[4\] must be a number above"),
    "odd": ("hf_vit", CONFIG, ["x\x1b"], 1, r"no rule reads: x\\x1b 1; if they do not, delete"),
    "size": ("hf_vit", PREPROCESSOR, ["size"], {"longest_edge": 32}, "must be .* of shortest_edge"),
    "no size": ("hf_vit", PREPROCESSOR, ["size"], {"height": 0, "width": 0}, "size .* must be a"),
    "mean": ("hf_vit", PREPROCESSOR, ["image_mean"], 0.5, "image_mean 0.5 must be a list of fin"),
    "resample": ("hf_vit", PREPROCESSOR, ["resample"], True, "resample True must be one of 0, 1"),
    "arguments": ("timm", CONFIG, ["model_args"], [], r"model_args \[\] must be an object"),
    "heads": ("timm", CONFIG, ["model_args", "num_heads"], "a", "num_heads 'a' must be a whole"),
    "crop": ("timm", CONFIG, ["pretrained_cfg", "crop_pct"], 0, "crop_pct 0 must be a number ab"),
    "tower": ("open_clip", "open_clip_config.json", ["model_cfg"], 3, "model_cfg 3 must be an obj"),
    "layers": (
        "open_clip", "open_clip_config.json", ["model_cfg", "vision_cfg", "head_width"], {},
        "head_width {} must be a whole number from 1",
    ),
    "ours": ("vitwin", CONFIG, ["config", "width"], "a", "width 'a' must be a whole number of at"),
    "our flag": ("vitwin", CONFIG, ["config", "layer_scale"], True, "layer_scale True must be a n"),
    "our mean": ("vitwin", CONFIG, ["preprocessing", "mean"], ["a"], r"mean \('a',\) must be a t"),
    "our labels": ("vitwin", CONFIG, ["labels"], "xyz", "labels 'xyz' must be a list of texts"),
    "our config": ("vitwin", CONFIG, ["config"], [], r"config \[\] must be an object"),
    "ours lacks": ("vitwin", CONFIG, ["preprocessing"], None, "lacks the entry 'preprocessing'"),
    "depth": (
        "hf_vit", CONFIG, ["num_hidden_layers"], 30_000_000,
        "depth 30000000 is said: at most 256 blocks are looked for",
    ),
    "width": (
        "hf_vit", CONFIG, ["hidden_size"], 4_000_000,
        r"stands for \d{14} \(width 4000000, .* at most 100000000 are looked for",
    ),
    "image": ("hf_vit", CONFIG, ["image_size"], 16 * 10**8, "image_size 1600000000, .* at most 1"),
    "their depth": ("timm", CONFIG, ["model_args", "depth"], 30_000_000, "30000000 is said: at mo"),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values(run, case):
    format, file, path, value, message = VALUES[case]
    folder = run.folders[format]
    found = refusal(folder, file, changed(folder, file, path, value))
    assert str(folder) in found and len(found) < 1000 and found.replace("\n", "").isprintable()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


TEXTS = {
    "deep": (b'{"a": ' + b"[" * 100_000, "is nested too deeply"),
    "list": (b"[]", "is list, not a JSON object"),
    "null": (b"null", "is NoneType, not a JSON object"),
    "nan": (b'{"a": NaN}', "NaN is not JSON"),
    "infinite": (b'{"a": 1e999}', "'1e999' is too large for a number"),
    "twice": (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
    "surrogate": (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    "long": (b" " * 17_000_000, "has 17000000 bytes, more than"),
    "many": (
        b'{"a": [' + b"0," * 700_000 + b"0]}",
        "has about 700002 values, more than the 6",
    ),
}
PLACES = [
    ("hf_vit", PREPROCESSOR), ("hf_vit", CONFIG), ("vitwin", CONFIG), ("timm", CONFIG),
    ("open_clip", "open_clip_config.json"), ("shards", "model.safetensors.index.json"),
]  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize(("format", "file"), PLACES, ids=lambda value: value)
def test_one_reader_for_every_file(run, format, file, case):
    text, message = TEXTS[case]
    folder = run.folders[format]
    found = refusal(folder, file, text)
    assert found.startswith(f"{folder / file}: ") and message in found


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 30_000_000, "depth 30000000 is said: at most 256"),
        ("image_size", 16 * 10**8, "image_size 1600000000, .* at most 100000000 are looked for"),
        ("num_classes", 2**30, "num_classes 1073741824, .* at most 100000000 are looked for"),
    ],
)
def test_our_config_far_beyond_its_file(run, tmp_path, field, value, message):
    folder = tmp_path / "ours"
    shutil.copytree(run.folders["vitwin"], folder)
    (folder / CONFIG).write_bytes(changed(folder, CONFIG, ["config", field], value))
    file = folder / "model.safetensors"  # which repeats the config, if it is not written so
    checkpoint.write_tensors(file, checkpoint.read_tensors(file), metadata={})
    with pytest.raises(ValueError, match=message):
        parity.convert(folder, tmp_path / "x", target="timm")
    with pytest.raises(ValueError, match=message):
        checkpoint.read(folder)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(choose=st.integers(0, 2**64))
def test_damaged_json(run, choose):
    random_choice = random.Random(choose)
    name, file = random_choice.choice(run.files)
    assert run.failure(name, file, random_choice) is None
