"""Train a Vision Transformer in JAX, then prove that its PyTorch twin computes the same.

    python train.py                        real handwritten digits, a minute on two cores
    python train.py fashion_mnist          another recipe
    python train.py path/to/images         your own folder, one subfolder a class
    python train.py digits --resume        goes on where the run was ended, by whatever
    python train.py digits --help          every field with its default

Exit codes: 0 done, or saved because of a SIGTERM; 1 the run failed (loss not finite, twins differ);
2 wrong usage, broken input or a full disk.
"""

import dataclasses
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log is not ours

import jax
from jax.sharding import Mesh

import vit_jax
from vit_data import Batches, eval_batches, open_source
from vit_data.recipe import Recipe, training_batches
from vit_data.recipes import RECIPES
from vit_data.show import show_batch
from vit_data.sources import check_classes, describe_classes
from vit_jax.attention import check_kernel
from vit_jax.checkpoints import Checkpoints
from vit_jax.distillation import Taught
from vit_jax.evaluation import Evaluation
from vit_jax.functional import merge, split
from vit_jax.host_memory import keep_freed_memory
from vit_jax.loop import Loop
from vit_jax.metrics import MetricsWriter
from vit_jax.nonfinite import NotFiniteError
from vit_jax.parallel import new_state, place, to_host
from vit_jax.preemption import Preempted, Preemption
from vit_jax.processes import by_first, end_processes, from_first, is_first, start_processes, union
from vit_jax.progress import Speed
from vit_jax.run_folder import SUMMARY, RunFolder
from vit_jax.run_weights import header_of, newest
from vit_jax.saver import Saver
from vit_jax.sharding import batch_share, check_batch_size, check_model, make_mesh, state_shardings
from vit_jax.summary import closing_lines, summarize
from vit_spec import Header, ViTConfig, count_parameters, read_header
from vit_spec.names import unknown_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one recipe and returns the exit code."""
    try:
        try:
            name, recipe = parse(sys.argv[1:] if arguments is None else arguments)
            if arguments is None:  # as a program, which has not used JAX yet
                keep_freed_memory(recipe.model, recipe.batch_size)
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
        print("\ntrain: interrupted; --resume goes on from the last save, if any", file=sys.stderr)
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
    if picture := recipe.show_batch:
        by_first(lambda: print(show_batch(recipe, Path(picture))))
        return 0
    folder = RunFolder(recipe.out or f"runs/{name}", writes=is_first())
    if recipe.eval_only:
        return evaluate_only(recipe, folder)
    if from_first(folder.finished(recipe.to_dict()) and not recipe.overwrite):
        if folder.writes:
            accuracy = f"test accuracy {folder.read_json(SUMMARY)['test_accuracy']:.2%}"
            print(f"{folder.path} holds this run already: {accuracy}; --overwrite trains it again")
    else:
        try:
            train(recipe, folder)
        except Preempted as notice:
            print(f"{notice}; --resume continues it")
            end_processes()
            return 0
    end_processes()
    if not folder.writes:
        return 0
    same = check_twin(recipe, folder.path)
    print_next_steps(folder.path)
    return 0 if same else 1


def open_data(recipe: Recipe, mesh: Mesh) -> tuple[Header, Any, Batches]:
    """What the model is for the data; this host's share of training and of test batches."""
    source, test = (
        open_source(recipe.data, split=split, data_dir=recipe.data_dir)
        for split in ("train", "test")
    )
    check_batch_size(recipe.batch_size, mesh, parts=recipe.optim.accumulate)
    check_batch_size(recipe.eval_batch_size, mesh)
    config = recipe.model.replace(num_classes=source.num_classes)
    check_model(config, mesh)
    share, turn, turns = batch_share(recipe.batch_size, mesh)
    batches = training_batches(recipe, config, source, share, turn, turns)
    if recipe.teacher is not None:
        from parity.starting import open_teacher

        teacher = open_teacher(
            recipe.teacher,
            mesh,
            dtype=recipe.dtype,
            preprocessing=recipe.preprocessing,
            mixed=recipe.augmentation.mixes,
        )
        batches = Taught(batches, teacher, config.num_classes)
    print(describe_classes(source, test))
    print(
        f"{count_parameters(config):,} parameters, {len(source):,} "
        f"images of {recipe.data}, {recipe.optim.total_steps:,} steps of {recipe.batch_size} "
        f"on {mesh.size} {jax.devices()[0].platform} device(s)"
    )
    labels = tuple(source.label_names)
    header = Header(config=config, preprocessing=recipe.preprocessing, labels=labels)
    return header, batches, test_batches(recipe, config, test, mesh)


