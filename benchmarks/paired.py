"""Paired runs: peer and project in turn, several times, so that what disturbs the machine disturbs both.

A ratio is the peer's seconds over the project's in one pair; the median over the pairs counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Kind = Literal["wall", "cpu"]
Side = Literal["project", "peer"]


@dataclass
class Timing:
    """Seconds on the clock, and of all cores together."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of a few numbers."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Timings of both sides, pair by pair."""

    project: list[Timing]
    peer: list[Timing]

    @property
    def lower(self) -> Kind:
        """Which of the two ratios is the less flattering."""
        return "wall" if self.spread("wall").median <= self.spread("cpu").median else "cpu"

    def spread(self, kind: Kind) -> Spread:
        """The ratios peer / project; above 1 the project is faster."""
        pairs = zip(self.peer, self.project, strict=True)
        ratios = [getattr(peer, kind) / max(getattr(project, kind), 1e-9) for peer, project in pairs]
        return Spread(statistics.median(ratios), min(ratios), max(ratios))

    def median_seconds(self, side: Side) -> dict[str, float]:
        """{"wall": ..., "cpu": ...} of one side."""
        timings: list[Timing] = getattr(self, side)
        return {"wall": statistics.median(t.wall for t in timings), "cpu": statistics.median(t.cpu for t in timings)}


def run_pairs(peer: Callable[[], Timing], project: Callable[[], Timing], runs: int) -> Paired:
    """Runs both ``runs`` times in turn; who begins alternates."""
    found = Paired([], [])
    for run in range(runs):
        order = [(found.peer, peer), (found.project, project)]
        for timings, work in order if run % 2 == 0 else reversed(order):
            timings.append(work())
    return found


@contextmanager
def timed() -> Iterator[Timing]:
    """Times a block in this process, all its threads."""
    timing = Timing()
    wall, cpu = time.perf_counter(), time.process_time()
    yield timing
    timing.wall, timing.cpu = time.perf_counter() - wall, time.process_time() - cpu
