"""Sessions of Zipf-popular items, as arrays and as rows of table `sessions`.

indptr [0, 2, 5], items [4, 9, 0, 4, 7]   <->   session_id "0", item_idx [4, 9]; session_id "1", item_idx [0, 4, 7]
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.tables import ITEMS, SESSIONS, USERS

MEAN_LENGTH, MAX_LENGTH = 10, 50
_ZIPF = 0.8
_FIRST_US = 1_767_571_200_000_000  # 2026-01-05
_SESSIONS_A_USER = 10


@dataclass(frozen=True)
class SessionData:
    """Those of session s are ``items[indptr[s]:indptr[s + 1]]``, all different; item 0 is the most popular."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    num_items: int

    @property
    def num_sessions(self) -> int:
        """Sessions, each of at least one item."""
        return len(self.indptr) - 1

    def head(self, num_sessions: int) -> "SessionData":
        """The first sessions, over the same items."""
        indptr = self.indptr[: num_sessions + 1]
        return SessionData(indptr, self.items[: indptr[-1]], self.num_items)

    def work(self) -> dict[str, int]:
        """What a benchmark's line says of them."""
        lengths = np.diff(self.indptr)
        return {
            "sessions": self.num_sessions,
            "events": len(self.items),
            "num_items": self.num_items,
            "pairs": int((lengths * (lengths - 1) // 2).sum()),
        }


def make_sessions(num_sessions: int, num_items: int, seed: int = 3) -> SessionData:
    """Lengths are geometric, from 2 before an item that is drawn twice counts once."""
    random = np.random.default_rng(seed)
    popularity = np.cumsum(1.0 / np.arange(1, num_items + 1) ** _ZIPF)
    lengths = np.clip(random.geometric(1 / MEAN_LENGTH, num_sessions) + 1, 2, MAX_LENGTH)
    session = np.repeat(np.arange(num_sessions), lengths)
    items = np.searchsorted(popularity, random.random(len(session)) * popularity[-1]).clip(max=num_items - 1)
    keys = np.unique(session * num_items + items)
    indptr = np.zeros(num_sessions + 1, np.int64)
    np.cumsum(np.bincount(keys // num_items, minlength=num_sessions), out=indptr[1:])
    return SessionData(indptr, (keys % num_items).astype(np.int32), num_items)


def sessions_table(data: SessionData) -> pa.Table:
    """Rows of `sessions`, all of split train; ids are decimal numbers, ten sessions a user, a minute an event."""
    number = np.arange(data.num_sessions)
    lengths = np.diff(data.indptr)
    places = np.arange(len(data.items)) - np.repeat(data.indptr[:-1], lengths)
    start = _FIRST_US + number * 1_000_000
    offsets = pa.array(data.indptr.astype(np.int32))
    columns = {
        c.SESSION_ID: pa.array(number).cast(pa.string()),
        c.USER_IDX: pa.array((number // _SESSIONS_A_USER).astype(np.int32)),
        c.START_TS: pa.array(start),
        c.END_TS: pa.array(start + (lengths - 1) * 60_000_000),
        c.ITEM_IDX: pa.ListArray.from_arrays(offsets, pa.array(data.items)),
        c.OFFSET_SECONDS: pa.ListArray.from_arrays(offsets, pa.array((places * 60).astype(np.int32))),
        c.WEIGHT: pa.ListArray.from_arrays(offsets, pa.array(np.ones(len(places), np.float32))),
        c.EVENT_TYPE: pa.ListArray.from_arrays(offsets, pa.array(np.zeros(len(places), np.int8))),
        c.SPLIT: pa.array(np.full(data.num_sessions, c.TRAIN)),
        c.DAY: pa.array(start // 1_000).cast(pa.timestamp("ms")).cast(pa.date32(), safe=False),
    }
    return pa.table(columns).cast(SESSIONS.schema)


def items_table(num_events: NDArray[np.int64]) -> pa.Table:
    """Rows of `items` with these train events."""
    number = np.arange(len(num_events))
    columns = {
        c.ITEM_IDX: number.astype(np.int32),
        c.ITEM_ID: pa.array(number).cast(pa.string()),
        c.NUM_EVENTS: num_events,
        c.FIRST_SEEN: np.full(len(number), _FIRST_US),
        c.ACTIVE: np.ones(len(number), bool),
    }
    return pa.table(columns).cast(ITEMS.schema)


def users_table(data: SessionData) -> pa.Table:
    """Rows of `users` with their train events."""
    users = np.arange(data.num_sessions) // _SESSIONS_A_USER
    num_events = np.bincount(users, weights=np.diff(data.indptr)).astype(np.int64)
    number = np.arange(len(num_events))
    return pa.table(
        {c.USER_IDX: number.astype(np.int32), c.USER_ID: pa.array(number).cast(pa.string()), c.NUM_EVENTS: num_events}
    ).cast(USERS.schema)
