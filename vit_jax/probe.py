"""Judges a checkpoint's features without training them: nearest neighbours and a linear layer.

    python -m vit_jax.probe runs/digits --data digits
    python -m vit_jax.probe hf://facebook/dino-vits16 --data path/to/images --methods knn

Exit codes: 0 done, 2 wrong usage or broken input.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from vit_jax.api import from_state
from vit_jax.probing import extract, fit_linear, nearest_classes
from vit_spec.extras import explain
from vit_spec.names import printable

METHODS = ("knn", "linear")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the test accuracy of each method; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        for name, accuracy in probe(options).items():
            print(f"{name}: test accuracy {accuracy:.2%}")
    except (ValueError, OSError) as error:
        print(f"probe: {printable(error, lines=True)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (text := explain(error, "probe")) is None:
            raise
        print(text, file=sys.stderr)
        return 2
    return 0


def probe(options: argparse.Namespace) -> dict[str, float]:
    """Accuracy on the test split by method; the features of each split are computed once."""
    from parity.starting import read_checkpoint
    from vit_data import eval_batches, open_source

    header, state = read_checkpoint(options.checkpoint)
    model = from_state(header.config, state, dtype=options.dtype)
    found = []
    for split in ("train", "test"):
        batches = eval_batches(
            open_source(options.data, split=split, data_dir=options.data_dir),
            batch_size=options.batch_size,
            size=options.image_size or header.image_shape,
            channels=header.config.in_channels,
            preprocessing=header.preprocessing,
            resize_by=options.resize_by,
            workers=options.workers,
        )
        found += extract(model, batches)
    features, labels, test, truth = found
    results = {}
    if "knn" in options.methods:
        near = nearest_classes(features, labels, test, k=options.k, temperature=options.temperature)
        results[f"{options.k} nearest neighbours"] = float(np.mean(near == truth))
    if "linear" in options.methods:
        kernel, bias = fit_linear(features, labels, c=options.c)
        results["linear probe"] = float(np.mean((test @ kernel + bias).argmax(-1) == truth))
    return results


def _parser() -> argparse.ArgumentParser:
    from vit_data.resize import RESIZERS

    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.probe", description="Judge frozen features by simple classifiers."
    )
    add = parser.add_argument
    add("checkpoint", help="folder, file or hf:// address of any format of `parity formats`")
    add("--data", required=True, help="data set, as in a recipe")
    add("--data-dir", help="folder of prepared data sets")
    add("--methods", nargs="+", choices=METHODS, default=METHODS)
    add("--k", type=int, default=20, help="neighbours that vote (default: 20)")
    add("--temperature", type=float, default=0.07, help="of the vote (default: 0.07)")
    add("--c", type=float, default=0.316, help="inverse penalty of the linear layer (0.316)")
    add("--image-size", type=int, help="pixels; default: that of the checkpoint")
    add("--resize-by", choices=RESIZERS, default="pillow", help="as in a recipe")
    add("--batch-size", type=int, default=256)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--workers", type=int, default=0, help="processes that decode images")
    return parser


if __name__ == "__main__":
    sys.exit(main())
