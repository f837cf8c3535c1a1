"""What the training program makes of a command line, before anything is read but checkpoints."""

import json
import re
from typing import get_args

import pytest

import parity
import vit_jax
from parity.inputs import random_state
from parity.starting import _way_out
from tests.twin_models import TINY
from vit_data.recipe import Proof, Recipe
from vit_data.recipes import RECIPES
from vit_jax.run_folder import differences
from vit_spec import Preprocessing, get
from vit_spec.finetuning import SIZES
from vitwin.arguments import parse

INDENTED = re.compile(" {7,}[^ ]").match  # what help says of a field
NORMALISED = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop_fraction=1.0)


@pytest.fixture
def checkpoint(tmp_path):
    """A model of 7 classes with a normalisation of its own."""
    model = vit_jax.api.from_state(TINY, random_state(TINY, 0), param_dtype="float32")
    vit_jax.save(model, tmp_path / "source", preprocessing=NORMALISED)
    return str(tmp_path / "source")


def test_help_without_a_recipe_lists_them_all_and_how_to_get_their_fields(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "RECIPE --help" in out
    for name, make in RECIPES.items():
        assert f"  {name} " in out and (make.__doc__ or "").splitlines()[0] in out


def test_help_fills_its_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse(["digits", "--help"])
    lines = [line.replace("│", " ").rstrip() for line in capsys.readouterr().out.splitlines()]
    pairs = [pair for pair in zip(lines, lines[1:], strict=False) if all(map(INDENTED, pair))]
    assert len(pairs) > 20
    assert not [(a, b) for a, b in pairs if len(f"{a} {b.split()[0]}") < 95]


@pytest.mark.parametrize("name", ["cifar10", "oxford_iiit_pet:4.0.0", "huggingface:mnist"])
def test_a_name_that_may_be_a_data_set_of_tfds_gets_the_line_to_type(name):
    with pytest.raises(ValueError, match=f"train.py folder --data {name}$"):
        parse([name])


def test_a_variant_is_the_model_and_fields_go_on_top_of_it():
    _, recipe = parse(["folder", "--model", "S/16", "--model.image-size", "96"])
    assert recipe.model == get("S/16", image_size=96, drop_path=RECIPES["folder"]().model.drop_path)
    assert parse(["folder", "--model=S/16"])[1].model.width == 384
    with pytest.raises(ValueError, match="unknown variant 'S/17': did you mean S/16"):
        parse(["folder", "--model", "S/17"])


def test_a_checkpoint_to_start_from_says_what_the_model_and_its_normalisation_are(checkpoint):
    _, recipe = parse(["folder", "--init", checkpoint])
    assert recipe.model == TINY.replace(drop_path=0.1)
    assert recipe.preprocessing == NORMALISED
    told = ["--model.depth", "3", "--preprocessing.mean", "0", "0", "0"]
    _, recipe = parse(["folder", "--init", checkpoint, *told])
    assert recipe.model.depth == 3 and recipe.model.width == TINY.width
    assert recipe.preprocessing.mean == (0, 0, 0) and recipe.preprocessing.std == NORMALISED.std
    _, recipe = parse(["folder", "--init", checkpoint, "--model", "S/16"])
    assert recipe.model.width == 384 and recipe.preprocessing == NORMALISED


def test_the_options_that_a_wrong_model_is_answered_with_give_the_right_one():
    ours = parse(["folder"])[1].model
    theirs = TINY.replace(patch_size=(4, 8), class_token=False, pool="mean", qk_norm=True)
    _, _, options = _way_out(theirs, ours).partition("or give ")
    found = parse(["folder", *options.split()])[1].model
    assert found == theirs.replace(**{name: getattr(ours, name) for name in SIZES})


def test_images_have_the_size_of_the_checkpoint_unless_one_is_given(tmp_path):
    facts = Preprocessing(size=(16, 16))
    vit_jax.save(vit_jax.create(TINY, seed=0), tmp_path / "source", preprocessing=facts)
    init = ["folder", "--init", str(tmp_path / "source")]
    recipe = parse(init)[1]
    assert (recipe.preprocessing.size, recipe.model.image_size) == ((16, 16), 32)
    recipe = parse([*init, "--model.image_size", "48"])[1]
    assert (recipe.preprocessing.size, recipe.model.image_size) == (None, 48)


def test_a_recipe_made_to_fine_tune_keeps_its_image_size(checkpoint):
    _, recipe = parse(["finetune_384", "--init", checkpoint, "--model.image-size", "48"])
    assert (recipe.model.image_size, recipe.model.width) == (48, TINY.width)
    assert parse(["finetune_384", "--init", checkpoint])[1].model.image_size == 384
    assert recipe.preprocessing.mean == NORMALISED.mean


def test_a_file_that_does_not_say_its_model_is_told_by_options_that_exist(checkpoint, tmp_path):
    file = tmp_path / "bare.safetensors"
    parity.convert(checkpoint, tmp_path / "timm", target="timm", certificate=False)
    (tmp_path / "timm" / "model.safetensors").rename(file)
    with pytest.raises(ValueError, match="give --init-model ") as caught:
        parse(["folder", "--init", str(file)])
    assert "model='" not in str(caught.value)
    _, recipe = parse(["folder", "--init", str(file), "--init-model", checkpoint])
    assert recipe.model.width == TINY.width
    with pytest.raises(ValueError, match="unknown format 'tim': did you mean timm"):
        parse(["folder", "--init", str(file), "--init-format", "tim"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_its_json(name):
    recipe = RECIPES[name]()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_run_is_resumed_by_its_folder_alone(tmp_path):
    told = ["--optim.lr", "0.5", "--augmentation.flip", "0.25", "--image-sizes", "0.5", "4"]
    _, started = parse(["digits", *told])
    (tmp_path / "recipe.json").write_text(json.dumps(started.to_dict()))
    _, recipe = parse(["--resume", "--out", str(tmp_path)])
    assert recipe.to_dict() == started.to_dict()
    assert recipe.resume and recipe.out == str(tmp_path)
    assert parse(["--resume", "--out", str(tmp_path), "--seed", "3"])[1].seed == 3
    step = tmp_path / "checkpoints" / "40"
    assert parse(["--eval-only", "--out", str(step)])[1].optim.lr == 0.5


def test_a_run_that_was_started_without_a_proof_is_resumed_without_one(tmp_path):
    _, started = parse(["digits", "--no-proof"])
    (tmp_path / "recipe.json").write_text(json.dumps(started.to_dict()))
    assert parse(["--resume", "--out", str(tmp_path)])[1].proof == "none"
    _, asked = parse(["--resume", "--out", str(tmp_path), "--proof", "outputs"])
    assert asked.proof == "outputs"
    stored = json.loads((tmp_path / "recipe.json").read_text())
    assert differences(stored, asked.to_dict()) == []


def test_a_folder_without_a_run_is_not_resumed(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run to resume: .* digits --resume --out "):
        parse(["--resume", "--out", str(tmp_path)])
    (tmp_path / "recipe.json").write_text('{"optim": {"lrr": 1}}')
    with pytest.raises(ValueError, match="is not the recipe of a run: unknown field 'lrr'"):
        parse(["--resume", "--out", str(tmp_path)])


def test_the_proof_has_the_levels_of_parity():
    assert get_args(Proof) == ("auto", "none", *parity.LEVELS)
    assert parse(["digits", "--no-proof"])[1].proof == "none"
