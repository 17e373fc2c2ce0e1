"""A moment as codes that a user tower looks up: hour and day of the week in UTC, time since the user's last event.

asked for on Sunday 2026-02-01 at 14:30, last event at 14:10   ->   hour_of_day 15, day_of_week 7, time_since_last 6

Code 0 is what is not known: no moment, or no event before it. Times since the last event are in buckets that double
from a minute (1: below it) to a year. An exported tower makes the same codes (`recspark.models.time_sum`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import Ragged

HOUR, DAY, SINCE_LAST = NAMES = ("hour_of_day", "day_of_week", "time_since_last")
NEVER = int(np.iinfo(np.int64).min)
"""The time of what has not happened: before all others."""
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
EDGES_US: NDArray[np.int64] = 60_000_000 * 2 ** np.arange(20, dtype=np.int64)
"""Lower edges of the buckets but the first: 1 minute, 2, 4, ..., 364 days."""
SIZES = {HOUR: 25, DAY: 8, SINCE_LAST: len(EDGES_US) + 2}
"""How many codes there are of each."""
_EPOCH_DAY = 3
"""1970-01-01 was a Thursday, three days after a Monday."""


def encode_times(names: Sequence[str], moment_us: NDArray[np.int64], last_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes int64 [N, F] of moments and of the last events before them, both in microseconds since the epoch."""
    is_known = moment_us != NEVER
    moment_us = np.where(is_known, moment_us, 0)
    found = [np.where(is_known, _encode(name, moment_us, last_us), 0) for name in names]
    return np.stack(found, axis=1)


def _encode(name: str, moment_us: NDArray[np.int64], last_us: NDArray[np.int64]) -> NDArray[np.int64]:
    if name == HOUR:
        return np.asarray(moment_us // HOUR_US % 24 + 1)
    if name == DAY:
        return np.asarray((moment_us // DAY_US + _EPOCH_DAY) % 7 + 1)
    is_before = (last_us != NEVER) & (last_us < moment_us)
    gap_us = moment_us - np.where(is_before, last_us, moment_us)
    return np.where(is_before, np.searchsorted(EDGES_US, gap_us, side="right") + 1, 0)


def find_last(history: Ragged, ts_us: NDArray[np.int64], moment_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The time of each user's last event strictly before his moment, `NEVER` without one; ``ts_us`` [N] of events."""
    last_us = np.full(len(history), NEVER)
    rows = history.row_of_value
    is_before = ts_us < moment_us[rows]
    np.maximum.at(last_us, rows[is_before], ts_us[is_before])
    return last_us
