"""The recorded split as rules of its own, written anew: which event may be in which part.

cut 2026-02-16, valid last_k      ts 2026-02-15: train or valid      ts 2026-02-16: neither
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.report import iso_time
from recspark.evaluate.ragged import BoolArray

_MIN, _MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True)
class Split:
    """Section `split` of a config; cuts in microseconds since the epoch, None where there is none."""

    kind: str
    cut_us: int | None = None
    valid_kind: str | None = None
    valid_cut_us: int | None = None

    @classmethod
    def from_section(cls, section: dict[str, Any]) -> "Split":
        """From the plain values that a commit records."""
        valid = section["valid"] or {}
        return cls(section["kind"], to_us(section["cut"]), valid.get("kind"), to_us(valid.get("cut")))

    def describe(self) -> str:
        """What is held out, in words."""
        given = "what the source's split column says"
        test = {"given": given, "leave_last_out": "each user's last event"}.get(self.kind, "")
        if self.cut_us is not None:
            test = f"events from {iso_time(self.cut_us)} on"
        of_user = {"user_share": "a share of each user's items", "last_k": "each user's last train events"}
        valid = {**of_user, "given": given}.get(self.valid_kind or "", "")
        if self.valid_cut_us is not None:
            valid = f"those from {iso_time(self.valid_cut_us)} on"
        return f"{test}, for validation {valid}" if valid else test

    def range_of(self, part: str) -> tuple[int, int]:
        """Half-open range of the times that a part may hold: [first, end)."""
        cut, valid_cut = (_MAX if us is None else us for us in (self.cut_us, self.valid_cut_us))
        if part == c.TRAIN:
            return _MIN, min(cut, valid_cut)
        if part == c.VALID:
            # The source's own validation events may lie anywhere.
            return (_MIN if self.valid_cut_us is None or self.kind == "given" else valid_cut), cut
        return (_MIN if self.cut_us is None or part == c.CONTEXT else cut), _MAX

    def allow(self, events: pa.Table, is_last: BoolArray) -> tuple[BoolArray, BoolArray]:
        """(may be in train, may be in valid) of each event; ``is_last`` marks each user's last one of several."""
        ts = to_int64(events[c.TS])
        given = [pc.fill_null(pc.equal(events[c.SPLIT], part), False).to_numpy() for part in (c.TRAIN, c.VALID)]
        if self.kind == "given":
            train, valid = given
        else:
            train = ts < self.cut_us if self.cut_us is not None else ~is_last
            valid = np.zeros(len(ts), np.bool_)
        if self.valid_kind == "given":
            return train & ~given[1], valid | (train & given[1])
        if self.valid_cut_us is not None:
            return train & (ts < self.valid_cut_us), valid | (train & (ts >= self.valid_cut_us))
        return train, valid | train if self.valid_kind else valid


def to_us(text: str | None) -> int | None:
    """Microseconds since the epoch of an ISO time, UTC where it names no zone."""
    if text is None:
        return None
    time = dt.datetime.fromisoformat(text)
    time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def to_int64(times: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Timestamps (or integers) as int64 microseconds."""
    values: NDArray[np.int64] = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return values
