"""What came out of a run: the summary in its folder, and the last lines on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.progress import Progress, Speed, shown
from vit_spec import Header, count_parameters
from vit_spec.names import plain
from vit_spec.words import counted

SHOWN = 10  # classes whose accuracy is printed at most
MOST = 10  # unreadable images that are named on the screen


def summarize(
    header: Header,
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
        "test_top5": p.test.get("top5"),
        "test_loss": p.test.get("loss"),
        "test_images": p.test_images,
        "best_test_accuracy": p.best_accuracy,
        "best_step": p.best_step,
        "seconds": round(p.seconds, 1),
        "steps": p.step,
        "parameters": count_parameters(header.config),
        **{name: float(f"{value:.4g}") for name, value in speed.total().items()},
        "skipped_images": len(unreadable),
        "unreadable": dict(unreadable),
        "skipped_steps": p.skipped,
        "resumes": p.resumes,
        "checkpoints": checkpoints,
        "classes": by_class(header, p.test.get("right", ()), p.test.get("of_class", ())),
    }


def by_class(header: Header, right: Sequence[int], of_class: Sequence[int]) -> list[dict[str, Any]]:
    """Name, test images and accuracy of each class, from the numbers of an evaluation."""
    names = header.labels or tuple(map(str, range(header.config.num_classes)))
    counts = zip(names, right, of_class, strict=False)
    return [
        {"name": name, "test_images": images, "test_accuracy": right / images if images else None}
        for name, right, images in counts
    ]


def closing_lines(summary: dict[str, Any]) -> str:
    """The summary in words."""
    s = summary
    top5 = "" if s["test_top5"] is None else f", top-5 {s['test_top5']:.2%}"
    loss = "" if s["test_loss"] is None else f", loss {s['test_loss']:.4f}"
    lines = [
        f"test accuracy {s['test_accuracy']:.2%}{top5}{loss} on "
        f"{counted(s['test_images'], 'image')} after {s['seconds']:.0f} s of training; the best "
        f"accuracy was {s['best_test_accuracy']:.2%} after step {s['best_step']:,}",
        class_line(s["classes"]),
        shown(s),
    ]
    if s["checkpoints"]:
        lines.append(f"checkpoints of the steps {', '.join(map(str, s['checkpoints']))}")
    if n := s["skipped_steps"]:
        lines.append(f"{counted(n, 'step was', 'steps were')} not finite and changed nothing")
    if n := s["resumes"]:
        lines.append(f"the run was resumed {counted(n, 'time')}")
    if unreadable := s["unreadable"]:
        what = "image that cannot be read was", "images that cannot be read were"
        lines.append(f"{counted(len(unreadable), *what)} skipped (all are in summary.json):")
        lines += [f"  {plain(name)}: {plain(why)}" for name, why in list(unreadable.items())[:MOST]]
    return "\n".join(line for line in lines if line)


def class_line(classes: list[dict[str, Any]]) -> str:
    """The accuracy of each class, the lowest first; of many classes only those."""
    known = [c for c in classes if c["test_images"]]
    known.sort(key=lambda c: c["test_accuracy"])
    texts = [f"{plain(c['name'])} {c['test_accuracy']:.1%}" for c in known[:SHOWN]]
    if not texts:
        return ""
    what = "by class" if len(known) <= SHOWN else f"the lowest of {len(known):,} classes"
    return f"{what}: {', '.join(texts)}"
