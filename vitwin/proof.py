"""What a run ends with: its model in PyTorch, compared with the JAX one."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from vit_data import Batches
from vit_data.recipe import Recipe
from vit_jax.run_folder import PROOF
from vit_spec import ViTConfig, read_header
from vit_spec.checkpoint import WEIGHTS, replacing
from vit_spec.extras import install, is_installed
from vit_spec.flops import forward_flops
from vit_spec.words import counted

SMALL = 1e9
"""Operations of one image up to which `auto` is the full proof: S/16 has 9e9 and takes 8 minutes on
two cores, fashion_mnist's model has 8e7."""
BUDGET = 2e12
"""Operations that comparing predictions takes at most, where the proof is not the full one."""
FULL = "training"


def prove(recipe: Recipe, path: Path, batches: Callable[[], Batches]) -> bool:
    """Whether the model of a run predicts and computes in PyTorch what it does in JAX.

    Prints what was compared, up to which level. `proof.json` is then the certificate of a proof
    that passed, and `auto` does not repeat it. `batches` gives those of the test split.
    """
    config, level = read_header(path).config, recipe.proof
    if level == "none":
        print(f"the PyTorch twin was not checked (--proof none): parity check {path} does it")
        return True
    if not is_installed("torch"):
        print(f"PyTorch is not installed, so the twin was not checked: {install('torch')}")
        return True
    if level == "auto":
        if (known := proven(path)) is not None:
            print(f"proven up to {known} already: {path / PROOF}; --proof {FULL} proves it again")
            return True
        level = level_of(config)
    import parity
    from parity.certificate_file import to_json
    from parity.predictions import compare_predictions

    (path / PROOF).unlink(missing_ok=True)
    most = None if level == FULL else max(1, int(BUDGET // (2 * forward_flops(config))))
    with closing(batches()) as test:
        found = compare_predictions(path, test, most=most)
    first = "the first " if found.images == most else ""
    print(
        f"\nPyTorch twin: test accuracy {found.right / found.images:.2%}, the same prediction for "
        f"{found.same:,} of {first}{counted(found.images, 'image')}"
    )
    print(f"largest difference of a logit in float32: {found.gap:.1e}\n")
    report = parity.check(path, level=level, dtype="float64")
    print(parity.render(report))
    if level != FULL:
        print(f"this went up to {level}; the full proof, which takes longer: parity check {path}")
    same = report.passed and found.same == found.images
    if same:
        with replacing(path / PROOF) as temporary:
            temporary.write_text(to_json(parity.certificate(report)))
    return same


def level_of(config: ViTConfig) -> str:
    """What `auto` is for a model."""
    return FULL if forward_flops(config) <= SMALL else "outputs"


def proven(path: Path) -> str | None:
    """The level up to which the model that a folder holds is proven; None if it is not."""
    from parity.certificate import sha256

    try:
        record = json.loads((path / PROOF).read_bytes())
        weights = record["weights"]["jax"]["file_sha256"]
        if record["verdict"] == "PASS" and weights == sha256(path / WEIGHTS):
            return str(record["arguments"]["level"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None
