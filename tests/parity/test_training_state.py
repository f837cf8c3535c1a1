"""A training run that changes frameworks on the way is the run that never did."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import parity
import vit_jax
import vit_torch
from parity.tolerance import proof_bound
from tests.training_runs import (
    BATCHES,
    MODEL,
    OPTIM,
    assert_same_bits,
    everything,
    new_jax,
    new_torch,
    random_training,
    run_jax,
    run_torch,
    save_jax,
    save_torch,
    torch_state,
)
from tests.twin_models import relative_gap
from vit_jax.training import init_state
from vit_jax.training_state import get_training as from_jax
from vit_spec import Preprocessing, training_state

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LOSS_BOUND = 1e-11


def switched(folder, edit=lambda state: state):
    """JAX for 7 steps, PyTorch for 6, JAX for 7, over the disk; `edit` acts at the first switch."""
    first, run = run_jax(new_jax(), BATCHES[:7])
    save_jax(run, folder / "7")
    training_state.write(folder / "7", edit(training_state.read(folder / "7")))
    second, run = run_torch(vit_torch.load_training(folder / "7"), BATCHES[7:13])
    save_torch(run, folder / "13")
    third, run = run_jax(vit_jax.load_training(folder / "13"), BATCHES[13:])
    return first + second + third, from_jax(*run)


def largest_gaps(ours, theirs):
    """Largest relative gaps of the losses and of the tensors of two runs."""
    a, b = everything(ours[1]), everything(theirs[1])
    assert a.keys() == b.keys() and len(ours[0]) == len(theirs[0])
    losses = max(abs(x - y) / y for x, y in zip(ours[0], theirs[0], strict=True))
    return losses, max(relative_gap(a[name], b[name]) for name in a)


def equal(ours, theirs):
    """The demonstration's verdict on two runs. Measured: 5e-16 and 7e-15."""
    losses, tensors = largest_gaps(ours, theirs)
    return losses < LOSS_BOUND and tensors < proof_bound(MODEL.depth)


