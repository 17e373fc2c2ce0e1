"""What training says while it runs: the ranks' counts added up, a progress line, metrics.jsonl and trackers.

    {"step": 500, "epoch": 0, "loss": 2.31, "learning_rate": 0.47, "tokens_per_second": 1200345,
     "loader_share": 0.02, "peak_memory_mb": 812}

metrics.jsonl lies beside the checkpoints and is written with them and at the end, at most about a thousand lines; a
resume drops those beyond the checkpoint it goes on from. ``loss`` is the mean a pair since the last report,
``loader_share`` the part of the time that the ranks waited for batches, ``peak_memory_mb`` that of the largest rank.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recspark.logs import Progress
from recspark.training.checkpoint import Checkpoints
from recspark.training.trackers import Tracker, close_all, log_to
from recspark.training.world import World

OpenTrackers = Callable[[int], list[Tracker]]
"""First step -> the trackers of a training that starts or goes on there."""

_MAX_LINES = 1000
_MIB = 1 << 20


@dataclass(frozen=True)
class Totals:
    """All ranks since the last report. ``losses`` and ``pairs`` by rank; ``is_stopping``: one of them was told to."""

    losses: list[float]
    pairs: list[int]
    tokens: int
    seconds: float
    loader_share: float
    peak_memory_mb: int
    is_stopping: bool


class Reports:
    """Counts what this rank sees between reports; rank 0 shows and keeps what all have seen."""

    def __init__(self, world: World, checkpoints: Checkpoints, num_steps: int, open_trackers: OpenTrackers) -> None:
        self._world, self._checkpoints, self._open_trackers = world, checkpoints, open_trackers
        self._every = max(1, num_steps // _MAX_LINES)
        self._progress = Progress("train", num_steps, "steps")
        self._lines: list[dict[str, Any]] = []
        self._trackers: list[Tracker] = []
        self._waited, self._tokens, self._last_step = 0.0, 0, 0
        self._since = time.monotonic()

    def start(self, step: int) -> None:
        """Goes on from a step: later lines are dropped."""
        self._last_step, self._since = step, time.monotonic()
        if self._world.rank == 0:
            self._lines = self._checkpoints.read_metrics(step)
            self._trackers = self._open_trackers(step)

    def count(self, tokens: int, waited_seconds: float) -> None:
        """Notes a step of this rank."""
        self._tokens += tokens
        self._waited += waited_seconds

    def gather(self, loss: float, pairs: int, is_stopping: bool) -> Totals:
        """What all ranks have seen since the last call. Collective."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        own = [loss, pairs, self._tokens, self._waited, peak_memory_bytes(self._world.device), is_stopping]
        losses, all_pairs, tokens, waited, peaks, stops = zip(*self._world.gather_numbers(own), strict=True)
        self._waited, self._tokens, self._since = 0.0, 0, now
        return Totals(
            losses=list(losses),
            pairs=[int(p) for p in all_pairs],
            tokens=int(sum(tokens)),
            seconds=seconds,
            loader_share=sum(waited) / len(waited) / seconds,
            peak_memory_mb=int(max(peaks)) // _MIB,
            is_stopping=any(stops),
        )

    def show(self, step: int, epoch: int, learning_rate: float, totals: Totals) -> None:
        """Updates the progress line, and keeps a line of metrics when one is due; rank 0 only."""
        if self._world.rank > 0:
            return
        loss = sum(totals.losses) / sum(totals.pairs)
        facts = {
            "tokens_per_second": round(totals.tokens / totals.seconds),
            "loss": round(loss, 4),
            "loader_share": round(totals.loader_share, 3),
            "peak_memory_mb": totals.peak_memory_mb,
        }
        self._progress.update(step, **facts)
        if step // self._every == self._last_step // self._every:
            return
        self._last_step = step
        line = {"step": step, "epoch": epoch, **facts, "loss": loss, "learning_rate": learning_rate}
        self._lines.append(line)
        values = {name: value for name, value in line.items() if name != "step"}
        self._trackers = log_to(self._trackers, step, values)

    def write(self) -> None:
        """Writes metrics.jsonl; rank 0 only."""
        if self._world.rank == 0:
            self._checkpoints.write_metrics(self._lines)

    def close(self, is_finished: bool) -> None:
        """Ends the trackers and writes what there is, also of a training that failed."""
        close_all(self._trackers, is_finished)
        if self._lines:
            self.write()


def peak_memory_bytes(device: str) -> int:
    """The most that this process has held: of GPU memory where it computes on one, else of main memory."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
