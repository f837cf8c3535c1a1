"""Known bugs are caught and named, alone and together; healthy pairs raise no alarm."""

import pytest
import torch

from parity.check import check_pair
from parity.diagnosis.diagnose import explain_pair
from parity.mutants.mutant import SUBJECT, Plant
from parity.mutants.run import MUTANTS, Scores, false_alarms, is_named, measure, score
from parity.mutants.table import render, to_json
from parity.precision import exact

pytestmark = pytest.mark.usefixtures("quickly_compiled")

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
# One of each group on the plain configuration, so that few programs are compiled.
SAMPLE = [
    "GELU: tanh for erf",
    "LayerNorm epsilon 1e-5 for 1e-6",
    "LayerNorm fast variance, in JAX",
    "qkv: interleaved by head",
    "attention scale by the width",
    "position embedding: edges clamped",
    "mean pooling for the class token",
    "dropout left on",
    "TF32 factors",
    "square kernel not transposed",
    "qkv weights: key before query",
    "images: RGB/BGR",
    "images: std left out",
    "label smoothing left out",
    "clipping: 1e-6 added to the norm",
    "weight decay in the gradient (Adam, L2)",
    "AdamW epsilon inside the root",
    "cosine ends one step before",
    "moving average warmed up",
]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_there_are_at_least_45_bugs_with_names_of_their_own():
    assert len(BY_NAME) == len(MUTANTS) >= 45


@pytest.mark.parametrize("name", SAMPLE)
def test_a_known_bug_is_caught_in_float64_and_named(name):
    with exact():
        pair = BY_NAME[name].pair(seed=1)
        report = check_pair(pair, level="training", steps=10)
    assert not report.passed
    assert report.diagnosis is not None
    assert is_named(BY_NAME[name], report.diagnosis), report.diagnosis
    assert all(cause.residual < 1e-6 for cause in report.diagnosis.causes)


def test_three_bugs_at_once_are_found_one_after_the_other():
    names = ("GELU: tanh in the last block only", "attention without scale", "TF32 factors")
    plant = Plant(SUBJECT, 0)
    for name in (*names[:2], "position of the class token left out", "no bias correction"):
        BY_NAME[name].plant(plant)
    with exact():
        found = explain_pair(plant.pair(), steps=5)
    assert [cause.what for cause in found.causes] == [
        "position of the class token",
        "scale",
        "activation",
        "bias correction",
    ]
    assert found.explained


def test_a_bug_outside_the_catalogue_is_located_and_not_guessed():
    def odd(model):
        model.blocks[1].mlp.activation = "gelu"
        forward = model.blocks[1].mlp.forward
        model.blocks[1].mlp.forward = lambda x, masks=None: forward(x, masks) * 1.01

    plant = Plant(SUBJECT, 0)
    plant.in_torch.append(odd)
    with exact():
        found = explain_pair(plant.pair(), level="layers")
    assert not found.causes
    assert found.unexplained
    assert all("blocks.1" in place for place in found.unexplained)
    assert found.location is not None
    assert found.location.culprit == "blocks.1.mlp"


def test_a_wrong_diagnosis_does_not_count_as_named():
    with exact():
        diagnosis = explain_pair(BY_NAME["GELU: quick for erf"].pair(0), level="layers")
    assert not is_named(BY_NAME["GELU: tanh for erf"], diagnosis)


def test_healthy_twins_have_neither_alarm_nor_diagnosis():
    closest = {}
    with exact():
        assert false_alarms(Plant(SUBJECT, 3).pair(), 6, closest) == []
        diagnosis = explain_pair(Plant(SUBJECT, 3).pair(), steps=6)
    assert 0 < max(closest.values()) < 1
    assert diagnosis.location is None
    assert diagnosis.causes == diagnosis.unexplained == ()


def test_the_table_counts_what_was_measured(tmp_path):
    scores = measure([BY_NAME["GELU: tanh for erf"]], seeds=1, steps=2)
    assert scores.passed
    text = render(scores)
    assert "1 of 1  100.0%" in text
    assert "1 seeds, 0 false alarms" in text
    assert to_json(scores)["shares"]["named"] == 1
    logits_only = scores.elsewhere(1e-1)
    assert logits_only == 0
    assert not Scores(scores.scores, (), 0, {}).alarms


def test_what_a_tolerance_on_logits_sees_is_measured_in_float32():
    with exact():
        assert 1e-5 < score(BY_NAME["GELU: tanh for erf"], steps=2).logits < 1e-1