@pytest.fixture(scope="module")
def unswitched():
    """The runs of 20 steps in one framework."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        losses, run = run_jax(new_jax(), BATCHES)
        jax_run = losses, from_jax(*run)
    losses, run = run_torch(new_torch(), BATCHES)
    return {"jax": jax_run, "torch": (losses, torch_state(run))}


@pytest.mark.parametrize("reference", ["jax", "torch"])
def test_a_run_that_switches_twice_equals_the_run_that_never_does(
    x64, tmp_path, unswitched, reference
):
    ours = switched(tmp_path)
    assert len(ours[0]) == 20 and ours[1].step == unswitched[reference][1].step == 20
    assert equal(ours, unswitched[reference]), largest_gaps(ours, unswitched[reference])


def zeroed(kind):
    return lambda s: dataclasses.replace(
        s, **{kind: {name: np.zeros_like(a) for name, a in getattr(s, kind).items()}}
    )


EDITS = {
    "one_step_late": lambda s: dataclasses.replace(s, step=s.step + 1),
    "one_step_early": lambda s: dataclasses.replace(s, step=s.step - 1),
    "no_first_moment": zeroed("m"),
    "no_second_moment": zeroed("v"),
    "average_anew": lambda s: dataclasses.replace(s, ema=s.params),
    "other_smoothing": lambda s: dataclasses.replace(
        s, optim=dataclasses.replace(s.optim, label_smoothing=0.0)
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_the_demonstration_sees_whatever_a_switch_loses(x64, tmp_path, unswitched, edit):
    ours = switched(tmp_path, edit)
    assert len(ours[0]) == 20
    assert not equal(ours, unswitched["jax"]) and not equal(ours, unswitched["torch"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": None, "ema_decay": None}], ids=["all", "plain"]
)
def test_a_round_trip_over_the_disk_keeps_every_bit(x64, tmp_path, dtype, changes):
    optim = dataclasses.replace(OPTIM, **changes)
    before = random_training(dtype, optim)
    training_state.write(tmp_path / "start", before)
    run = vit_jax.load_training(tmp_path / "start")
    assert_same_bits(from_jax(*run), before)
    header = {"preprocessing": Preprocessing(crop_fraction=0.9), "labels": ("a", "b")}
    save_jax(run, tmp_path / "jax", **header)
    save_torch(vit_torch.load_training(tmp_path / "jax"), tmp_path / "torch", **header)
    assert_same_bits(training_state.read(tmp_path / "jax"), training_state.read(tmp_path / "torch"))
    after = vit_jax.load_training(tmp_path / "torch")
    assert after[0] == run[0]
    assert_same_bits(from_jax(*after), before)
    assert training_state.read(tmp_path / "torch").header.labels == ("a", "b")


def to_jax(run):
    model, optimizer, optim, step, ema = run
    return parity.training_to_jax(model, optimizer, optim, step=step, ema=ema)


def test_live_conversion_is_the_conversion_over_the_disk(x64, tmp_path):
    training = random_training("float64")
    training_state.write(tmp_path / "run", training)
    there = parity.training_to_torch(*vit_jax.load_training(tmp_path / "run"))
    assert_same_bits(torch_state(there), training)
    assert_same_bits(from_jax(*to_jax(there)), training)


@pytest.mark.parametrize("clip", [1.0, None])
def test_the_loaded_state_has_the_form_that_the_optimizer_makes(tmp_path, clip):
    optim = dataclasses.replace(OPTIM, clip_norm=clip)
    training_state.write(tmp_path / "run", random_training(optim=optim))
    _, state, _ = vit_jax.load_training(tmp_path / "run")
    new = init_state(state.params, optim)
    assert jax.tree.structure(state) == jax.tree.structure(new)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, new)
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
    assert [int(count) for count in counts] == [7, 7, 7]
    _, optimizer, _, step, _ = vit_torch.load_training(tmp_path / "run")
    assert type(optimizer) is torch.optim.AdamW and step == 7
    assert {float(s["step"]) for s in optimizer.state.values()} == {7.0}
    assert len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups)


def test_a_run_may_switch_before_its_first_step(x64, tmp_path):
    save_torch(new_torch(), tmp_path / "torch")
    save_jax(new_jax(), tmp_path / "jax")
    assert_same_bits(*(training_state.read(tmp_path / side) for side in ("torch", "jax")))
    losses, run = run_torch(vit_torch.load_training(tmp_path / "jax"), BATCHES[:2])
    expected_losses, expected = run_torch(new_torch(), BATCHES[:2])
    assert losses == expected_losses
    assert_same_bits(torch_state(run), torch_state(expected))


def test_a_loaded_run_shares_no_memory_with_what_it_came_from():
    training = random_training()
    before = {name: array.copy() for name, array in everything(training).items()}
    run = vit_torch.training_state.from_training(training)
    with torch.no_grad():
        for tensor in [*run[0].parameters(), *run[4].values()]:
            tensor.add_(1)
        for moments in run[1].state.values():
            moments["exp_avg"].add_(1)
    assert all(np.array_equal(before[n], a) for n, a in everything(training).items())


def test_float64_without_x64_mode_says_what_to_do(tmp_path):
    training_state.write(tmp_path / "run", random_training("float64"))
    with pytest.raises(ValueError, match=r"with jax.enable_x64\(True\)"):
        vit_jax.load_training(tmp_path / "run")


def test_tensors_of_another_dtype_are_refused():
    training = random_training()
    m = training.m | {"head.bias": training.m["head.bias"].astype(np.float64)}
    with pytest.raises(ValueError, match="m.head.bias is float64 and its parameter float32"):
        dataclasses.replace(training, m=m)


def test_an_average_without_its_setting_and_the_setting_without_an_average_are_refused():
    training = random_training()
    with pytest.raises(ValueError, match="missing  ema.cls_token"):
        dataclasses.replace(training, ema=None)
    with pytest.raises(ValueError, match="extra    ema.cls_token"):
        dataclasses.replace(training, optim=dataclasses.replace(OPTIM, ema_decay=None))


def test_a_step_that_the_optimizer_does_not_count_is_refused(tmp_path):
    structure, state, optim = vit_jax.training_state.from_training(random_training())
    with pytest.raises(ValueError, match="step 8 is not what the optimizer counts, 7"):
        save_jax((structure, state._replace(step=state.step + 1), optim), tmp_path / "run")
    model, optimizer, optim, _, ema = vit_torch.training_state.from_training(random_training())
    with pytest.raises(ValueError, match="step 8 is not what the optimizer counts, 7"):
        save_torch((model, optimizer, optim, 8, ema), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_other_settings_is_refused(tmp_path):
    structure, state, _ = new_jax(dtype="float32")
    other = dataclasses.replace(OPTIM, clip_norm=None, b1=0.8)
    with pytest.raises(ValueError, match=r"not one of make_optimizer\(optim\)"):
        save_jax((structure, state, other), tmp_path / "run")
    model, optimizer, _, step, ema = new_torch(dtype="float32")
    with pytest.raises(ValueError, match=r"settings for cls_token are .*0.9.* optim says .*0.8"):
        save_torch((model, optimizer, other, step, ema), tmp_path / "run")


def test_moments_that_were_never_made_are_missing(tmp_path):
    model, optimizer, optim, _, ema = new_torch(dtype="float32")
    with pytest.raises(ValueError, match=re.escape("missing  m.cls_token (1, 1, 32)")):
        save_torch((model, optimizer, optim, 3, ema), tmp_path / "run")
