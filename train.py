"""Train a Vision Transformer in JAX, then prove that its PyTorch twin computes the same.

    python train.py                          real handwritten digits, a minute on two cores
    python train.py --help                   all recipes
    python train.py fashion_mnist --help     a recipe, and every field with its default
    python train.py path/to/images           your own folder, one subfolder per class
    python train.py --resume --out RUN       resume an interrupted run

Exit codes: 0 done, or saved because of a SIGTERM; 1 the run failed (loss not finite, twins differ);
2 wrong usage, broken input or a full disk. An installation has this program as `vitwin train`.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from vit_spec.extras import exit_without, explain

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log is not ours
exit_without(
    *("train", "jax", "flax", "optax", "PIL", "grain", "orbax.checkpoint"),
    *("tensorboardX", "tqdm", "tyro"),
)

import jax
from jax.sharding import Mesh

import vit_jax
from vit_data import Batches, eval_batches, open_source
from vit_data.recipe import Recipe, training_batches
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
from vit_jax.summary import by_class, class_line, closing_lines, summarize
from vit_spec import (
    Header,
    OptimConfig,
    ViTConfig,
    count_parameters,
    learning_rate,
    read_header,
)
from vit_spec.names import printable
from vit_spec.words import counted
from vitwin.arguments import parse
from vitwin.closing import next_steps
from vitwin.proof import prove


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one recipe and returns the exit code."""
    try:
        try:
            name, recipe = parse(sys.argv[1:] if arguments is None else arguments)
            if arguments is None:  # as a program, which has not used JAX yet
                sys.stdout.reconfigure(line_buffering=True)  # in a file, too
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
    except ModuleNotFoundError as error:
        if (text := explain(error, "train")) is None:
            raise
        print(text, file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        text = f"{error.strerror}: {error.filename}" if getattr(error, "strerror", "") else error
        print(f"train: {printable(text, lines=True)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain: interrupted; --resume goes on from the last save, if any", file=sys.stderr)
        return 130


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
    print(next_steps(folder.path))
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
    height, width = recipe.preprocessing.size or config.image_shape
    print(
        f"{counted(count_parameters(config), 'parameter')} (width {config.width}, depth "
        f"{config.depth}, patches {config.patch_size}), "
        f"{counted(len(source), 'image')} of {printable(recipe.data)} at {height} x {width}, "
        f"{counted(recipe.optim.total_steps, 'step')} of {recipe.batch_size} on "
        f"{counted(mesh.size, f'{jax.devices()[0].platform} device')}"
    )
    labels = tuple(source.label_names)
    header = Header(config=config, preprocessing=recipe.preprocessing, labels=labels)
    return header, batches, test_batches(recipe, config, test, mesh)


def train(recipe: Recipe, folder: RunFolder) -> None:
    """The whole run: data, model, loop, model file, summary."""
    mesh, keep = make_mesh(**dataclasses.asdict(recipe.mesh)), recipe.checkpoint
    check_kernel(recipe.attention, recipe.model, dtype=recipe.dtype, mesh=mesh)
    header, batches, test = open_data(recipe, mesh)
    recipe = dataclasses.replace(recipe, model=header.config)  # with as many classes as the data
    make, start = partial(new_model, recipe, header.config), None
    goes_on = not recipe.overwrite and from_first(folder.has_checkpoints)
    if recipe.init is not None and not goes_on:
        from parity.starting import initial_params

        start = initial_params(recipe.init, make, header, **recipe.init_told)
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
        if folder.before is not None:
            print_rate_change(folder.before["optim"], recipe.optim, progress.step)
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
        summary = summarize(header, progress, loop.speed, **facts)
        folder.write_json(SUMMARY, summary)
        print(closing_lines(summary))


def evaluate_only(recipe: Recipe, folder: RunFolder) -> int:
    """What a finished run's model, a checkpoint, or a run's newest one does on the test set."""
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
    found = evaluate(params)
    print(f"{path}: {found} on {counted(found.images, 'image')}")
    print(class_line(by_class(header, found.right, found.of_class)))
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
        size=recipe.preprocessing.size or config.image_shape,
        channels=config.in_channels,
        preprocessing=recipe.preprocessing,
        resize_by=recipe.resize_by,
        workers=recipe.workers,
    )


def check_twin(recipe: Recipe, path: Path) -> bool:
    """Whether the result is the same model in PyTorch."""

    def batches() -> Batches:
        source = open_source(recipe.data, split="test", data_dir=recipe.data_dir)
        return test_batches(recipe, read_header(path).config, source)

    return prove(recipe, path, batches)


def print_rate_change(before: dict[str, Any], optim: OptimConfig, step: int) -> None:
    """Says where another schedule makes the learning rate jump after `step` steps."""
    old, new = (learning_rate(o, step) for o in (OptimConfig(**before), optim))
    if not math.isclose(old, new, rel_tol=1e-3):
        print(f"the learning rate of step {step + 1:,} is {new:.1e}; it would have been {old:.1e}")


if __name__ == "__main__":
    sys.exit(main())
