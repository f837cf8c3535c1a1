"""What came out of a run: the summary in its folder, and the last lines on the screen."""

from collections.abc import Mapping
from typing import Any

from vit_jax.progress import Progress, Speed, shown
from vit_spec import ViTConfig, count_parameters

MOST = 10  # unreadable images that are named on the screen


def summarize(
    config: ViTConfig,
    progress: Progress,
    speed: Speed,
    *,
    checkpoints: list[int],
    unreadable: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `summary.json`; `seconds` are of training steps, over all resumes.

    `unreadable` are the images that were skipped, with the reason.
    """
    p = progress
    return {
        "test_accuracy": p.accuracy,
        "test_images": p.test_images,
        "best_test_accuracy": p.best_accuracy,
        "best_step": p.best_step,
        "seconds": round(p.seconds, 1),
        "steps": p.step,
        "parameters": count_parameters(config),
        **{name: float(f"{value:.4g}") for name, value in speed.total().items()},
        "skipped_images": len(unreadable),
        "unreadable": dict(unreadable),
        "skipped_steps": p.skipped,
        "resumes": p.resumes,
        "checkpoints": checkpoints,
    }


def closing_lines(summary: dict[str, Any]) -> str:
    """The summary in words."""
    s = summary
    lines = [
        f"test accuracy {s['test_accuracy']:.2%} on {s['test_images']:,} images after "
        f"{s['seconds']:.0f} s of training; the best was {s['best_test_accuracy']:.2%} after step "
        f"{s['best_step']:,}",
        shown(s),
    ]
    if s["checkpoints"]:
        lines.append(f"checkpoints of the steps {', '.join(map(str, s['checkpoints']))}")
    for name, what in {
        "skipped_steps": "step(s) were not finite and changed nothing",
        "resumes": "time(s) the run was resumed",
    }.items():
        if s[name]:
            lines.append(f"{s[name]} {what}")
    if s["unreadable"]:
        count = len(s["unreadable"])
        images = (
            "1 image that cannot be read was"
            if count == 1
            else f"{count:,} images that cannot be read were"
        )
        lines.append(f"{images} skipped (all are in summary.json):")
        lines += [f"  {name!r}: {why}" for name, why in list(s["unreadable"].items())[:MOST]]
    return "\n".join(line for line in lines if line)
