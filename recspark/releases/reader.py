"""The reader's side: the active release, opened whole or not at all, and kept until the reader says otherwise.

with open_release("s3a://bucket/lake") as release:
    release.recommend([["85123A", "22470"]], k=10).item_ids     # [["22466", ...]]
    release.search(queries, k=10)                               # vectors in, items out
    release.reload()                                            # True where another release has become active

Needs numpy, pyarrow, deltalake and faiss alone. Searches may run in several threads; `reload` swaps the release between
two of them.
"""

import datetime as dt
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.manifest import Manifest
from recspark.errors import DataError, QueryError, RecsparkError, ReleaseError
from recspark.evaluate.history_context import HistoryContext, raise_weights
from recspark.evaluate.ragged import Ragged
from recspark.index.metric import Floats
from recspark.index.topk import NO_ID, Ids
from recspark.releases.leases import Lease, drop_lease, take_lease
from recspark.releases.opened import Catalogue, Opened, open_row, to_idx
from recspark.releases.registry import FAILED, ReleaseRow, now, read_registry
from recspark.retrieval.moments import find_moment
from recspark.retrieval.recommend import recommend

LEASE_HOURS = 24.0
_TRIES = 3


@dataclass(frozen=True)
class Found:
    """Lists of items, best first: ``item_idx`` int64 [Q, K] (-1 where a list ended), ``scores`` float32 [Q, K]."""

    item_idx: Ids
    scores: Floats
    catalogue: Catalogue

    @property
    def item_ids(self) -> list[list[str]]:
        """The outside ids of each list, without what ran short."""
        return [self.catalogue.name(row[row != NO_ID]) for row in self.item_idx]


class Release:
    """An open release; see `open_release`."""

    def __init__(self, lake: str, opened: Opened, lease: Lease | None, lease_hours: float | None) -> None:
        self._lake, self._opened, self._lease, self._lease_hours = lake, opened, lease, lease_hours

    @property
    def release_id(self) -> str:
        """Which release this is."""
        return self._opened.row.release_id

    @property
    def manifest(self) -> Manifest:
        """What it was made from: versions, hashes, metrics."""
        return self._opened.manifest

    @property
    def facts(self) -> dict[str, Any]:
        """The manifest's facts: model_id, index_id, measured figures."""
        return self._opened.manifest.facts

    def __len__(self) -> int:
        """Items that can be found."""
        return len(self._opened.index)

    def search(
        self,
        queries: Floats,
        k: int,
        allowed: Sequence[str] | None = None,
        blocked: Sequence[str] | None = None,
    ) -> Found:
        """The k best items of each query vector, float32 [Q, dim]; ``allowed`` and ``blocked`` are item ids.

        Raises: QueryError for queries of another dimension or with values that are not finite, a k below 1, or ids that
        are no list.
        """
        _check_k("search", k)
        opened = self._current()
        only = to_idx(opened.index, allowed, "search: allowed")
        without = to_idx(opened.index, blocked, "search: blocked")
        item_idx, scores = opened.index.search(queries, k, allowed=only, blocked=without)
        return Found(item_idx, scores, opened.indexed)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        mask_seen: bool = True,
        allowed: Sequence[str] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
        times: Sequence[Sequence[dt.datetime]] | None = None,
        at: dt.datetime | None = None,
    ) -> Found:
        """The k best items for each history of item ids, the newest last; unknown ids are left out.

        Whoever has no known item gets the items of the highest bias. ``mask_seen`` leaves out what a history holds.
        ``weights`` are those of the events, of models with `event_weights`: all alike by default. ``times`` are when
        they were (UTC where they name no zone), of models with `time_features`: without them the time since the last
        event is not known. ``at`` is when users are asked for, now by default.

        Raises: QueryError for histories of texts, weights or times that do not go with them, a k below 1, or an
        ``allowed`` that is no list of ids.
        """
        _check_k("recommend", k)
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise QueryError("recommend: takes a list of histories, each a list of item ids; got a text")
        opened = self._current()
        known = [[opened.idx_of[i] for i in history if i in opened.idx_of] for history in histories]
        history = Ragged.from_rows(known)
        context = HistoryContext.plain(history, find_moment(at, "recommend: at"))
        if weights is not None:
            context = replace(context, weight=_weigh(histories, weights, opened.idx_of))
        if times is not None:
            known_times = _pick_known(histories, times, opened.idx_of, "times need a datetime")
            context = replace(
                context, ts_us=np.array([find_moment(t, "recommend: times") for t in known_times], np.int64)
            )
        masked = history.distinct() if mask_seen else Ragged.empty(len(history))
        only = to_idx(opened.index, allowed, "recommend: allowed")
        ranked = recommend(
            opened.vectors,
            history,
            masked,
            k,
            opened.index,
            opened.encoder,
            allowed=only,
            context=context,
            reranker=opened.reranker,
        )
        return Found(ranked.ids.astype(np.int64), ranked.scores, opened.catalogue)

    def reload(self) -> bool:
        """Goes over to the active release where that is another one by now; whether it was.

        Raises: ReleaseError or LakeError when the new one cannot be opened; the old one then stays open.
        """
        active = read_registry(self._lake).active
        if active is None or active.release_id == self.release_id:
            return False
        opened, lease = _open(self._lake, None, self._lease_hours)
        before, self._lease, self._opened = self._lease, lease, opened
        if before:
            drop_lease(before)
        return True

    def close(self) -> None:
        """Gives the lease back."""
        if self._lease:
            drop_lease(self._lease)
            self._lease = None

    def __enter__(self) -> "Release":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> Opened:
        """What is open; its lease is renewed when half of it is over."""
        lease, hours = self._lease, self._lease_hours
        if lease and hours and (lease.expires_at - now()).total_seconds() < hours * 1800:
            self._lease = take_lease(self._lake, lease.release_id, hours, lease.reader_id)
        return self._opened


