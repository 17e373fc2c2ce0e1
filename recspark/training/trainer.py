"""The training loop, one for all backends: batches in lane order, a falling rate, checkpoints, reports, a clean stop.

Where a run stands is one number, the global step: batches, random numbers and rate all follow from it, so a resumed run
goes on as if nothing had happened. Counts that outlive a stop are in `TrainState`, which checkpoints carry.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from recspark.config.schema import TrainingConfig
from recspark.errors import DataError, TrainingError
from recspark.faults import fault_point
from recspark.logs import Progress, log
from recspark.training.backend import Backend
from recspark.training.checkpoint import Checkpoints
from recspark.training.data import SequenceReader, prefetched
from recspark.training.objective import Place
from recspark.training.schedule import plan_schedule
from recspark.training.world import World

EXIT_TERMINATED = 143
"""Exit code after SIGTERM: a checkpoint was written, the next start goes on from it."""

_PREPARED_AHEAD = 2
_CUDA_REPORT_STEPS = 20  # reading the loss waits for the GPU
_MAX_METRIC_LINES = 1000


@dataclass
class TrainState:
    """Where training stands and what it has counted, over all ranks and restarts.

    ``loss_sum`` and ``loss_pairs`` are those of the current epoch; ``final_loss`` is the mean a pair of the last whole
    one, ``first_loss`` of the first report.
    """

    step: int = 0
    tokens: int = 0
    pairs: int = 0
    loss_sum: float = 0.0
    loss_pairs: int = 0
    first_loss: float | None = None
    final_loss: float | None = None
    seconds: float = 0.0


class Trainer:
    """Trains a backend on a reader's batches from the latest checkpoint to the end of the schedule."""

    def __init__(
        self,
        backend: Backend,
        reader: SequenceReader,
        checkpoints: Checkpoints,
        config: TrainingConfig,
        world: World,
    ) -> None:
        self._backend, self._reader, self._checkpoints = backend, reader, checkpoints
        self._config, self._world = config, world
        self._lanes = reader.rank_lanes(world.rank, world.world_size)
        self.schedule = plan_schedule(config, reader.steps_per_epoch(config.batch_sequences))
        self._report_steps = 1 if world.device == "cpu" else _CUDA_REPORT_STEPS
        self._state, self._saved_step = TrainState(), -1
        self._metrics: list[dict[str, Any]] = []
        self._waited, self._tokens, self._reported_at = 0.0, 0, 0.0
        self._got_sigterm = False  # by this rank
        self._is_stopping = False  # agreed by all

    def train(self) -> TrainState:
        """Trains to the end; its state. Collective.

        Raises: TrainingError when the loss is not a number or runs away, or a checkpoint does not fit; DataError when
        the corpus holds no pairs; SystemExit with `EXIT_TERMINATED` after SIGTERM.
        """
        self._resume()
        progress = Progress("train", self.schedule.num_steps, "steps")
        self._reported_at = time.monotonic()
        with self._stopping_on_sigterm():
            while self._state.step < self.schedule.num_steps:
                self._train_epoch(progress)
        if self._state.pairs == 0:
            raise DataError(
                "training found no pairs: every sequence holds fewer than two items after subsampling; "
                "check the corpus, or lower training.subsample"
            )
        self._save()
        return self._state

    def _resume(self) -> None:
        latest = self._checkpoints.find_latest()
        # Every rank has to have read LATEST before the first one writes a new one.
        self._world.barrier()
        if latest is None:
            return
        self._checkpoints.load(latest, self._backend)
        self._state = TrainState(**latest["state"])
        self._saved_step = self._state.step
        self._metrics = self._checkpoints.read_metrics(self._state.step)
        if self._world.rank == 0:
            log("train", f"resumed at step {self._state.step}", steps=self.schedule.num_steps)

    def _train_epoch(self, progress: Progress) -> None:
        """Trains from the current step to the end of its epoch."""
        epoch, first_step = divmod(self._state.step, self.schedule.steps_per_epoch)
        waited_from = time.monotonic()
        for prepared, num_tokens in self._prepared(epoch, first_step):
            self._waited += time.monotonic() - waited_from
            self._world.arrive(self._state.step)
            self._backend.step(prepared, self.schedule.rate(self._state.step))
            self._state.step += 1
            self._tokens += num_tokens
            self._finish_step(progress)
            waited_from = time.monotonic()

    def _finish_step(self, progress: Progress) -> None:
        """What is due after a step: report, end of epoch, checkpoint, stop. The same on all ranks."""
        state = self._state
        is_epoch_end = state.step % self.schedule.steps_per_epoch == 0
        is_checkpoint = state.step % self._config.checkpoint_steps == 0
        if is_epoch_end or is_checkpoint or state.step % self._report_steps == 0:
            self._report(progress)
        if is_epoch_end:
            state.final_loss = state.loss_sum / max(state.loss_pairs, 1)
            state.loss_sum, state.loss_pairs = 0.0, 0
        if is_checkpoint or self._is_stopping:
            self._save()
        if self._world.rank == 0:
            fault_point(f"train.step:{state.step}")
        if self._is_stopping:
            self._stop()

    def _prepared(self, epoch: int, first_step: int) -> Iterator[tuple[Any, int]]:
        """(what the backend needs, tokens) of each remaining batch of an epoch, made ahead by a thread."""

        def prepare() -> Iterator[tuple[Any, int]]:
            batches = self._reader.read(epoch, first_step, self._config.batch_sequences, self._lanes)
            for step, batch in enumerate(batches, first_step):
                # A batch has equally many rows of each lane, so this rank's begin where the lanes before it end.
                first_row = batch.num_rows // len(self._lanes) * self._lanes.start
                global_step = epoch * self.schedule.steps_per_epoch + step
                prepared = self._backend.prepare(batch, Place(epoch, step, global_step, first_row))
                yield prepared, int(batch.offsets[-1] - batch.offsets[0])

        return prefetched(prepare, _PREPARED_AHEAD)

    def _report(self, progress: Progress) -> None:
        """Adds up what the ranks have seen since the last report, checks the loss and shows it. Collective."""
        state, now = self._state, time.monotonic()
        seconds = max(now - self._reported_at, 1e-9)
        local = [*self._backend.take_loss(), self._tokens, float(self._got_sigterm)]
        loss, pairs, tokens, stops = self._world.sum_over_ranks(local)
        state.loss_sum += loss
        state.loss_pairs += int(pairs)
        state.pairs += int(pairs)
        state.tokens += int(tokens)
        state.seconds += seconds
        self._is_stopping = stops > 0
        if pairs:
            self._check_loss(loss / pairs)
            self._show(progress, loss / pairs, tokens / seconds, self._waited / seconds)
        self._waited, self._tokens, self._reported_at = 0.0, 0, now

    def _check_loss(self, loss: float) -> None:
        state = self._state
        state.first_loss = loss if state.first_loss is None else state.first_loss
        limit = self._config.max_loss_ratio * state.first_loss
        if math.isfinite(loss) and loss <= limit:
            return
        what = f"loss {loss:.4g} a pair" if not math.isfinite(loss) else f"loss {loss:.4g} a pair is above {limit:.4g}"
        raise self._diverged(f"{what} (the first was {state.first_loss:.4g})")

    def _diverged(self, what: str) -> TrainingError:
        epoch, step = divmod(self._state.step - 1, self.schedule.steps_per_epoch)
        kept = f"the checkpoint of step {self._saved_step} stays" if self._saved_step >= 0 else "no checkpoint yet"
        return TrainingError(
            f"training diverged at step {self._state.step} of {self.schedule.num_steps} "
            f"(rank {self._world.rank} of {self._world.world_size}, epoch {epoch}, lanes {self._lanes.start}.."
            f"{self._lanes.stop - 1}, batch {step} of each): {what}; {kept}. Lower training.learning_rate "
            f"(now {self._config.learning_rate:g})"
        )

    def _show(self, progress: Progress, loss: float, tokens_per_second: float, loader_share: float) -> None:
        if self._world.rank > 0:
            return
        facts = {
            "tokens_per_second": round(tokens_per_second),
            "loss": round(loss, 4),
            "loader_share": round(loader_share, 3),
        }
        progress.update(self._state.step, **facts)
        every = max(1, self.schedule.num_steps // _MAX_METRIC_LINES)
        if self._state.step % every == 0 or self._report_steps > every:
            rate = self.schedule.rate(self._state.step - 1)
            self._metrics.append({"step": self._state.step, **facts, "loss": loss, "learning_rate": rate})

    def _save(self) -> None:
        """Writes a checkpoint unless this step has one; a state that is not finite never becomes one. Collective."""
        if self._saved_step == self._state.step:
            return
        is_bad = self._world.sum_over_ranks([float(not self._backend.is_finite())])[0]
        if is_bad:
            raise self._diverged("a gradient is not a number")
        self._checkpoints.save(asdict(self._state), self._state.step, self._backend, self._world)
        if self._world.rank == 0:
            self._checkpoints.write_metrics(self._metrics)
        self._saved_step = self._state.step

    def _stop(self) -> None:
        if self._world.rank == 0:
            log("train", f"stopped by SIGTERM at step {self._state.step}; the next start goes on from there")
        raise SystemExit(EXIT_TERMINATED)

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """SIGTERM asks for a checkpoint and a stop after the step; all ranks hear of it at their next report."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self._got_sigterm = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
