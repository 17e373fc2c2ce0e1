"""What a run says: one line a stage on a terminal, one JSON line where a program reads it. All on standard error.

sessions   done at version 0: 41,022 sessions, 3,996 users, 2,000 items (12.3 s)
{"time": "2026-11-23T16:00:00Z", "stage": "sessions", "message": "done at version 0", "sessions": 41022}
"""

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LOG_FORMAT_VARIABLE = "RECSPARK_LOG_FORMAT"
"""`text` or `json`; by default text on a terminal, json elsewhere."""


def is_terminal(stream: TextIO = sys.stderr) -> bool:
    """Whether people read the stream as it comes."""
    return stream.isatty()


def log(stage: str, message: str, **facts: Any) -> None:
    """One line about a stage; ``facts`` are numbers or short texts."""
    wanted = os.environ.get(LOG_FORMAT_VARIABLE) or ("text" if is_terminal() else "json")
    if wanted == "json":
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = json.dumps({"time": now, "stage": stage, "message": message, **facts}, default=str)
    else:
        line = f"{stage:<10} {message}" + (f": {_show(facts)}" if facts else "")
    print(line, file=sys.stderr, flush=True)


def _show(facts: dict[str, Any]) -> str:
    return ", ".join(f"{_number(v)} {k.removeprefix('num_').replace('_', ' ')}" for k, v in facts.items())


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Progress:
    """A line that rewrites itself on a terminal; elsewhere one log line every ``every_seconds``."""

    def __init__(self, stage: str, total: int, unit: str, every_seconds: float = 10.0) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._every_seconds = 0.2 if is_terminal() else every_seconds
        self._started = self._shown = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, **facts: Any) -> None:
        """Tells how many of ``total`` units are done; shown when enough time has passed or all is done."""
        self._first = done if self._first is None else self._first
        now = time.monotonic()
        if now - self._shown < self._every_seconds and done < self._total:
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        seconds_left = (self._total - done) / rate if rate > 0 else None
        if is_terminal():
            self._draw(done, rate, seconds_left, facts)
        else:
            log(self._stage, "progress", done=done, total=self._total, unit=self._unit, per_second=round(rate),
                seconds_left=None if seconds_left is None else round(seconds_left), **facts)  # fmt: skip

    def _draw(self, done: int, rate: float, seconds_left: float | None, facts: dict[str, Any]) -> None:
        share = done / max(self._total, 1)
        left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
        text = f"{self._stage:<10} {share:4.0%} {done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s{left}"
        text += f", {_show(facts)}" if facts else ""
        end = "\n" if done >= self._total else ""
        print(f"\r\x1b[K{text}", end=end, file=sys.stderr, flush=True)


@contextmanager
def timed(stage: str, message: str) -> Iterator[dict[str, Any]]:
    """Logs ``message`` with the seconds the block took and the facts put into the dictionary it yields."""
    facts: dict[str, Any] = {}
    started = time.monotonic()
    yield facts
    log(stage, message, **facts, seconds=round(time.monotonic() - started, 1))
