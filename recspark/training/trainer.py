"""The training loop, one for all backends: batches in lane order, a falling rate, checkpoints, reports, a clean stop.

Where a run stands is one number, the global step: batches, random numbers and rate all follow from it, so a resumed run
goes on as if nothing had happened. Counts that outlive a stop are in `TrainState`, which checkpoints carry.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from recspark.config.schema import TrainingConfig
from recspark.errors import DataError, TrainingError
from recspark.faults import fault_point
from recspark.logs import log
from recspark.training.backend import Backend
from recspark.training.checkpoint import Checkpoints
from recspark.training.data import SequenceReader, prefetched
from recspark.training.few_steps import warn_of_few_steps
from recspark.training.nearest import describe_anew, find_nearest, nothing_to_resume
from recspark.training.objective import Place
from recspark.training.reports import OpenTrackers, Reports, Totals
from recspark.training.schedule import plan_schedule
from recspark.training.stopping import EXIT_CHECKPOINTED, StopRequest
from recspark.training.world import World

_PREPARED_AHEAD = 2
_CUDA_REPORT_STEPS = 20  # reading the loss waits for the GPU


@dataclass
class TrainState:
    """Where training stands and what it has counted, over all ranks and restarts.

    ``loss_sum`` and ``loss_pairs`` are those of the current epoch; ``final_loss`` is the mean a pair of the last whole
    one, ``first_loss`` that of the first batch before anything is learned. Of its ``seconds`` a rank waited for batches
    ``waited_seconds`` in the mean; ``peak_memory_mb`` is that of the largest rank.
    """

    step: int = 0
    tokens: int = 0
    pairs: int = 0
    loss_sum: float = 0.0
    loss_pairs: int = 0
    first_loss: float | None = None
    final_loss: float | None = None
    seconds: float = 0.0
    waited_seconds: float = 0.0
    peak_memory_mb: int = 0

    @property
    def speed(self) -> dict[str, float]:
        """Tokens a second, the share of time that went by waiting for batches, the largest rank's peak memory."""
        seconds = max(self.seconds, 1e-9)
        return {
            "tokens_per_second": round(self.tokens / seconds),
            "loader_share": round(self.waited_seconds / seconds, 3),
            "peak_memory_mb": self.peak_memory_mb,
        }


