"""What this process and all below it cost: of Spark these are the JVM, the Python daemon and its workers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.paired import Timing

_SAMPLE_SECONDS = 0.5
_MAX_SHARE = 0.05
"""Of a core, that watching may take: the pages of a large JVM are many."""


def cpu_seconds() -> float:
    """Of all processes of the tree together, those that have ended and were waited for included."""
    return sum(sum(times[:4]) for times in _ask_all(lambda process: process.cpu_times()))


@contextmanager
def timed_tree() -> Iterator[Timing]:
    """Times a block: seconds on the clock, and cpu-seconds of the tree."""
    timing = Timing()
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield timing
    timing.wall, timing.cpu = time.perf_counter() - wall, cpu_seconds() - cpu


class MemoryWatch:
    """The tree's largest memory while a block runs, sampled twice a second, or less often where that is dear.

    Pages that processes share count once (PSS), where the system tells; else resident memory.
    """

    def __init__(self) -> None:
        self.peak = {"total": 0, "jvm": 0, "python": 0}
        """Bytes; the parts' peaks may be at other times than the total's."""
        self.cpu_seconds = 0.0
        """What the watching itself took; known after the block."""
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            before = self.cpu_seconds
            found = memory_bytes()
            self.peak = {part: max(size, found[part]) for part, size in self.peak.items()}
            self.cpu_seconds = time.thread_time()
            if self._is_done.wait(max(_SAMPLE_SECONDS, (self.cpu_seconds - before) / _MAX_SHARE)):
                return


def memory_bytes() -> dict[str, int]:
    """{"total", "jvm", "python"}: what the tree holds now."""
    sizes = _ask_all(lambda process: (process.name(), _held(process)))
    jvm = sum(size for name, size in sizes if name.startswith("java"))
    total = sum(size for _, size in sizes)
    return {"total": total, "jvm": jvm, "python": total - jvm}


def _held(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", full.rss))


def _ask_all(question: Any) -> list[Any]:
    """The answer of each process of the tree; those that end meanwhile have none."""
    own = psutil.Process()
    answers = []
    for process in (own, *own.children(recursive=True)):
        try:
            answers.append(question(process))
        except psutil.NoSuchProcess:
            continue
    return answers
