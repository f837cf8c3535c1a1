"""Starting from a checkpoint: what is taken, resampled, new; teachers of every kind."""

from functools import partial

import numpy as np
import pytest
import torch

import parity
import train
import vit_jax
from parity.inputs import random_state
from parity.starting import initial_params
from tests.twin_models import TINY, images, relative_gap
from vit_data.recipe import Recipe
from vit_jax.distillation import ModelTeacher, Precomputed, Taught
from vit_jax.functional import merge, split
from vit_jax.sharding import make_mesh
from vit_spec import Header, OptimConfig, Preprocessing, parameters
from vit_spec.finetuning import fit
from vit_torch.teacher import HostTeacher

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def checkpoint(tmp_path):
    """A trained model in timm's format."""
    state = {n: a.astype(np.float32) for n, a in random_state(TINY, 0).items()}
    vit_jax.save(vit_jax.api.from_state(TINY, state), tmp_path / "ours")
    return parity.convert(tmp_path / "ours", tmp_path / "theirs", target="timm", certificate=False)


def test_a_larger_image_and_other_classes_keep_the_trunk(checkpoint, tmp_path, capsys):
    config = TINY.replace(image_size=48, num_classes=3)
    new = partial(train.new_model, Recipe(model=config), config)
    params = initial_params(str(checkpoint), new, Header(config=config))
    model = merge(split(new())[0], params)
    source = vit_jax.load(tmp_path / "ours")
    x = images(config).astype(np.float32)
    assert relative_gap(model.features(x), source.features(x)) < 1e-5
    assert model(x).shape == (3, 3) and not np.any(np.asarray(model(x)))
    said = capsys.readouterr().out
    assert "resampled: pos_embed" in said and "newly initialised: head.weight, head.bias" in said


def test_nothing_is_new_where_everything_fits():
    state, start = random_state(TINY, 0), random_state(TINY, 1)
    found, transfer = fit(Header(config=TINY), state, TINY, start)
    assert transfer.taken == tuple(parameters(TINY))
    assert not (transfer.resampled or transfer.new or transfer.left or transfer.differs)
    assert all(np.array_equal(found[name], state[name]) for name in state)


def test_what_the_model_has_no_place_for_or_computes_otherwise_is_said():
    source = TINY.replace(representation_size=32, norm_eps=1e-12)
    like = Header(config=TINY, preprocessing=Preprocessing(mean=(0.4,) * 3))
    given = Header(config=source), random_state(source, 0), TINY, random_state(TINY, 1)
    _, transfer = fit(*given, like=like)
    assert transfer.left == ("pre_logits.fc.weight", "pre_logits.fc.bias")
    assert any("norm_eps 1e-12, here 1e-06" in text for text in transfer.differs)
    assert any(text.startswith("mean") for text in transfer.differs)


def test_another_model_is_refused_with_its_tensors():
    other = TINY.replace(depth=3)
    with pytest.raises(
        ValueError, match=r"depth 3, .*depth 2(.|\n)*blocks.2.norm1.weight: \(32,\)"
    ):
        fit(Header(config=other), random_state(other, 0), TINY, random_state(TINY, 1))


def test_a_checkpoint_of_another_width_is_refused_with_the_options_to_type(checkpoint):
    config = TINY.replace(width=64, num_heads=4, image_size=48)
    new = partial(train.new_model, Recipe(model=config), config)
    text = rf"width {TINY.width}, depth 2, .*(.|\n)*--model.width {TINY.width} --model.num-heads"
    with pytest.raises(ValueError, match=text) as caught:
        initial_params(str(checkpoint), new, Header(config=config))
    assert "pos_embed" not in str(caught.value) and "image-size" not in str(caught.value)


def test_a_model_as_a_teacher_sees_its_own_normalisation():
    model = vit_jax.api.from_state(TINY, random_state(TINY, 0), param_dtype="float32")
    theirs = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    pixels = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    teacher = ModelTeacher(model, make_mesh(), theirs=theirs, ours=Preprocessing())
    expected = model((pixels - np.float32(theirs.mean)) / np.float32(theirs.std))
    assert relative_gap(teacher({"image": (pixels - 0.5) / 0.5}), expected) < 1e-5


