"""Files as training scripts leave them: the model is found in each, and what was taken is said."""

import argparse
import collections
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import parity
import tests.oracles.timm_models  # noqa: F401  (makes torchvision importable)
import vit_torch
from parity.certificate_file import read as read_certificate
from parity.cli import main
from parity.starting import initial_header
from tests.twin_models import TINY
from vit_data.recipe import Recipe

HEADLESS = TINY.replace(num_classes=0)
DINOV2 = HEADLESS.replace(layer_scale=1e-5, num_registers=2)


def state(config, seed, prefix=""):
    """Random weights of ours under a prefix: names and layout are those of timm."""
    torch.manual_seed(seed)
    shapes = {n: t.shape for n, t in vit_torch.create(config, seed=0).state_dict().items()}
    return {prefix + name: torch.randn(shape) for name, shape in shapes.items()}


def put(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def wrapped_blocks(tensors, wrapper):
    """A wrapper around the model and around each block."""
    return {
        f"{wrapper}." + name.replace("attn.", f"{wrapper}.attn.", 1): tensor
        for name, tensor in tensors.items()
    }


def dino_head(prefix):
    names = ("head.mlp.0.weight", "head.mlp.0.bias", "head.last_layer.weight_v")
    return {prefix + name: torch.ones(2) for name in names}


def layouts(w, other):
    """name -> file, in which `w` is what is wanted and `other` are other weights of the model."""
    linear = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    moments = {i: {"exp_avg": t, "step": torch.tensor(3.0)} for i, t in enumerate(w.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    return {
        "DDP of a compiled model": {"state_dict": put(w, "module._orig_mod."), "epoch": 3},
        "a compiled model of DDP": {
            "state_dict": put(w, "_orig_mod.module."), "optimizer": optimizer,
        },
        "the ImageNet example": {"state_dict": put(w, "module."), "best_acc1": torch.tensor(71.2)},
        "mmpretrain, timm's backbone": {
            "meta": {"epoch": 3, "time": np.datetime64("2026-01-01")},
            "state_dict": put(w, "backbone.timm_model.") | put(linear, "neck.fc."),
        },
        "fairseq": {
            "args": argparse.Namespace(arch="vit", path=pathlib.PosixPath("/data")),
            "model": put(w, "encoder.sentence_encoder.") | put(linear, "proj."),
            "optimizer_history": [{"criterion_name": "x", "best_loss": np.float64(1.5)}],
            "last_optimizer_state": optimizer,
        },
        "detectron": {
            "model": put(w, "backbone.bottom_up.net."), "iteration": 9, "scheduler": {"step": 1},
        },
        "DeepSpeed": {"module": w, "buffer_names": [], "optimizer": None, "ds_version": "0.1"},
        "FSDP": {"model": wrapped_blocks(w, "_fsdp_wrapped_module"), "step": torch.tensor(3)},
        "checkpointed blocks": {"model": wrapped_blocks(w, "_checkpoint_wrapped_module")},
        "Lightning": {
            "state_dict": put(w, "model.net.") | put(linear, "classifier."),
            "callbacks": {"ModelCheckpoint": {"best": np.float32(0.5), "dir": pathlib.Path("/a")}},
            "optimizer_states": [optimizer],
        },
        "SimCLR's projector": {"model": put(w, "encoder.") | put(linear, "projector.0.")},
        "BYOL, one entry named": {"params": w, "history": collections.deque([1.0], maxlen=3)},
        "nested": {"state": {"trainer": {"model_state_dict": w}}, "epoch": 1},
        "a list": [w, {"epoch": 9}],
        "an average of PyTorch": {"swa": put(w, "module.") | {"n_averaged": torch.tensor(5)}},
        "timm, --model-ema": {"state_dict": other, "state_dict_ema": w, "arch": "vit", "metric": 1},
        "DeiT, with an average": {"model": other, "model_ema": put(w, "module.")},
        "Lightning, with an average": {
            "state_dict": put(other, "model.") | put(w, "ema_model.module."),
        },
        "an average beside": {"model": other, "ema": w, "ema_step": torch.tensor(1)},
        "two models in one average": {"ema": put(other, "online_model.") | put(w, "ema_model.")},
    }  # fmt: skip


NAMES = list(layouts({}, {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config."""
    path = tmp_path_factory.mktemp("config")
    vit_torch.save(vit_torch.create(TINY, seed=0), path / "ours")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_model_in_a_file_of_a_training_script_is_found(name, folder, tmp_path):
    w, other = state(TINY, 1), state(TINY, 2)
    torch.save(layouts(w, other)[name], tmp_path / "run.pth")
    notes = []
    parity.convert(
        tmp_path / "run.pth", tmp_path / "ours", model=folder / "ours", note=notes.append
    )
    assert_same(tmp_path / "ours", w)
    assert notes[0].startswith("the weights are those of '")


def assert_same(ours, tensors):
    found = load_file(ours / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


SELF_SUPERVISED = {  # config, format, and the file of `w` and `other`
    "DINO": (HEADLESS, "dino", lambda w, o: {
        "student": put(o, "module.backbone.") | dino_head("module."),
        "teacher": put(w, "backbone.") | dino_head(""), "args": argparse.Namespace(arch="vit")}),
    "iBOT": (HEADLESS, "dino", lambda w, o: {
        "student": put(o, "module.backbone.") | {"module.backbone.masked_embed": torch.ones(1, 2)},
        "teacher": put(w, "backbone.") | dino_head(""), "ibot_loss": {"center": torch.ones(1)}}),
    "DINOv2": (DINOV2, "dinov2", lambda w, o: {
        "model": put(meta(o), "student.backbone.") | put(meta(w), "teacher.backbone.")
        | {"teacher.dino_head.mlp.0.weight": torch.ones(2), "student.ibot_head.a": torch.ones(2)}}),
    "DINOv2 in chunks": (DINOV2, "dinov2", lambda w, o: {
        n.replace("blocks.", f"blocks.{n.split('.')[1]}.", 1) if "blocks" in n else n: t
        for n, t in meta(w).items()}),
    "MAE": (HEADLESS, "mae", lambda w, o: {
        "model": w | {"decoder_embed.weight": torch.ones(2), "mask_token": torch.ones(1, 1, 2)},
        "optimizer": {}, "args": argparse.Namespace(mask_ratio=0.75)}),
    "MoCo v3": (HEADLESS, "mae", lambda w, o: {
        "arch": "vit_small", "state_dict": put(w, "module.base_encoder.")
        | put(o, "module.momentum_encoder.") | {
            "module.base_encoder.head.0.weight": torch.ones(2),
            "module.momentum_encoder.head.0.weight": torch.ones(2),
            "module.predictor.0.weight": torch.ones(2)}}),
    "SimMIM": (HEADLESS, "mae", lambda w, o: {
        "model": put(w, "encoder.") | {
            "encoder.mask_token": torch.ones(1, 1, 2), "decoder.0.weight": torch.ones(2)}}),
}  # fmt: skip


def meta(tensors):
    """Names of DINOv2's release."""
    names = {name: name.replace("reg_token", "register_tokens") for name in tensors}
    return {names[name]: t for name, t in tensors.items()} | {"mask_token": torch.zeros(1, 32)}


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_the_backbone_of_self_supervised_training_is_found_and_its_heads_are_named(name, tmp_path):
    config, format, make = SELF_SUPERVISED[name]
    w, other = state(config, 1), state(config, 2)
    file = make(w, other)
    torch.save(file, tmp_path / "run.pth")
    vit_torch.save(vit_torch.create(config, seed=0), tmp_path / "config")
    ours = parity.convert(
        tmp_path / "run.pth", tmp_path / "ours", source=format, model=tmp_path / "config"
    )
    assert_same(ours, w)
    left = " ".join(read_certificate(ours)["remarks"])
    heads = ("head", "predictor", "decoder", "student")
    assert any(head in left for head in heads) or name == "DINOv2 in chunks", left


def test_of_raw_weights_and_their_average_the_one_is_taken_that_timm_takes(tmp_path):
    import timm
    from timm.models import load_checkpoint

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3
    )
    raw = {n: torch.randn(t.shape) for n, t in model.state_dict().items()}
    average = {n: torch.randn(t.shape) for n, t in raw.items()}
    for first, second in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        torch.save({first: put(raw, "module."), second: average, "epoch": 3}, tmp_path / "run.pth")
        load_checkpoint(model, str(tmp_path / "run.pth"))
        config = TINY.replace(image_size=32, patch_size=8, width=192, num_heads=3, num_classes=3,
                              mlp_width=768)  # fmt: skip
        header, found = parity.read(tmp_path / "run.pth", model=config)
        for name, tensor in model.state_dict().items():
            assert np.array_equal(found[name], tensor.numpy()), (first, name)
        _, found = parity.read(tmp_path / "run.pth", model=config, entry=first)
        assert np.array_equal(found["head.weight"], raw["head.weight"].numpy())


def test_the_note_names_what_was_taken_and_how_to_take_the_other(folder, tmp_path, capsys):
    w, other = state(TINY, 1), state(TINY, 2)
    torch.save({"state_dict": other, "state_dict_ema": w, "arch": "x"}, tmp_path / "run.pth")
    arguments = ["--model", str(folder / "ours"), "--no-verify"]
    command = ["convert", str(tmp_path / "run.pth"), str(tmp_path / "ours"), *arguments]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "weights are those of 'state_dict_ema', as timm does; --entry state_dict takes" in out
    left = f"2 entries of the source are not part of the model and were left out: state_dict " \
           f"({len(w)} tensors, weights of a model), arch"  # fmt: skip
    assert left in out
    for option in ("--entry", "--weights"):
        assert main([*command[:2], str(tmp_path / option), *arguments, option, "state_dict"]) == 0
        assert_same(tmp_path / option, other)
    assert main(["verify", str(tmp_path / "--entry")]) == 0


def test_a_recipe_says_the_same_of_init_and_is_answered_in_its_own_options(folder, tmp_path):
    w, other = state(TINY, 1), state(TINY, 2)
    torch.save({"generator": put(w, "module."), "critic": other}, tmp_path / "run.pth")
    run: Any = {"init": str(tmp_path / "run.pth"), "init_model": str(folder / "ours")}
    with pytest.raises(ValueError, match=r"--init-entry critic takes 'critic'"):
        initial_header(run["init"], **Recipe(**run).init_told)
    told = Recipe(**run, init_entry="generator", init_prefix="module.").init_told
    assert initial_header(run["init"], **told).config == TINY
    _, found = parity.read(run["init"], **told)
    assert np.array_equal(found["head.weight"], w["head.weight"].numpy())


def test_sets_of_weights_that_nothing_ranks_are_listed(folder, tmp_path):
    w, other = state(TINY, 1), state(TINY, 2)
    torch.save({"generator": w, "critic": other}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=r"2 sets of weights.*entry='generator'.*entry='critic'"):
        parity.convert(tmp_path / "run.pth", tmp_path / "ours", model=folder / "ours")
    ours = parity.convert(
        tmp_path / "run.pth", tmp_path / "ours", model=folder / "ours", entry="critic"
    )
    assert_same(ours, other)


def test_a_teacher_that_is_another_model_is_not_taken_for_an_average(folder, tmp_path):
    larger = state(TINY.replace(depth=4), 2)
    torch.save({"student": state(TINY, 1), "teacher": larger}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=r"2 sets of weights, so say which"):
        parity.convert(tmp_path / "run.pth", tmp_path / "ours", model=folder / "ours")


def test_prefix_and_leave_out_decide(folder, tmp_path):
    w, other = state(TINY, 1), state(TINY, 2)
    odd = {"b.rel_pos_bias.table": torch.ones(2)}
    torch.save(put(other, "a.") | put(w, "b.") | odd, tmp_path / "run.pth")
    arguments = {"model": folder / "ours", "prefix": "b."}
    with pytest.raises(ValueError, match=r"(?s)extra.*rel_pos_bias.table.*leave_out='rel_pos_bi"):
        parity.convert(tmp_path / "run.pth", tmp_path / "ours", **arguments)
    ours = parity.convert(
        tmp_path / "run.pth", tmp_path / "ours", leave_out="rel_pos_bias.*", **arguments
    )
    assert_same(ours, w)
    assert parity.verify(ours).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entry": "nothing"}, "unknown entry 'nothing'.*model"),
        ({"prefix": "nothing."}, "unknown prefix 'nothing'"),
        ({"leave_out": "nothing.*"}, "leave_out='nothing.*': no tensor of the file has"),
    ],
)
def test_a_choice_that_nothing_has_is_an_error(options, message, folder, tmp_path):
    torch.save({"model": state(TINY, 1)}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=message):
        parity.convert(tmp_path / "run.pth", tmp_path / "ours", model=folder / "ours", **options)


def test_wrapped_names_are_found_in_safetensors_too(folder, tmp_path):
    w = state(TINY, 1)
    save_file(put(w, "module._orig_mod."), tmp_path / "model.safetensors")
    ours = parity.convert(tmp_path / "model.safetensors", tmp_path / "ours", model=folder / "ours")
    assert_same(ours, w)


@pytest.mark.parametrize("format", ["hf_vit", "torchvision", "open_clip", "hf_clip"])
@pytest.mark.parametrize("prefix", ["module.", "model.student.", "_orig_mod.net."])
def test_prefixes_are_taken_off_for_every_format(format, prefix, tmp_path):
    clip = {"patch_bias": False, "pre_norm": True, "head_bias": False, "norm_eps": 1e-5}
    config = TINY.replace(**(clip if "clip" in format else {}))
    w = state(config, 1)
    model = vit_torch.create(config, seed=0)
    model.load_state_dict(w)
    vit_torch.save(model, tmp_path / "ours")
    place = tmp_path / ("theirs.pth" if format == "torchvision" else "theirs")
    parity.convert(tmp_path / "ours", place, target=format)
    file = next(place.glob("*.safetensors")) if place.is_dir() else place
    plain = load_file(file) if place.is_dir() else torch.load(file)
    folder = tmp_path / "wrapped"
    folder.mkdir()
    for json in place.glob("*config.json"):
        (folder / json.name).write_bytes(json.read_bytes())
    torch.save({"state_dict": put(plain, prefix), "step": 3}, folder / "pytorch_model.bin")
    model = tmp_path / "ours" if format == "torchvision" else None
    back = parity.convert(folder, tmp_path / "back", model=model)
    assert_same(back, w)


def test_inspect_shows_a_file_of_no_known_format(tmp_path, capsys):
    layers = {"layers.0.ln1.weight": torch.ones(3), "cls_token": torch.ones(1, 1, 3)}
    file = {"state_dict": put(layers, "backbone."), "meta": {"epoch": 3, "seed": np.int64(1)}}
    torch.save(file, tmp_path / "run.pth")
    assert main(["inspect", str(tmp_path / "run.pth")]) == 0
    out = capsys.readouterr().out
    for text in ("unknown format", "state_dict.backbone.layers.0.ln1.weight", "1 x 1 x 3",
                 "state_dict               2 tensors", "meta.epoch               3"):  # fmt: skip
        assert text in out


def test_inspect_names_only_options_that_it_has_or_whose_they_are(tmp_path, capsys):
    torch.save({"model": state(TINY, 1), "teacher": state(TINY, 2, "x.")}, tmp_path / "run.pth")
    main(["inspect", str(tmp_path / "run.pth")])
    text = "".join(capsys.readouterr())
    options = re.findall(r"--(?:from|model|image-size)\b[^,;:\n]*", text)
    assert options and all("to `parity convert`" in option for option in options)


def test_inspect_shows_a_file_that_cannot_be_converted_and_says_why(tmp_path, capsys):
    odd = {"module.blocks.0.attn.rel_pos_h": torch.ones(3)}
    torch.save({"model": state(TINY, 1, "module.") | odd}, tmp_path / "run.pth")
    assert main(["inspect", str(tmp_path / "run.pth"), "--entry", "model"]) in (0, 2)
    found = capsys.readouterr()
    assert "model.module.blocks.0.attn.rel_pos_h" in found.out
