"""Train a Vision Transformer in JAX, then prove that its PyTorch twin computes the same.

    python train.py                        real handwritten digits, a minute on two cores
    python train.py fashion_mnist          another recipe
    python train.py path/to/images         your own folder, one subfolder a class
    python train.py digits --help          every field with its default
    python train.py digits --show-batch batch.png      what the model sees, as a picture

Exit codes: 0 done, 1 the run failed (loss not finite, twins differ), 2 wrong usage or broken input.
"""

import dataclasses
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log is not ours

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

import vit_jax
from vit_data import eval_batches, open_source
from vit_data.folder import FolderSource
from vit_data.recipe import Recipe, training_batches
from vit_data.recipes import RECIPES
from vit_data.show import show_batch
from vit_jax.distillation import ModelTeacher, Precomputed, Taught
from vit_jax.evaluation import Evaluation
from vit_jax.functional import merge, split
from vit_jax.metrics import MetricsWriter, NotFiniteError, means
from vit_jax.parallel import jit_train_step, new_key, new_state, to_devices, to_host
from vit_jax.processes import by_first, end_processes, from_first, is_first, start_processes, total
from vit_jax.run_folder import SUMMARY, RunFolder
from vit_jax.sharding import batch_share, check_batch_size, check_model, make_mesh
from vit_jax.training import TrainState
from vit_spec import Header, ViTConfig, count_parameters
from vit_spec.finetuning import fit
from vit_spec.layout import to_jax_layout, to_torch_layout
from vit_spec.names import unknown_name