teacher_net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(7))


def test_a_pytorch_model_on_the_host_is_a_teacher():
    teacher = HostTeacher(f"{__name__}:teacher_net")
    batch = {"image": images(TINY).astype(np.float32)}
    taught = next(Taught(iter([batch]), teacher, 7))
    with torch.no_grad():
        expected = teacher_net.eval()(torch.from_numpy(batch["image"]).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(taught["teacher"], expected.numpy())
    with pytest.raises(ValueError, match="there is no teacher 'math:nothing'"):
        HostTeacher("math:nothing")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_logits_of_a_file_are_found_by_index(tmp_path, suffix):
    logits = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    path = tmp_path / f"logits{suffix}"
    np.save(path, logits) if suffix == ".npy" else np.savez(path, logits)
    teacher = Precomputed(path)
    index = np.array([3, 9, 3])
    np.testing.assert_array_equal(teacher({"index": index}), logits[index])
    with pytest.raises(ValueError, match="an image 10, and the teacher's file 10 rows"):
        teacher({"index": np.array([10])})
    with pytest.raises(ValueError, match=r"logits \(3, 7\), not \(3, 5\)"):
        next(Taught(iter([{"image": np.zeros((3, 1)), "index": index}]), teacher, 5))


def test_a_teacher_and_its_loss_go_together():
    with pytest.raises(ValueError, match="teacher None and optim.distill 'hard': give both"):
        Recipe(optim=OptimConfig(distill="hard"))


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Arguments of a run of two steps."""
    monkeypatch.setattr(train, "check_twin", lambda recipe, path: True)
    sizes = ["--model.depth", "1", "--model.width", "32", "--model.num-heads", "2"]
    short = ["digits", *sizes, "--optim.total-steps", "2", "--optim.warmup-steps", "1"]
    return [*short, "--data-dir", str(tmp_path / "data"), "--eval-every", "2", "--log-every", "1"]


def test_a_run_learns_from_a_teacher(short, tmp_path, capsys):
    assert train.main([*short, "--out", str(tmp_path / "teacher")]) == 0
    taught = ["--teacher", str(tmp_path / "teacher"), "--optim.distill", "hard"]
    assert train.main([*short, *taught, "--out", str(tmp_path / "pupil")]) == 0
    np.save(tmp_path / "broken.npy", np.full((1437, 10), np.nan, np.float32))
    taught = ["--teacher", str(tmp_path / "broken.npy"), "--optim.distill", "soft"]
    assert train.main([*short, *taught, "--out", str(tmp_path / "other")]) == 1
    assert "step 1: loss nan, gradient norm nan: the teacher's logits; " in capsys.readouterr().err


def test_a_run_that_cannot_begin_claims_no_folder_and_replaces_nothing(short, tmp_path, capsys):
    out = tmp_path / "tuned"
    (tmp_path / "text.safetensors").write_text("no weights")
    for wrong in (
        ["--init", str(tmp_path / "gone")],
        ["--init", str(tmp_path / "text.safetensors")],
        ["--optim.freeze", "heads.*"],
    ):
        assert train.main([*short, *wrong, "--out", str(out)]) == 2
        assert not out.exists(), wrong
    out.mkdir()
    (out / "recipe.json").write_text("{}")
    assert train.main([*short, *wrong, "--out", str(out), "--overwrite"]) == 2
    assert (out / "recipe.json").read_text() == "{}"
    assert "'heads.*' fits no parameter" in capsys.readouterr().err


def test_a_run_is_resumed_without_what_it_started_from(short, tmp_path, capsys):
    assert train.main([*short, "--out", str(tmp_path / "source")]) == 0
    tuned = [*short, "--init", str(tmp_path / "source"), "--out", str(tmp_path / "tuned")]
    assert train.main(tuned) == 0
    assert "tensors taken" in capsys.readouterr().out
    (tmp_path / "source").rename(tmp_path / "gone")
    assert train.main([*tuned, "--resume", "--allow-change", "--optim.total-steps", "3"]) == 0
    assert "tensors taken" not in capsys.readouterr().out
