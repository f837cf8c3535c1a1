"""Short runs of `train.py` on the digits, whole or broken off, and what they leave."""

import json

import pytest

import train
from vit_jax import loop

SHORT = [
    "--optim.total-steps",
    "12",
    "--optim.warmup-steps",
    "2",
    "--log-every",
    "4",
    "--eval-every",
    "6",
    "--model.depth",
    "2",
    "--model.width",
    "32",
    "--model.num-heads",
    "2",
    "--model.mlp-width",
    "32",
]
EVERY = ["--checkpoint.every", "4", "--checkpoint.no-best"]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Stop(Exception):
    """Ends a run as abruptly as an exception can."""


def stopped(arguments, monkeypatch, step=10):
    """A run that breaks off before it has done `step` steps."""
    put = loop.Window.add

    def add(self, number, *rest):
        if number == step:
            raise Stop
        put(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Window, "add", add)
        train.main(arguments)


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
