"""The last words of the training program."""

import os
import shutil
import sys
from pathlib import Path

from vit_jax.run_folder import PROOF
from vit_spec.extras import is_installed
from vitwin.arguments import program


def next_steps(path: Path) -> str:
    """Where everything of a run lies, and what to type next."""
    board = "" if is_installed("tensorboard") else "  (needs `pip install tensorboard`)"
    bin = Path(sys.prefix) / "bin"
    active = shutil.which("parity") is not None
    first = "" if active else f" (after `source {os.path.relpath(bin / 'activate')}`)"
    proof = path / PROOF
    told = f"\n  {PROOF}                       what was proven: parity verify {proof}"
    proven = told if proof.exists() else ""
    return f"""
in {path}
  model.safetensors, config.json   the model: vit_jax.load("{path}") or vit_torch.load("{path}")
  metrics.jsonl, tensorboard/      what happened: tensorboard --logdir {path}{board}
  recipe.json, summary.json        what was asked for and what came out{proven}
next{first}
  parity check {path} --dtype float32 bfloat16
  parity inspect {path}
  {program()} --help    (all recipes; a folder of images is one)"""
