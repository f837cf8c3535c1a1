"""What a checkpoint says of itself, what is assumed if it says nothing, what `model=` adds."""

import os
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import parity
from parity.certificate_file import read as read_certificate
from parity.cli import main
from parity.formats import FOREIGN, Given
from parity.formats.kept import lost
from parity.formats.said import model_of
from parity.formats.table import their_shapes
from tests.parity.format_oracles import assert_same_bits
from tests.twin_models import TINY
from vit_spec import Header, Preprocessing, checkpoint, full_name, get, parameters

DEIT = get("deit_tiny_patch16_224", image_size=32, num_classes=7)  # told by its tensors
UNKNOWN = TINY.replace(width=128, num_heads=4)
IMAGENET = "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], crop_fraction 0.875"
AS_ARGUMENT = (
    "the source does not say, and assumed as in the published deit_tiny_patch16_224: num_heads 3, "
    f"activation 'gelu', norm_eps 1e-06, pool 'token', {IMAGENET}; if not, give "
    "model='config.json'; vit_tiny_patch16_224 has the same tensors and mean [0.5, 0.5, 0.5], std "
    "[0.5, 0.5, 0.5]: if it is that, give model='vit_tiny_patch16_224'"
)
AS_OPTION = AS_ARGUMENT.replace("model='config.json'", "--model config.json").replace(
    "model='vit_tiny_patch16_224'", "--model vit_tiny_patch16_224"
)


def saved(config, folder, **more):
    """A directory of ours with random weights."""
    rng = np.random.default_rng(0)
    state = {n: rng.normal(size=s).astype("float32") for n, s in parameters(config).items()}
    checkpoint.write(folder / "ours", Header(config=config, **more), state)
    return folder / "ours"


@pytest.fixture
def bare(tmp_path):
    """A state dict with the tensors of a published model."""
    return parity.convert(saved(DEIT, tmp_path), tmp_path / "x.pth", target="deit")


def test_what_is_assumed_of_a_published_model_is_printed_and_recorded(bare, tmp_path, capsys):
    command = ["convert", str(bare), str(tmp_path / "y"), "--no-verify"]
    assert main(command) == 0
    assert capsys.readouterr().out.count(f"note: {AS_OPTION}\n") == 1
    assert read_certificate(tmp_path / "y")["remarks"] == [AS_ARGUMENT]
    assert main([*command, "--no-certificate"]) == 0
    assert f"note: {AS_OPTION}\n" in capsys.readouterr().out
    assert main(["inspect", str(bare)]) == 0
    whose = re.sub(r"--model [\w.]+", r"\g<0> to `parity convert`", AS_OPTION)
    assert f"note: {whose}\n" in capsys.readouterr().out


def test_tensors_of_no_published_model_need_one(tmp_path, capsys):
    ours = saved(UNKNOWN, tmp_path)
    assert lost(checkpoint.read_header(ours), FOREIGN["deit"])[0].startswith("to read it back say")
    bare = parity.convert(ours, tmp_path / "x.pth", target="deit")
    message = (
        r"do not say num_heads, activation, norm_eps, pool, and no published model of deit has "
        r"width 128, depth 2, mlp_width 64: give a config of ours .*model='config.json'"
    )
    with pytest.raises(ValueError, match=message):
        parity.convert(bare, tmp_path / "y")
    assert main(["inspect", str(bare)]) == 0
    assert "no published model" in capsys.readouterr().out
    notes = []
    again = parity.convert(bare, tmp_path / "y", model=UNKNOWN, note=notes.append)
    assert checkpoint.read_header(again).config == UNKNOWN
    assert [IMAGENET in note for note in notes] == [True]
    assert_same_bits(ours, again)


BARE_OF_TIMM = [
    {"layer_scale": 1e-6, "class_token_position": False}, {"layer_scale": 1e-5, "num_classes": 0},
    {"num_registers": 2}, {"class_token": False, "pool": "map", "num_classes": 0},
    {"pre_norm": True, "patch_bias": False}, {"qk_norm": True},
]  # fmt: skip


@pytest.mark.parametrize("changes", BARE_OF_TIMM, ids=lambda changes: next(iter(changes)))
def test_a_state_dict_with_names_that_only_timm_has_is_told_as_timm(changes, tmp_path, capsys):
    config = TINY.replace(**changes)
    ours = saved(config, tmp_path)
    torch.save(load_file(ours / "model.safetensors"), tmp_path / "x.pth")
    source, target = str(tmp_path / "x.pth"), tmp_path / "y"
    assert main(["convert", source, str(target)]) == 2
    error = capsys.readouterr().err
    assert "x.pth: a timm checkpoint has no config.json beside it: give --model B/16, the" in error
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(Header(config=config).to_json())
    model = str(tmp_path / "m" / "config.json")
    assert main(["convert", source, str(target), "--model", model, "--no-verify"]) == 0
    assert read_certificate(target)["source"]["format"] == "timm"
    assert_same_bits(ours, target)