def train(recipe: Recipe, folder: RunFolder) -> None:
    """The whole run: data, model, loop, model file, summary."""
    mesh, keep = make_mesh(**dataclasses.asdict(recipe.mesh)), recipe.checkpoint
    check_kernel(recipe.attention, recipe.model, dtype=recipe.dtype, mesh=mesh)
    header, batches, test = open_data(recipe, mesh)
    make, start = partial(new_model, recipe, header.config), None
    goes_on = not recipe.overwrite and from_first(folder.has_checkpoints)
    if recipe.init is not None and not goes_on:
        from parity.starting import initial_params

        start = initial_params(recipe.init, make, header)
    structure, fresh = new_state(make, recipe.optim, mesh, start=start)
    how = {name: getattr(recipe, name) for name in ("overwrite", "resume", "allow_change")}
    with ExitStack() as stack:  # from here on the folder is this run's
        claim = partial(folder.claimed, recipe.to_dict(), **how)
        by_first(lambda: stack.enter_context(claim()))
        stack.enter_context(closing(batches))
        preemption = stack.enter_context(Preemption())
        checkpoints = Checkpoints(folder.checkpoints, keep=keep.keep, best=keep.best)
        stack.enter_context(closing(checkpoints))
        stop = keep.on_failure == "stop"
        told: Any = {"header": header, "seed": recipe.seed, "stop_on_failure": stop}
        saver = Saver(folder, checkpoints, batches, **told)
        state, progress, position = saver.restore(fresh)
        writer = MetricsWriter(folder, position=position, step=progress.step)
        stack.enter_context(closing(writer))
        loop = Loop(
            recipe=recipe,
            header=header,
            structure=structure,
            mesh=mesh,
            state=state,
            progress=progress,
            batches=batches,
            test=test,
            folder=folder,
            saver=saver,
            writer=writer,
            speed=Speed(header.config, recipe.batch_size, progress),
            preemption=preemption,
        )
        del fresh, state  # the loop has them
        loop.run()
        saved, params = saver.finish(), to_host(loop.weights())
        unreadable = union(batches.describe_corrupt()) | union(test.describe_corrupt())
        if not folder.writes:
            return
        told: Any = {"preprocessing": header.preprocessing, "labels": header.labels}
        vit_jax.save(merge(structure, params), folder.path, **told)
        facts: Any = {"checkpoints": saved, "unreadable": unreadable}
        summary = summarize(header.config, progress, loop.speed, **facts)
        folder.write_json(SUMMARY, summary)
        print(closing_lines(summary))


def evaluate_only(recipe: Recipe, folder: RunFolder) -> int:
    """Test accuracy of a finished run's model, of a checkpoint, or of a run's newest one."""
    path, mesh = newest(folder.path), make_mesh(**dataclasses.asdict(recipe.mesh))
    check_batch_size(recipe.eval_batch_size, mesh)
    source = open_source(recipe.data, split="test", data_dir=recipe.data_dir)
    check_classes(source, header := header_of(path), where=str(path))
    recipe = dataclasses.replace(recipe, preprocessing=header.preprocessing)
    model = vit_jax.load(path, dtype=recipe.dtype, attention=recipe.attention)
    structure, params = split(model)
    shapes = {name: p.shape for name, p in params.items()}
    params = place(params, state_shardings(params, shapes, mesh))
    evaluate = Evaluation(structure, test_batches(recipe, model.config, source, mesh), mesh)
    accuracy = evaluate(params)
    print(f"{path}: test accuracy {accuracy:.2%} on {evaluate.seen:,} images")
    return 0


def new_model(recipe: Recipe, config: ViTConfig) -> vit_jax.ViT:
    """The untrained model with the recipe's options."""
    names = ("seed", "dtype", "remat", "scan", "attention")
    return vit_jax.create(config, **{name: getattr(recipe, name) for name in names})


def test_batches(
    recipe: Recipe, config: ViTConfig, source: Any, mesh: Mesh | None = None
) -> Batches:
    """The test split in order, not augmented: this host's share, or without a mesh all."""
    share, turn, turns = recipe.eval_batch_size, 0, 1
    if mesh is not None:
        share, turn, turns = batch_share(recipe.eval_batch_size, mesh)
    return eval_batches(
        source,
        batch_size=share,
        shard_index=turn,
        shard_count=turns,
        size=config.image_shape,
        channels=config.in_channels,
        preprocessing=recipe.preprocessing,
        resize_by=recipe.resize_by,
        workers=recipe.workers,
    )


def check_twin(recipe: Recipe, path: Path) -> bool:
    """Loads the checkpoint in PyTorch: same predictions image by image, and the float64 proof."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed, so the twin was not checked: pip install 'vitwin[torch]'")
        return True
    import parity
    from parity.predictions import compare_predictions

    source = open_source(recipe.data, split="test", data_dir=recipe.data_dir)
    config = read_header(path).config
    found = compare_predictions(path, test_batches(recipe, config, source))
    print(
        f"\nPyTorch twin: test accuracy {found.right / found.images:.2%}, the same prediction for "
        f"{found.same:,} of {found.images:,} images"
    )
    print(f"largest difference of a logit in float32: {found.gap:.1e}\n")
    report = parity.check(path, level="training", dtype="float64")
    print(parity.render(report))
    return report.passed and found.same == found.images


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
