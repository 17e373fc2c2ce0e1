"""What an audit has found: a `Check` for each promise, with the figures it rests on.

clean           histories.cut   user_histories at version 3: each event lies on its side of the cut; 41,022 events, ...
LEAK            walks.edges     walks at version 2: 1 of 9,811 steps does not: each step follows an edge; step 3 -> 17
not applicable  train.items     popularity ranks lists without vectors
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspark.errors import DataLeakError
from recspark.evaluate.ragged import BoolArray
from recspark.lake.arrow import TableAt

CLEAN, LEAK, NOT_APPLICABLE = "clean", "LEAK", "not applicable"
NOTHING_HELD_OUT = "nothing: an edge list has no events"
_FACTS = {"clean": CLEAN, "leaks": LEAK, "not_applicable": NOT_APPLICABLE}
_SHOWN = 3
"""Offending rows that are named."""
_STATUS_WIDTH, _NAME_WIDTH = len(NOT_APPLICABLE), 24


@dataclass(frozen=True)
class Check:
    """One promise: whether it holds on ``table`` (name and version), over how many rows; or why it does not apply.

    ``found`` says it in words. ``latest_us`` is the latest time that was learned from, where the check saw times.
    """

    name: str
    status: str
    found: str
    table: str = ""
    rows: int = 0
    latest_us: int | None = None

    def describe(self) -> str:
        """One line."""
        where = f"{self.table}: " if self.table else ""
        return f"{self.status:<{_STATUS_WIDTH}}  {self.name:<{_NAME_WIDTH}}  {where}{self.found}"


class Finding:
    """Gathers what a check sees, batch by batch: rows looked at, those that break its ``promise``, the first of them.

    ``unit`` names a row in the plural.
    """

    def __init__(self, name: str, table: TableAt, promise: str, unit: str) -> None:
        self._name, self._table, self._promise, self._unit = name, table, promise, unit
        self._rows, self._num_bad = 0, 0
        self._examples: list[str] = []

    def look(self, is_bad: BoolArray, describe: Callable[[int], str]) -> None:
        """Adds rows; ``describe`` names one by its place."""
        self._rows += len(is_bad)
        places = np.flatnonzero(is_bad)
        self._num_bad += len(places)
        self._examples += [describe(int(place)) for place in places[: _SHOWN - len(self._examples)]]

    def fail(self, what: str) -> None:
        """Adds a breach that is no single row's."""
        self._num_bad += 1
        self._examples += [what] if len(self._examples) < _SHOWN else []

    def check(self, note: str = "", latest_us: int | None = None) -> Check:
        """The outcome; ``note`` is said of a clean one."""
        table, seen = f"{self._table.name} at version {self._table.version}", f"{self._rows:,} {self._unit}"
        found = "; ".join([self._promise, seen, *([note] if note else [])])
        if self._num_bad:
            of_all = f"{self._num_bad:,} times over {seen}"
            found = f"expected: {self._promise}; broken {of_all}, first: {'; '.join(self._examples)}"
        return Check(self._name, LEAK if self._num_bad else CLEAN, found, table, self._rows, latest_us)


def not_applicable(name: str, reason: str) -> Check:
    """A check that has nothing to look at."""
    return Check(name, NOT_APPLICABLE, reason)


@dataclass(frozen=True)
class LeakReport:
    """All checks of one run; ``cut`` describes what its split holds out."""

    lake: str
    cut: str
    checks: tuple[Check, ...]

    @property
    def leaks(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == LEAK]

    def to_facts(self) -> dict[str, Any]:
        """Plain values for a commit record, as `describe_facts` reads them."""
        latest = max((c.latest_us for c in self.checks if c.latest_us is not None), default=None)
        return {
            "cut": self.cut,
            "latest": None if latest is None else iso_time(latest),
            "rows": sum(check.rows for check in self.checks),
            **{
                name: [check.name for check in self.checks if check.status == status] for name, status in _FACTS.items()
            },
        }

    def describe(self) -> str:
        """A line a check, and the outcome."""
        return "\n".join([*(check.describe() for check in self.checks), describe_facts(self.to_facts())])

    def check_clean(self) -> None:
        """Checks that nothing has leaked.

        Raises: DataLeakError with table, version, check and the first offending rows.
        """
        if not self.leaks:
            return
        lines = [f"  {check.name}: {check.table}: {check.found}" for check in self.leaks]
        raise DataLeakError(
            "\n".join(
                [
                    f"{self.lake}: {_count(self.leaks)} of the leak audit failed (held out: {self.cut}):",
                    *lines,
                    "  what was made of these versions must not be used: remove the tables named and run "
                    "`recspark run CONF` again; where it comes back, the stage that wrote them is at fault",
                ]
            )
        )


def describe_facts(facts: dict[str, Any]) -> str:
    """The one line that a run's report has of an audit."""
    leaks = facts["leaks"]
    outcome = f"{_count(leaks)} FAILED ({', '.join(leaks)})" if leaks else f"{_count(facts['clean'])} clean"
    until = f", learned from nothing after {facts['latest']}" if facts["latest"] and not leaks else ""
    left = f", {len(facts['not_applicable'])} not applicable" if facts["not_applicable"] else ""
    return f"leak audit: {outcome} over {facts['rows']:,} rows (held out: {facts['cut']}){until}{left}"


def iso_time(us: int) -> str:
    """ISO form of microseconds since the epoch, UTC."""
    try:
        return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)).isoformat()
    except OverflowError:
        return f"{us} microseconds since 1970"


def _count(found: Sequence[Any]) -> str:
    return f"{len(found)} check{'' if len(found) == 1 else 's'}"
