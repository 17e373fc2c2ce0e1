"""What a training reads, each table pinned by its stage key: the corpus, the vocabulary, the users' histories."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.errors import DataError, LakeError
from recspark.lake.arrow import TableAt, find_done, find_table, read_table
from recspark.training.data import SequenceFiles, open_sequences

_MIN_ITEMS = 2
_CORPUS_TABLES = {"walks": "walks", "sessions": "sessions", "histories": "user_histories"}


@dataclass(frozen=True)
class TrainInputs:
    """Pinned tables; ``users`` and ``user_histories`` are None for an edge list. ``num_events`` int64 [V].

    ``corpora`` has the table of each corpus with its weight, by name, none for a model in closed form;
    ``item_graph`` is there for a warm start, and for a closed form without users. ``bought_type`` is the code of the
    event type that `training.conversion_context` names. ``has_user_keys``: sequences say whose they are, and which
    events came at once. ``user_negatives`` is there where events are negatives.
    """

    corpora: dict[str, tuple[TableAt, float]]
    items: TableAt
    users: TableAt | None
    user_histories: TableAt | None
    num_events: NDArray[np.int64]
    item_graph: TableAt | None = None
    bought_type: int | None = None
    has_user_keys: bool = False
    user_negatives: TableAt | None = None

    @property
    def versions(self) -> dict[str, int]:
        """Table -> version, as records and manifests name them."""
        corpora = (table for table, _ in self.corpora.values())
        tables = (*corpora, self.items, self.users, self.user_histories, self.item_graph, self.user_negatives)
        return {table.name: table.version for table in tables if table}

    def fingerprint(self) -> str:
        """12 hex digits that stand for the vocabulary: how many train events each item has."""
        return hashlib.sha256(self.num_events.astype("<i8").tobytes()).hexdigest()[:12]

    def open_corpora(self) -> list[tuple[SequenceFiles, float]]:
        """Each corpus's sequences with its weight: all walks, the train sessions, the train part of histories."""
        return [(self._open_corpus(name, table), weight) for name, (table, weight) in self.corpora.items()]

    def _open_corpus(self, name: str, table: TableAt) -> SequenceFiles:
        if name == "walks":
            return open_sequences(table, c.WALK)
        if name == "sessions":
            return open_sequences(table, c.ITEM_IDX, c.TRAIN, marked_type=self.bought_type)
        key, time = (c.USER_IDX, c.TS) if self.has_user_keys else (None, None)
        return open_sequences(table, c.ITEM_IDX, prefix=c.NUM_TRAIN, key=key, time=time)


def find_inputs(run: Run) -> TrainInputs:
    """The inputs of a run's training.

    Raises: LakeError when an upstream stage has not finished or its ids have gaps; DataError below two items.
    """

    def find(table: str) -> TableAt:
        return find_table(run.lake, run.producer(table), table)

    model, start = run.config.model, run.config.training.warm_start
    has_users = run.config.source.kind != "edges"
    corpus = run.config.training.corpus if model.has_corpus else {}
    # A model in closed form is computed from histories, or from the graph where there are none.
    reads_graph = start is not None and start.neighbours if model.has_corpus else not has_users
    items = find("items")
    return TrainInputs(
        corpora={name: (find(_CORPUS_TABLES[name]), w) for name, w in corpus.items()},
        items=items,
        users=find("users") if has_users else None,
        user_histories=find("user_histories") if has_users else None,
        num_events=_read_num_events(items),
        item_graph=find("item_graph") if reads_graph else None,
        bought_type=_find_bought_type(run) if model.has_corpus else None,
        has_user_keys=model.has_towers,
        user_negatives=find("user_negatives") if model.explicit_negatives else None,
    )


def _find_bought_type(run: Run) -> int | None:
    """The code of the event type that counts as bought.

    Raises: DataError when the sessions hold none of it.
    """
    wanted = run.config.training.conversion_context
    if wanted is None:
        return None
    done = find_done(run.lake, run.producer("sessions"))
    types: list[str] = done[1].facts.get("event_types", []) if done else []
    if wanted not in types:
        raise DataError(
            f"training.conversion_context: no event is of type {wanted!r}; sessions hold "
            f"{', '.join(map(repr, types)) or 'no types'}. Name one of them, or check source.columns.event_type"
        )
    return types.index(wanted)


def _read_num_events(items: TableAt) -> NDArray[np.int64]:
    """Train events of each item, by item_idx."""
    found = read_table(items, [c.ITEM_IDX, c.NUM_EVENTS]).sort_by(c.ITEM_IDX)
    idx = found[c.ITEM_IDX].to_numpy()
    if not np.array_equal(idx, np.arange(len(idx))):
        raise LakeError(f"{items.uri}: version {items.version}: item_idx is not 0..{len(idx) - 1}; build it again")
    if len(idx) < _MIN_ITEMS:
        raise DataError(f"{items.uri}: {len(idx)} items; a model needs at least {_MIN_ITEMS}, check source and filters")
    return np.asarray(found[c.NUM_EVENTS].to_numpy(), np.int64)
