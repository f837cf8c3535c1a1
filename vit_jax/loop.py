"""The training loop: one compiled step after the other, and what happens between them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vit_jax.evaluation import Evaluation, TestResult
from vit_jax.metrics import MetricsWriter, Values, Window
from vit_jax.nonfinite import NotFiniteError, explain, jit_guarded_step
from vit_jax.parallel import new_key, step_arrays, to_devices, to_share
from vit_jax.preemption import Preempted, Preemption
from vit_jax.progress import Progress, Speed, shown
from vit_jax.run_folder import BAD_BATCH, PROFILE, RunFolder
from vit_jax.saver import Saver
from vit_jax.sharding import replicated
from vit_jax.stacking import Stacking
from vit_jax.training import TrainState
from vit_spec import Header
from vit_spec.checkpoint import replacing

BAR = "{n_fmt}/{total_fmt} {bar:16} {elapsed}<{remaining}{postfix}"
PROFILED = 5  # steps of a trace
WARM = 3  # steps before it


@dataclass(kw_only=True)
class Loop:
    """A run's parts, and `state`, which `run` brings to the last step."""

    recipe: Any  # of `vit_data`, which this package does not import
    header: Header
    structure: Any
    mesh: Mesh
    state: TrainState  # within `run` in the form of `vit_jax.stacking`
    progress: Progress
    batches: Iterator[Any]
    test: Any  # batches of the test set
    folder: RunFolder
    saver: Saver
    writer: MetricsWriter
    speed: Speed
    preemption: Preemption

    def __post_init__(self) -> None:
        optim = self.recipe.optim
        self._blocks = Stacking(self.structure, self.state.params, optim)
        self.evaluate = Evaluation(self._blocks.structure, self.test, self.mesh)

    def run(self) -> None:
        """All steps that are left. Nothing moves between host and device but batches and metrics.

        Raises `Preempted` after saving, `NotFiniteError` naming step, tensor and examples, and
        `SaveError` if that is to end the run.
        """
        progress, recipe = self.progress, self.recipe
        total = recipe.optim.total_steps
        self.state = self._blocks.stack(self.state)
        structure, limit = self._blocks.structure, recipe.skip_nonfinite
        compiled = jit_guarded_step(structure, recipe.optim, self.state, self.mesh, limit=limit)
        self._key = new_key(recipe.seed + 1, self.mesh)
        skipped = jax.jit(jnp.int32, out_shardings=replicated(self.mesh))(progress.skipped)
        self._window = Window(progress.pending, self._on_nonfinite)
        quiet = not (self.folder.writes and sys.stderr.isatty())
        with (
            tqdm(total=total, initial=progress.step, bar_format=BAR, disable=quiet) as self._bar,
            self._profiler() as profile,
        ):
            self._between()  # what was left to do when the run ended here
            while progress.step < total:
                profile(progress.step)
                with self.speed.waiting():
                    batch = next(self.batches)
                if progress.step == 0:
                    self.writer.images("train", batch["image"][:16], self.header.preprocessing)
                with jax.transfer_guard("disallow"):
                    self.state, skipped, metrics = compiled(
                        self.state, skipped, to_devices(step_arrays(batch), self.mesh), self._key
                    )
                progress.step += 1
                self._bar.update()
                self._window.add(progress.step, batch, metrics)
                if self.speed.step(batch["image"].shape[1:3]):
                    self._window.settle()  # what compiles is over when the next step is timed
                    self.speed.finished(count=False)
                if self._due(recipe.log_every):
                    self._line()
                self._between()
        self.state = self._blocks.unstack(self.state)

    def _due(self, every: int) -> bool:
        step = self.progress.step
        return bool(every) and (step % every == 0 or step >= self.recipe.optim.total_steps)

    def _line(self) -> None:
        """Writes a line of metrics and shows it: beside the bar, and where a log is kept."""
        values = self._window.means()
        self.speed.finished()
        rates = self.speed.line()
        self.writer.write(self.progress.step, values | rates)
        self.saver.poll()
        texts = [f"loss {values['loss']:.3f}, lr {values['lr']:.1e}"] if values else []
        text = ", ".join(texts + [shown(rates)] if rates else texts)
        if self._bar.disable or not sys.stdout.isatty():
            total = self.recipe.optim.total_steps
            tqdm.write(f"step {self.progress.step:,} of {total:,}: {text}")
        self._bar.set_postfix_str(text)

    def _between(self) -> None:
        """Evaluates and saves if it is time, after `progress.step` steps."""
        progress, keep, accuracy, better = self.progress, self.recipe.checkpoint, None, False
        if self.preemption.at(progress.step):
            self._end_early()
        if self._due(self.recipe.eval_every) and progress.evaluated < progress.step:
            found = self._test()
            accuracy, better = found.accuracy, progress.note(found)
        if progress.step and (self._due(keep.every) or (better and keep.best)):
            self._settle()
            self.state = self._blocks.unstack(self.state)
            with self.speed.paused():
                self.saver.save(self.state, progress, self.writer, accuracy=accuracy)
            self.state = self._blocks.stack(self.state)

    def _test(self) -> TestResult:
        """What the test set says, written and printed."""
        step = self.progress.step
        self._settle()
        try:
            with self.speed.paused():
                found = self.evaluate(self.weights(), stop=self.preemption)
        except Preempted:
            self._end_early()
        self.writer.write(step, found.values())
        rates = shown(self.speed.total())
        speed = f"; {rates}, {self._left()} left" if rates else ""
        tqdm.write(f"step {step:,}: {found}{speed}")
        return found

    def _settle(self) -> None:
        """Waits for all steps, whose time that is."""
        self._window.settle()
        self.speed.finished()
        self.progress.pending = self._window.pending

    def _end_early(self) -> NoReturn:
        self._settle()
        self.saver.save_now(self._blocks.unstack(self.state), self.progress, self.writer)
        raise Preempted(f"preempted: saved after step {self.progress.step:,}")

    def weights(self) -> Any:
        """What is evaluated and kept: the moving average, else the parameters."""
        return self.state.ema or self.state.params

    def _left(self) -> str:
        """The time of the steps that are left, as h:mm:ss."""
        p = self.progress
        left = (self.recipe.optim.total_steps - p.step) * p.seconds / max(p.timed, 1)
        return f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"

    def _on_nonfinite(self, step: int, batch: Any, values: Values) -> None:
        """Keeps the batch of a step that is not finite; ends the run beyond the limit."""
        limit, count = self.recipe.skip_nonfinite, int(values["skipped"])
        self.progress.skipped = count
        kept = self._keep_batch(step, batch)
        text = f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}"
        if count <= limit:
            tqdm.write(f"{text}; skipped ({count} of at most {limit}). {kept}")
            return
        finite = np.isfinite(batch["image"]).reshape(len(batch["image"]), -1).all(axis=1)
        cause = explain(
            self.structure,
            self._blocks.unstack(self.state),
            to_devices(step_arrays(batch), self.mesh),
            self._key,
            self.recipe.optim,
            bad_images=np.flatnonzero(~finite).tolist(),
        )
        raise NotFiniteError(
            f"{text}: {cause}. {kept}, of the training examples {batch['index'].tolist()}. Nothing "
            "was saved of this step. Lower --optim.lr, lengthen --optim.warmup-steps, set "
            "--optim.clip-norm, or allow some such steps with --skip-nonfinite"
        )

    def _keep_batch(self, step: int, batch: Any) -> str:
        """Writes this process's share of a batch; where it is, or why not."""
        alone = jax.process_count() == 1
        name = BAD_BATCH.format(step if alone else f"{step}_process{jax.process_index()}")
        file = self.folder.path / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)  # of another host
            with replacing(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, allow_pickle=False, **{n: to_share(x) for n, x in batch.items()})
        except OSError as error:
            return f"Its batch could not be kept ({error.strerror or error})"
        return f"Its batch is in {file}"

    @contextmanager
    def _profiler(self) -> Iterator[Any]:
        """Traces some steps; call what it yields with the number of steps done."""
        folder, total = str(self.folder.path / PROFILE), self.recipe.optim.total_steps
        first = min(self.progress.step + WARM, total - 1)
        running = False

        def at(step: int) -> None:
            nonlocal running
            if not self.recipe.profile or step not in (first, first + PROFILED):
                return
            self._window.settle()
            if running:
                jax.profiler.stop_trace()
            else:
                jax.profiler.start_trace(folder)
            running = not running

        try:
            yield at
        finally:
            if running:
                jax.profiler.stop_trace()