def test_the_right_format_of_tensors_alone_asks_for_the_model(bare, tmp_path, capsys):
    assert main(["convert", str(bare), str(tmp_path / "y"), "--from", "timm"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"parity: {bare}: a timm checkpoint has no config.json beside it: give")


@pytest.mark.parametrize(
    ("format", "reason"),
    [("hf_vit", "transformers ViT has no config.json beside"), ("dinov2", "its tensors do not sa")],
)
def test_a_wrong_format_is_said_first_with_the_way_out_and_last_why(
    format, reason, bare, tmp_path, capsys
):
    source, like = (
        (bare, "deit in torch")
        if format == "hf_vit"
        else (
            parity.convert(saved(UNKNOWN, tmp_path), tmp_path / "x", target="timm"),
            "timm in safetensors",
        )
    )
    assert main(["convert", str(source), str(tmp_path / "y"), "--from", format]) == 2
    start, _, why = capsys.readouterr().err.partition(f"; as {format}: ")
    way = f"give --from {like.split()[0]}"
    assert start == f"parity: {source} does not look like {format} but like {like}: {way}"
    assert why.startswith(reason) and why.endswith("...\n") and len(why) < 130


IMAGES = {  # timm's of that name: the first number of mean, crop
    "vit_tiny_patch16_224": (0.5, 0.9), "deit_tiny_patch16_224": (0.485, 0.9),
    "Ti/16@384": (0.5, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_variants_name_says_how_its_images_are_prepared(name, kind, bare, tmp_path):
    if kind == "safetensors":
        state = {n: t.numpy() for n, t in torch.load(bare, weights_only=True).items()}
        bare = tmp_path / "x.safetensors"
        checkpoint.write_tensors(bare, state, metadata={})
    again = parity.convert(bare, tmp_path / "y", model=name)
    said = checkpoint.read_header(again).preprocessing
    assert (said.mean[0], said.crop_fraction) == IMAGES[name]
    assert read_certificate(again)["remarks"][0].startswith(
        f"the source does not say, and assumed as in the published {full_name(name)}: mean ["
    )


STRIP = DEIT.replace(image_size=(48, 192))  # 3 x 12 patches, as many as of 96 x 96


@pytest.mark.parametrize("format", ["deit", "augreg", "big_vision"])
def test_positions_of_several_grids_ask_for_the_image_size(format, tmp_path, capsys):
    config = STRIP.replace(activation="gelu" if format == "deit" else "gelu_tanh")
    file = tmp_path / ("x.pth" if format == "deit" else "x.npz")
    command = ["convert", str(saved(config, tmp_path)), str(file), "--to", format, "--no-verify"]
    assert main(command) == 0
    note = "its image size is not in the file: to read it back give --image-size 48 192"
    assert note in capsys.readouterr().out
    back = ["convert", str(file), str(tmp_path / "y"), "--no-verify"]
    assert main(back) == 2
    error = capsys.readouterr().err
    assert "36 patches of 16 x 16 pixels, which are those of an image of 96 x 96, 64 x 144" in error
    assert error.endswith("give its height and width, such as --image-size 96 96\n")
    assert main([*back, "--image-size", "48", "192"]) == 0
    found = read_certificate(tmp_path / "y")
    assert found["image_size"] == found["config"]["image_size"] == [48, 192]
    assert parity.verify(tmp_path / "y").passed
    assert parity.read(file, image_size=(48, 192))[0].config.grid == (3, 12)
    assert main([*back[:2], str(tmp_path / "z"), "--image-size", "64"]) == 2
    assert "give its height and width" in capsys.readouterr().err


def test_outputs_of_a_rectangle_are_compared_where_its_size_is_not_in_the_file(tmp_path):
    config = TINY.replace(image_size=(24, 96), activation="gelu_tanh")
    file = parity.convert(
        saved(config, tmp_path), tmp_path / "x.npz", target="big_vision", verify=True
    )
    found = read_certificate(file)["outputs"]
    assert found["verdict"] == "PASS" and found["folded"] and found["size"] == "24x96"


def test_an_image_size_that_contradicts_the_source_is_refused(bare, tmp_path):
    ours = saved(TINY, tmp_path)
    for source in (ours, parity.convert(ours, tmp_path / "x", target="timm")):
        with pytest.raises(ValueError, match=r"is of images of 32, which image_size=\(16, 64\) is"):
            parity.convert(source, tmp_path / "y", image_size=(16, 64))
    with pytest.raises(ValueError, match=r"image_size=\(1, 2, 3\) must be a height and a width"):
        parity.convert(bare, tmp_path / "y", image_size=(1, 2, 3))


def test_a_published_image_size_decides_between_grids(tmp_path):
    config = DEIT.replace(image_size=224)
    file = parity.convert(saved(config, tmp_path), tmp_path / "x.pth", target="deit")
    assert parity.read(file)[0].config.image_size == 224
    assert parity.read(file, model=NAME)[0].config.image_size == 224


PUBLISHED = {
    "deit": "deit_base_distilled_patch16_224", "deit3": "deit3_huge_patch14_224",
    "mae": "vit_huge_patch14_224.mae", "dino": "vit_small_patch8_224",
    "dinov2": "vit_giant_patch14_dinov2", "torchvision": "vit_huge_patch14_224",
}  # fmt: skip


@pytest.mark.parametrize(("format", "name"), PUBLISHED.items(), ids=PUBLISHED)
def test_heads_of_published_models(format, name):
    form, config = FOREIGN[format], get(name)
    shapes = their_shapes(form.rules(config), parameters(config))
    said = form.config_from(Given(shapes=shapes, kind="torch")).config
    assert said.num_heads == config.num_heads
    assert get(form.model(said)).num_heads == config.num_heads


HF = TINY.replace(norm_eps=1e-12, pos_embed_antialias=False)
OTHER = HF.replace(num_heads=4, norm_eps=1e-6)
BOTH = r"otherwise than the model given: num_heads 2, given 4; norm_eps 1e-12, given 1e-06\. Give"


@pytest.mark.parametrize("format", ["hf_vit", "hf_flax_vit", "vitwin", "safetensors"])
def test_a_model_that_contradicts_the_source_is_refused_field_by_field(format, tmp_path):
    path = tmp_path / ("x.safetensors" if format == "safetensors" else "x")
    source = parity.convert(saved(HF, tmp_path), path, target=format)
    with pytest.raises(ValueError, match=BOTH):
        parity.convert(source, tmp_path / "y", model=OTHER)
    assert not (tmp_path / "y").exists()


def test_weights_that_say_otherwise_than_their_config_stay_refused_with_a_model(tmp_path):
    ours = saved(HF, tmp_path)
    text = Header(config=OTHER).to_json()
    (ours / "config.json").write_text(text)
    with pytest.raises(ValueError, match="are of different models"):
        parity.convert(ours, tmp_path / "y", model=OTHER)


def test_images_and_labels_that_contradict_the_source_are_refused(tmp_path):
    labels = tuple("abcdefg")
    said = Preprocessing(mean=(0.1, 0.2, 0.3), squash=True)
    ours = saved(HF, tmp_path, labels=labels, preprocessing=said)
    source = parity.convert(ours, tmp_path / "x", target="hf_vit")
    header = checkpoint.read_header(parity.convert(source, tmp_path / "y", model=ours))
    assert header.preprocessing == said  # its crop is less than a pixel from the file's
    model = saved(HF, tmp_path, labels=labels[::-1])
    message = r"mean \[0.1, 0.2, 0.3\], given \[0.5, 0.5, 0.5\].*squash True.*labels \['a'"
    with pytest.raises(ValueError, match=message):
        parity.convert(source, tmp_path / "z", model=model)
    header = checkpoint.read_header(parity.convert(source, tmp_path / "y", model=HF))
    assert header.labels == labels and header.preprocessing.mean == said.mean
    assert header.preprocessing.squash  # a config says nothing of images


def test_what_the_source_does_not_say_is_taken_from_the_model(tmp_path):
    source = parity.convert(saved(HF, tmp_path), tmp_path / "x", target="hf_vit")
    given = HF.replace(pos_embed_antialias=True, drop_path=0.1)
    again = parity.convert(source, tmp_path / "y", model=given)
    assert checkpoint.read_header(again).config == given
    note = read_certificate(again)["remarks"][0]
    assert "taken from the model given" in note
    assert "pos_embed_antialias True, not False" in note and "drop_path 0.1, not 0.0" in note


def test_an_activation_that_a_format_never_has_is_taken_with_a_note(tmp_path):
    config = TINY.replace(activation="gelu_tanh")
    source = parity.convert(saved(config, tmp_path), tmp_path / "x.npz", target="augreg")
    notes = []
    parity.convert(source, tmp_path / "y", note=notes.append)
    assert "usual in augreg: activation 'gelu_tanh', norm_eps 1e-06, mean [0.5" in notes[0]
    again = parity.convert(source, tmp_path / "z", model=TINY, note=notes.append)
    assert checkpoint.read_header(again).config == TINY
    assert "activation 'gelu', not 'gelu_tanh'" in notes[2]


def test_an_architecture_that_is_not_known_is_still_held_to_its_arguments(tmp_path):
    source = parity.convert(saved(TINY, tmp_path), tmp_path / "x", target="timm")
    config = source / "config.json"
    text = config.read_text().replace("vit_base_patch16_224", "vit_intern300m_patch14_448")
    config.write_text(text)
    with pytest.raises(ValueError, match="is not a plain ViT .*model='config.json'"):
        parity.convert(source, tmp_path / "y")
    with pytest.raises(ValueError, match="num_heads 2, given 4"):
        parity.convert(source, tmp_path / "y", model=TINY.replace(num_heads=4))
    again = parity.convert(source, tmp_path / "y", model=TINY.replace(norm_eps=1e-5))
    assert checkpoint.read_header(again).config.norm_eps == 1e-5


NAME = "deit_tiny_patch16_224"
FINE = get(NAME, image_size=32, num_classes=10)
LABELS = tuple("abcdefghij")


@pytest.mark.parametrize("format", ["timm", "hf_vit", "vitwin"])
def test_a_variant_leaves_head_and_image_size_to_what_the_source_says(format, tmp_path):
    ours = saved(FINE, tmp_path, labels=LABELS)
    source = parity.convert(ours, tmp_path / "x", target=format)
    again = parity.convert(source, tmp_path / "y", model=NAME)
    header = checkpoint.read_header(again)
    assert header.config == FINE and header.labels == LABELS
    assert_same_bits(ours, again)
    assert main(["verify", str(again / "parity.json")]) == 0
    strict = "given: image_size 32, given 224; num_classes 10, given 1000"
    with pytest.raises(ValueError, match=strict):
        parity.convert(source, tmp_path / "z", model=get(NAME))
    with pytest.raises(ValueError, match=r"given: patch_size 16, given 14; width 192, given 1536"):
        parity.convert(source, tmp_path / "z", model="vit_giant_patch14_dinov2")


BARE = [
    ("hf_vit", {}), ("hf_vit", {"num_classes": 0}), ("timm", {}), ("deit", {}), ("torchvision", {}),
    ("safetensors", {"num_classes": 0}), ("safetensors", {"head_bias": False}),
]  # fmt: skip


@pytest.mark.parametrize(("format", "changes"), BARE)
def test_a_variant_leaves_head_and_image_size_to_tensors_alone(format, changes, tmp_path):
    given = FINE.replace(**changes)
    ours = saved(given, tmp_path)
    file = {"hf_vit": "x", "timm": "x", "safetensors": "x.safetensors"}.get(format, "x.pth")
    source = parity.convert(ours, tmp_path / file, target=format, certificate=False)
    for said in tmp_path.glob("x/*.json"):
        said.unlink()
    if format == "safetensors":
        checkpoint.write_tensors(source, checkpoint.read(ours)[1], metadata={})
    again = parity.convert(source, tmp_path / "y", source=format, model=NAME)
    assert checkpoint.read_header(again).config == given
    assert_same_bits(ours, again)


@pytest.mark.parametrize("target", ["hf_vit", "timm"])
def test_a_class_token_with_its_position_added_gets_zeros_on_the_way_back(target, tmp_path):
    config = TINY.replace(activation="gelu_tanh", pos_embed_antialias=False)
    folded = parity.convert(saved(config, tmp_path), tmp_path / "x.npz", target="big_vision")
    back = parity.convert(folded, tmp_path / "back", target=target, verify=True)
    found = read_certificate(back)["outputs"]
    assert found["verdict"] == "PASS" and not found["folded"]
    again = parity.convert(back, tmp_path / "y.npz", target="big_vision")
    assert_same_bits(folded, again)


def test_the_lines_of_the_docs_load_the_result_in_timm_and_transformers(tmp_path, monkeypatch):
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    from tests.formats_matrix import LIMITS, PAGE

    assert PAGE.read_text(encoding="utf-8").endswith(LIMITS)
    theirs = parity.convert(saved(HF, tmp_path), tmp_path / "out_hf", target="hf_vit")
    parity.convert(theirs, tmp_path / "out_timm", target="timm", change={"norm_eps": 1e-6})
    monkeypatch.chdir(tmp_path)
    lines = LIMITS.partition("## Loading the result\n\n```python\n")[2].partition("```")[0]
    found = {"timm": timm, "transformers": transformers}
    for line in lines.splitlines():
        exec(line, found)
        if "timm." in line:
            head = found["model"].head.weight
            assert torch.equal(head, load_file("out_timm/model.safetensors")["head.weight"])
    assert torch.equal(found["model"].classifier.weight, head)
    assert found["processor"].crop_size["height"] == 32


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["model", "config.json"])
def test_a_model_that_is_no_file_is_named(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: it is not a regular file; give the path of a"):
        model_of(tmp_path / name)
