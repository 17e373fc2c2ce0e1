"""What a training reads, each table pinned by its stage key: the corpus, the vocabulary, the users' histories."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.errors import DataError, LakeError
from recspark.lake.arrow import TableAt, find_table, read_table
from recspark.training.data import SequenceFiles, open_sequences

_MIN_ITEMS = 2


@dataclass(frozen=True)
class TrainInputs:
    """Pinned tables; ``users`` and ``user_histories`` are None for an edge list. ``num_events`` int64 [V]."""

    corpus: TableAt
    items: TableAt
    users: TableAt | None
    user_histories: TableAt | None
    num_events: NDArray[np.int64]

    @property
    def versions(self) -> dict[str, int]:
        """Table -> version, as records and manifests name them."""
        tables = (self.corpus, self.items, self.users, self.user_histories)
        return {table.name: table.version for table in tables if table}

    def fingerprint(self) -> str:
        """12 hex digits that stand for the vocabulary: how many train events each item has."""
        return hashlib.sha256(self.num_events.astype("<i8").tobytes()).hexdigest()[:12]

    def open_corpus(self) -> SequenceFiles:
        """The corpus's sequences: all walks, or the train sessions."""
        if self.corpus.name == "walks":
            return open_sequences(self.corpus, c.WALK)
        return open_sequences(self.corpus, c.ITEM_IDX, c.TRAIN)


def find_inputs(run: Run) -> TrainInputs:
    """The inputs of a run's training.

    Raises: LakeError when an upstream stage has not finished or its ids have gaps; DataError below two items.
    """

    def find(table: str) -> TableAt:
        return find_table(run.lake, run.producer(table), table)

    has_users = run.config.source.kind != "edges"
    items = find("items")
    return TrainInputs(
        corpus=find(run.config.training.corpus),
        items=items,
        users=find("users") if has_users else None,
        user_histories=find("user_histories") if has_users else None,
        num_events=_read_num_events(items),
    )


def _read_num_events(items: TableAt) -> NDArray[np.int64]:
    """Train events of each item, by item_idx."""
    found = read_table(items, [c.ITEM_IDX, c.NUM_EVENTS]).sort_by(c.ITEM_IDX)
    idx = found[c.ITEM_IDX].to_numpy()
    if not np.array_equal(idx, np.arange(len(idx))):
        raise LakeError(f"{items.uri}: version {items.version}: item_idx is not 0..{len(idx) - 1}; build it again")
    if len(idx) < _MIN_ITEMS:
        raise DataError(f"{items.uri}: {len(idx)} items; a model needs at least {_MIN_ITEMS}, check source and filters")
    return np.asarray(found[c.NUM_EVENTS].to_numpy(), np.int64)