def _check_k(what: str, k: int) -> None:
    """Raises: QueryError when there is nothing to find."""
    if k < 1:
        raise QueryError(f"{what}: k must be at least 1, got {k}")


def _pick_known(
    histories: Sequence[Sequence[str]], values: Sequence[Sequence[Any]], known: Container[str], what: str
) -> list[Any]:
    """A value an event on a known item.

    Raises: QueryError when values and histories do not go together.
    """
    if [len(row) for row in values] != [len(row) for row in histories]:
        raise QueryError(f"recommend: {what} for each event of each history")
    pairs = (zip(items, row, strict=True) for items, row in zip(histories, values, strict=True))
    return [value for row in pairs for item, value in row if item in known]


def _weigh(
    histories: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], known: Container[str]
) -> NDArray[np.float32]:
    """The weights of the events on known items.

    Raises: QueryError when they do not go with the histories, or are no numbers of 0 or more.
    """
    own = _pick_known(histories, weights, known, "weights need a number")
    try:
        return raise_weights(np.array(own, np.float64))
    except DataError as error:
        raise QueryError("recommend: weights must be numbers of 0 or more") from error


def open_release(lake: str, release_id: str | None = None, *, lease_hours: float | None = LEASE_HOURS) -> Release:
    """The active release of a lake, or the one named, verified and ready.

    ``lease_hours`` keeps it from garbage collection for so long, renewed by use; None where the lake is read-only.

    Raises: ReleaseError when no release is active, or it is damaged; IndexReadError naming a damaged file of its index.
    """
    opened, lease = _open(lake, release_id, lease_hours)
    return Release(lake, opened, lease, lease_hours)


def _open(lake: str, release_id: str | None, lease_hours: float | None) -> tuple[Opened, Lease | None]:
    """Tries again where the release was taken away while it was opened: another one is active by then.

    The row is read again once there is a lease: a collection that has not seen the lease had taken the row out before.
    """
    for attempt in range(_TRIES):
        row = _find_row(lake, release_id)
        lease = take_lease(lake, row.release_id, lease_hours) if lease_hours else None
        try:
            return open_row(lake, _find_row(lake, row.release_id) if lease else row), lease
        except RecsparkError:
            if lease:
                drop_lease(lease)
            if attempt == _TRIES - 1 or _find_row(lake, release_id) == row:
                raise
    raise AssertionError("the last attempt returns or raises")


def _find_row(lake: str, release_id: str | None) -> ReleaseRow:
    registry = read_registry(lake)
    if release_id is None:
        if registry.active is None:
            raise ReleaseError(f"{lake}: no release is active; run `recspark release activate CONF` first")
        return registry.active
    row = registry.find(release_id)
    if row.state == FAILED or row.manifest_sha256 is None:
        raise ReleaseError(f"release {row.release_id} is {row.state} ({row.reason}); open another")
    return row