class Trainer:
    """Trains a backend on a reader's batches from the latest checkpoint to the end of the schedule."""

    def __init__(
        self,
        backend: Backend,
        reader: SequenceReader,
        checkpoints: Checkpoints,
        config: TrainingConfig,
        world: World,
        open_trackers: OpenTrackers = lambda step: [],
    ) -> None:
        self._backend, self._reader, self._checkpoints = backend, reader, checkpoints
        self._config, self._world = config, world
        self._lanes = reader.rank_lanes(world.rank, world.world_size)
        self.schedule = plan_schedule(config, reader.steps_per_epoch(config.batch_sequences))
        self._reports = Reports(world, checkpoints, self.schedule.num_steps, open_trackers)
        self._report_steps = 1 if world.device == "cpu" else _CUDA_REPORT_STEPS
        self._state, self._saved_step, self._reported_step = TrainState(), -1, 0
        self._untrained = (0.0, 0)  # loss and pairs of this rank's part of the very first batch
        self._stop = StopRequest()  # to this rank
        self._is_stopping = False  # agreed by all

    def train(self) -> TrainState:
        """Trains to the end; its state. Collective.

        Raises: TrainingError when the loss is not a number or runs away, or a checkpoint does not fit; DataError when
        the corpus holds no pairs; SystemExit with `EXIT_CHECKPOINTED` after SIGTERM.
        """
        self._resume()
        self._reports.start(self._state.step)
        try:
            with self._stop.listening():
                while self._state.step < self.schedule.num_steps:
                    self._train_epoch()
                self._check_pairs()
                self._save()
                self._warn_of_nothing_learned()
        finally:
            self._reports.close(is_finished=self._saved_step == self.schedule.num_steps)
        return self._state

    def _resume(self) -> None:
        latest = self._checkpoints.find_latest(self._world)
        # Every rank has to have read LATEST before the first one writes a new one.
        self._world.barrier()
        if latest is None:
            self._start_anew()
            return
        with self._world.naming_the_missing():
            self._checkpoints.load(latest, self._backend)
        self._state = TrainState(**latest.state)
        self._saved_step = self._reported_step = self._state.step
        if self._world.rank == 0:
            log("train", f"resumed at step {self._state.step}", steps=self.schedule.num_steps)

    def _start_anew(self) -> None:
        """Says which unfinished training is nearest to this one, and why it cannot be gone on with."""
        is_required = self._config.resume == "required"
        uri, facts = self._checkpoints.uri, self._checkpoints.facts
        nearest = find_nearest(uri, facts) if is_required or self._world.rank == 0 else None
        if is_required:
            raise nothing_to_resume(uri, nearest)
        if nearest:
            log("train", describe_anew(nearest))
        warn_of_few_steps(self._backend, self.schedule, self._reader, self._config, self._world)

    def _train_epoch(self) -> None:
        """Trains from the current step to the end of its epoch."""
        epoch, first_step = divmod(self._state.step, self.schedule.steps_per_epoch)
        waited_from = time.monotonic()
        for prepared, num_tokens in self._prepared(epoch, first_step):
            self._reports.count(num_tokens, time.monotonic() - waited_from)
            self._world.arrive(self._state.step)
            self._backend.step(prepared, self.schedule.rate(self._state.step))
            self._state.step += 1
            self._finish_step()
            waited_from = time.monotonic()

    def _finish_step(self) -> None:
        """What is due after a step: report, end of epoch, checkpoint, stop. The same on all ranks."""
        state = self._state
        is_epoch_end = state.step % self.schedule.steps_per_epoch == 0
        is_checkpoint = state.step % self._config.checkpoint_steps == 0
        if is_epoch_end or is_checkpoint or state.step % self._report_steps == 0:
            self._report()
        if is_epoch_end:
            state.final_loss = state.loss_sum / max(state.loss_pairs, 1)
            state.loss_sum, state.loss_pairs = 0.0, 0
        if is_checkpoint or self._is_stopping:
            self._save()
        rank = f":rank{self._world.rank}" if self._world.rank > 0 else ""
        fault_point(f"train.step:{state.step}{rank}")
        if self._is_stopping:
            self._end_early()

    def _prepared(self, epoch: int, first_step: int) -> Iterator[tuple[Any, int]]:
        """(what the backend needs, tokens) of each remaining batch of an epoch, made ahead by a thread."""

        def prepare() -> Iterator[tuple[Any, int]]:
            batches = self._reader.read(epoch, first_step, self._config.batch_sequences, self._lanes)
            for step, batch in enumerate(batches, first_step):
                # A batch has equally many rows of each lane, so this rank's begin where the lanes before it end.
                first_row = batch.num_rows // len(self._lanes) * self._lanes.start
                global_step = epoch * self.schedule.steps_per_epoch + step
                place = Place(epoch, step, global_step, first_row)
                if global_step == 0:
                    self._untrained = self._backend.untrained_loss(batch, place)
                prepared = self._backend.prepare(batch, place)
                yield prepared, int(batch.offsets[-1] - batch.offsets[0])

        return prefetched(prepare, _PREPARED_AHEAD)

    def _report(self) -> None:
        """Adds up what the ranks have seen since the last report, checks the loss and shows it. Collective."""
        state = self._state
        totals = self._reports.gather(*self._backend.take_loss(), is_stopping=self._stop.is_made)
        state.loss_sum += sum(totals.losses)
        state.loss_pairs += sum(totals.pairs)
        state.pairs += sum(totals.pairs)
        state.tokens += totals.tokens
        state.seconds += totals.seconds
        state.waited_seconds += totals.loader_share * totals.seconds
        state.peak_memory_mb = max(state.peak_memory_mb, totals.peak_memory_mb)
        self._is_stopping = totals.is_stopping
        if sum(totals.pairs):
            self._check_loss(totals)
            epoch = (state.step - 1) // self.schedule.steps_per_epoch
            self._reports.show(state.step, epoch, self.schedule.rate(state.step - 1), totals)
        self._reported_step = state.step

    def _check_loss(self, totals: Totals) -> None:
        state, loss, ratio = self._state, sum(totals.losses) / sum(totals.pairs), self._config.max_loss_ratio
        if state.first_loss is None:
            state.first_loss = self._find_first_loss(loss)
        untrained = f"{state.first_loss:.4g} untrained"
        no_numbers = [rank for rank, value in enumerate(totals.losses) if not math.isfinite(value)]
        if no_numbers:
            what = f"loss {loss:.4g} a pair ({untrained})"
            raise self._diverged(what, no_numbers, self._reported_step)
        if loss > ratio * state.first_loss:
            by_rank = [value / max(pairs, 1) for value, pairs in zip(totals.losses, totals.pairs, strict=True)]
            what = f"loss {loss:.4g} a pair is above {ratio:g} (training.max_loss_ratio) x {untrained}"
            raise self._diverged(what, [by_rank.index(max(by_rank))], self._reported_step)

    def _find_first_loss(self, reported: float) -> float:
        """What a pair costs before anything is learned; as ``reported`` where the first batch had no pairs. Collective.

        Not the loss of the first step: on the CPU kernel most of that comes after its blocks' first updates.
        """
        loss, pairs = self._world.sum_over_ranks(self._untrained)
        return loss / pairs if pairs else reported

    def _warn_of_nothing_learned(self) -> None:
        first, final, steps = self._state.first_loss, self._state.final_loss, self._state.step
        rate = self._config.learning_rate
        if self._world.rank == 0 and first and final and final > first:
            what = f"the last epoch's loss, {final:.4g} a pair, is above an untrained model's, {first:.4g}"
            log("train", f"{what}: training.learning_rate {rate:g} may be too high, or too low, for {steps} steps")

    def _check_pairs(self) -> None:
        if self._state.pairs == 0:
            raise DataError(
                "training found no pairs: every sequence holds fewer than two items after subsampling; "
                "check the corpus, or lower training.subsample"
            )

    def _diverged(self, what: str, ranks: list[int], good_step: int) -> TrainingError:
        """``ranks`` are those that show it; at ``good_step`` all was well."""
        state, world_size = self._state, self._world.world_size
        epoch, batch = divmod(state.step - 1, self.schedule.steps_per_epoch)
        lanes = [self._reader.rank_lanes(rank, world_size) for rank in ranks]
        before = state.step - good_step - 1
        place = [
            f"rank {', '.join(map(str, ranks))} of {world_size}",
            f"epoch {epoch}",
            f"lanes {', '.join(f'{part.start}..{part.stop - 1}' for part in lanes)}",
            f"batch {batch} of each" + (f" or one of the {before} before it" if before > 0 else ""),
        ]
        kept = f"the checkpoint of step {self._saved_step} stays" if self._saved_step >= 0 else "no checkpoint yet"
        return TrainingError(
            f"training diverged at step {state.step} of {self.schedule.num_steps} ({', '.join(place)}): {what}; "
            f"{kept}. Lower training.learning_rate (now {self._config.learning_rate:g})"
        )

    def _save(self) -> None:
        """Writes a checkpoint unless this step has one; a state that is not finite never becomes one. Collective."""
        if self._saved_step == self._state.step:
            return
        is_finite = [bool(flag) for (flag,) in self._world.gather_numbers([self._backend.is_finite()])]
        if not all(is_finite):
            bad = [rank for rank, flag in enumerate(is_finite) if not flag]
            raise self._diverged("a gradient is not a number", bad, max(self._saved_step, 0))
        with self._world.naming_the_missing():
            self._checkpoints.save(asdict(self._state), self._state.step, self._backend, self._world)
        self._reports.write()
        self._saved_step = self._state.step

    def _end_early(self) -> None:
        if self._world.rank == 0:
            log("train", f"stopped by SIGTERM at step {self._state.step}; the next start goes on from its checkpoint")
        raise SystemExit(EXIT_CHECKPOINTED)