BAR = "{n_fmt}/{total_fmt} {bar:16} {elapsed}<{remaining}{postfix}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one recipe and returns the exit code."""
    try:
        try:
            name, recipe = parse(sys.argv[1:] if arguments is None else arguments)
            if arguments is None:  # as a program, which has not used JAX yet
                start_processes(recipe.distributed)
                if not is_first():
                    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the program ends
            return run(name, recipe)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is caught
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports it
    except NotFiniteError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        text = f"{error.strerror}: {error.filename}" if getattr(error, "strerror", "") else error
        print(f"train: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain: interrupted; start again with --overwrite", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe's name and its fields from a command line."""
    import tyro

    first, rest = "digits", list(arguments)
    if rest and not rest[0].startswith("-"):
        first = rest.pop(0)
    if first in RECIPES:
        name, base = first, RECIPES[first]()
    elif Path(first).is_dir():
        name = f"folder_{Path(first).resolve().name}"
        base = dataclasses.replace(RECIPES["folder"](), data=first)
    else:
        raise ValueError(f"there is no folder {first}; {unknown_name('recipe', first, RECIPES)}")
    about = inspect.getdoc(RECIPES.get(name, RECIPES["folder"]))
    return name, tyro.cli(
        Recipe, default=base, args=rest, prog=f"train.py {first}", description=about
    )


def run(name: str, recipe: Recipe) -> int:
    """Trains unless the folder already holds this very run, then checks the result in PyTorch."""
    if recipe.show_batch:
        print(show_batch(recipe, Path(recipe.show_batch)))
        return 0
    folder, first = RunFolder(recipe.out or f"runs/{name}"), is_first()
    if from_first(folder.finished(recipe.to_dict()) and not recipe.overwrite):
        if first:
            accuracy = folder.read_json(SUMMARY)["test_accuracy"]
            print(
                f"{folder.path} holds this run already: test accuracy {accuracy:.2%}; "
                f"--overwrite trains it again"
            )
    else:
        train(recipe, folder)
    end_processes()
    if not first:
        return 0
    same = check_twin(recipe, folder.path)
    print_next_steps(folder.path)
    return 0 if same else 1


def train(recipe: Recipe, folder: RunFolder) -> None:
    """The whole training run: data, model, loop, checkpoint, summary."""
    mesh = make_mesh(**dataclasses.asdict(recipe.mesh))
    check_batch_size(recipe.batch_size, mesh)
    check_batch_size(recipe.eval_batch_size, mesh)
    sources = {
        split: open_source(recipe.data, split=split, data_dir=recipe.data_dir)
        for split in ("train", "test")
    }
    config = recipe.model.replace(num_classes=sources["train"].num_classes)
    check_model(config, mesh)
    share, turn, turns = batch_share(recipe.batch_size, mesh)
    batches = training_batches(recipe, config, sources["train"], share, turn, turns)
    batches = with_teacher(recipe, config, batches)
    by_first(lambda: folder.claim(recipe.to_dict(), overwrite=recipe.overwrite))
    if isinstance(sources["train"], FolderSource):
        print(sources["train"].division)
    print(
        f"training {count_parameters(config):,} parameters on {len(sources['train']):,} "
        f"images of {recipe.data}, {recipe.optim.total_steps:,} steps of {recipe.batch_size} on "
        f"{mesh.size} {jax.devices()[0].platform} device(s)"
    )
    structure, first = new_state(
        lambda: new_model(recipe, config), recipe.optim, mesh, start=initial(recipe, config)
    )
    share, turn, turns = batch_share(recipe.eval_batch_size, mesh)
    tests = test_batches(recipe, config, sources["test"], share, turn, turns)
    evaluate = Evaluation(structure, tests, mesh)
    writer = MetricsWriter(folder if is_first() else None)
    start = time.perf_counter()
    try:
        for state, values in steps(recipe, structure, first, batches, mesh):
            if "loss" in values:
                writer.write(int(values["step"]), {k: v for k, v in values.items() if k != "step"})
            else:
                accuracy = evaluate(state.ema or state.params)
                tqdm.write(f"step {int(values['step']):,}: test accuracy {accuracy:.2%}")
                writer.write(int(values["step"]), {"test_accuracy": accuracy})
    finally:
        writer.close()
        batches.close()
    seconds = time.perf_counter() - start
    params = to_host(state.ema or state.params)
    skipped = total(len(batches.corrupt) + evaluate.corrupt)
    if not is_first():
        return
    model = merge(structure, params)
    vit_jax.save(
        model,
        folder.path,
        preprocessing=recipe.preprocessing,
        labels=tuple(sources["train"].label_names),
    )
    summary = {
        "test_accuracy": accuracy,
        "test_images": len(sources["test"]),
        "seconds": round(seconds, 1),
        "steps": recipe.optim.total_steps,
        "parameters": count_parameters(config),
        "skipped_images": skipped,
    }
    folder.write_json(SUMMARY, summary)
    print(
        f"test accuracy {accuracy:.2%} on {len(sources['test']):,} images after "
        f"{seconds:.0f} s of training"
    )
    if skipped:
        print(f"{skipped} corrupt image(s) were skipped")


def new_model(recipe: Recipe, config: ViTConfig) -> vit_jax.ViT:
    """The untrained model with the recipe's options."""
    return vit_jax.create(
        config,
        seed=recipe.seed,
        dtype=recipe.dtype,
        remat=recipe.remat,
        scan=recipe.scan,
        attention=recipe.attention,
    )


def initial(recipe: Recipe, config: ViTConfig) -> dict[str, Any] | None:
    """The parameters of the checkpoint that the run starts from, on the host; None: new ones."""
    if recipe.init is None:
        return None
    from parity import read

    ours = Header(config=config, preprocessing=recipe.preprocessing)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model = new_model(recipe, config)
        start = to_torch_layout(vit_jax.api.get_state(model))
        state, transfer = fit(*read(recipe.init), config, start, like=ours)
        vit_jax.api.set_state(model, to_jax_layout(state, vit_jax.api.names(model)))
        print(f"from {recipe.init}: {transfer}")
        return {name: np.asarray(value) for name, value in split(model)[1].items()}


def with_teacher(recipe: Recipe, config: ViTConfig, batches: Any) -> Any:
    """The batches with the teacher's logits, if the recipe has one."""
    name = recipe.teacher
    if name is None:
        return batches
    if Path(name).suffix in (".npy", ".npz"):
        teacher: Any = Precomputed(Path(name))
    elif ":" in name and "://" not in name:
        from vit_torch.teacher import HostTeacher

        teacher = HostTeacher(name)
    else:
        from parity import read

        header, state = read(name)
        model = vit_jax.api.from_state(header.config, state, dtype=recipe.dtype)
        teacher = ModelTeacher(model, theirs=header.preprocessing, ours=recipe.preprocessing)
    return Taught(batches, teacher, config.num_classes)


def steps(
    recipe: Recipe,
    structure: Any,
    state: TrainState,
    batches: Iterable[Any],
    mesh: Mesh,
) -> Iterator[tuple[TrainState, dict[str, float]]]:
    """Runs all steps. Yields means of metrics every `log_every` steps, and the bare step when it is
    time to evaluate. Nothing moves between host and device but batches in and metrics out."""
    compiled = jit_train_step(structure, recipe.optim, state, mesh)
    key = new_key(recipe.seed + 1, mesh)
    total, pending, clock = recipe.optim.total_steps, [], time.perf_counter()
    with tqdm(total=total, bar_format=BAR, disable=not (is_first() and sys.stderr.isatty())) as bar:
        for step, batch in zip(range(1, total + 1), batches, strict=False):
            with jax.transfer_guard("disallow"):
                used = {n: batch[n] for n in ("image", "label", "teacher") if n in batch}
                state, metrics = compiled(state, to_devices(used, mesh), key)
            pending.append(metrics)
            bar.update()
            if step % recipe.log_every == 0 or step == total:
                values = means(pending, first_step=step - len(pending) + 1)
                elapsed = time.perf_counter() - clock
                values |= {
                    "step": step,
                    "images_per_second": len(pending) * recipe.batch_size / elapsed,
                }
                bar.set_postfix_str(
                    f"loss {values['loss']:.3f}, lr {values['lr']:.1e}, accuracy "
                    f"{values['accuracy']:.1%}, {values['images_per_second']:,.0f} images/s"
                )
                yield state, values
                pending, clock = [], time.perf_counter()
            if step % recipe.eval_every == 0 or step == total:
                yield state, {"step": step}
                clock = time.perf_counter()


def test_batches(
    recipe: Recipe, config: ViTConfig, source: Any, batch_size: int, turn: int = 0, turns: int = 1
) -> Any:
    """The test split in order, prepared as in training but for augmentation: this host's share."""
    return eval_batches(
        source,
        batch_size=batch_size,
        shard_index=turn,
        shard_count=turns,
        size=config.image_shape,
        channels=config.in_channels,
        preprocessing=recipe.preprocessing,
        workers=recipe.workers,
    )


def check_twin(recipe: Recipe, path: Path) -> bool:
    """Loads the checkpoint in PyTorch: same predictions image by image, and the float64 proof."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed, so the twin was not checked: pip install 'vitwin[torch]'")
        return True
    import torch

    import parity
    import vit_torch

    jax_model, torch_model = vit_jax.load(path), vit_torch.load(path)
    apply = partial(
        jax.jit(lambda structure, params, x: merge(structure, params)(x), static_argnums=0),
        *split(jax_model),
    )
    source = open_source(recipe.data, split="test", data_dir=recipe.data_dir)
    same, seen, right, gap = 0, 0, 0, 0.0
    for batch in test_batches(recipe, jax_model.config, source, recipe.eval_batch_size):
        kept = batch["mask"] > 0
        ours = np.asarray(apply(batch["image"]))[kept]
        with torch.no_grad():
            theirs = torch_model(torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)).numpy()[kept]
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        right += int((theirs.argmax(-1) == batch["label"][kept]).sum())
        seen, gap = seen + int(kept.sum()), max(gap, float(np.abs(ours - theirs).max()))
    print(
        f"\nPyTorch twin: test accuracy {right / seen:.2%}, the same prediction for "
        f"{same:,} of {seen:,} images"
    )
    print(f"largest difference of a logit in float32: {gap:.1e}\n")
    report = parity.check(path, level="training", dtype="float64")
    print(parity.render(report))
    return report.passed and same == seen


def print_next_steps(path: Path) -> None:
    """Where everything lies and what to type next."""
    print(f"""
in {path}
  model.safetensors, config.json   the model: vit_jax.load("{path}") or vit_torch.load("{path}")
  metrics.jsonl, tensorboard/      what happened: tensorboard --logdir {path}
  recipe.json, summary.json        what was asked for and what came out
next (after `source .venv/bin/activate`)
  parity check {path} --dtype float32 bfloat16
  parity inspect {path}
  python train.py fashion_mnist    (or a folder of images; --help shows every field)""")


if __name__ == "__main__":
    sys.exit(main())
