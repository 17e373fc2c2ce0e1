"""Lists for whole blocks of users, from pinned tables: what `recspark recommend` and each Spark worker do alike.

user_idx 40,960..45,055, histories [[3, 5, 3], ...]  ->  user_id "u17", item_ids ["i8", ...], scores [.93, ...]

A block is a fixed range of user_idx, so the same users are always looked at together: whatever the number of processes
or partitions, a list has the same items and the same scores.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.histories import read_by_time
from recspark.evaluate.inputs import to_recommendations
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.user_tower_file import find_event_columns
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.lake.arrow import TableAt, read_ids, read_table
from recspark.retrieval.recommend import Searcher, recommend
from recspark.retrieval.rerank import Reranker, open_reranker
from recspark.retrieval.rules import ListRules
from recspark.retrieval.user_encoder import UserEncoder, open_user_encoder

PURPOSE = "serve"
BLOCK_USERS = 8192
RANGE_USERS = 32 * BLOCK_USERS
"""Users read at a time: about 150 MiB of histories of 50 events."""
_HISTORY_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.TS]


@dataclass(frozen=True)
class Pinned:
    """The tables that lists are made from, at their versions, and the index, where it is to be searched."""

    lake: str
    items: TableAt
    users: TableAt
    user_histories: TableAt
    item_embeddings: TableAt
    index_id: str | None = None

    @property
    def model_id(self) -> str:
        """Whose lists they are."""
        return str(self.item_embeddings.record.facts[c.MODEL_ID])

    @property
    def event_columns(self) -> list[str]:
        """The columns of `user_histories` that the model reads of events beside items."""
        return find_event_columns(self.item_embeddings)

    @property
    def history_columns(self) -> list[str]:
        """All columns of `user_histories` that lists need."""
        return list(dict.fromkeys([*_HISTORY_COLUMNS, *self.event_columns]))

    @property
    def versions(self) -> dict[str, Any]:
        """What a commit of lists names as its inputs."""
        tables = (self.items, self.users, self.user_histories, self.item_embeddings)
        return {table.name: table.version for table in tables} | {"index": self.index_id}


class Recommender:
    """A model that is opened once and then lists users block by block."""

    def __init__(self, pinned: Pinned, rules: ListRules) -> None:
        self._pinned, self._rules = pinned, rules

    def list_users(self, user_ids: pa.ChunkedArray, histories: pa.Table) -> pa.Table:
        """Rows of `recommendations` for the users of one block; ``histories`` has their rows in the same order."""
        rules = self._rules
        history, context = read_by_time(histories, self._pinned.event_columns, rules.until_us)
        masked = history.distinct() if rules.mask_seen else Ragged.empty(len(history))
        users = histories[c.USER_IDX].to_numpy()
        found = recommend(
            self._vectors,
            history,
            masked,
            rules.depth,
            self._index,
            self._encoder,
            users,
            rules.allowed,
            context,
            self._reranker,
        )
        return to_recommendations(PURPOSE, self._pinned.model_id, user_ids, self._item_ids, rules.cut(found))

    @cached_property
    def _vectors(self) -> ItemVectors:
        return read_item_vectors(self._pinned.item_embeddings)

    @cached_property
    def _encoder(self) -> UserEncoder:
        return open_user_encoder(self._vectors, self._pinned.item_embeddings)

    @cached_property
    def _reranker(self) -> Reranker | None:
        return open_reranker(self._vectors, self._pinned.item_embeddings)

    @cached_property
    def _item_ids(self) -> pa.ChunkedArray:
        return read_ids(self._pinned.items, c.ITEM_IDX, c.ITEM_ID)

    @cached_property
    def _index(self) -> Searcher | None:
        if self._pinned.index_id is None:
            return None
        from recspark.index.store import open_index  # faiss is loaded only where it is asked for

        index: Searcher = open_index(self._pinned.lake, self._pinned.index_id)
        return index


_opened: dict[str, Recommender] = {}


def open_once(key: str, pinned: Pinned, rules: ListRules) -> Recommender:
    """The recommender of a key; a process that is asked again, as a Spark worker is by each task, opens nothing."""
    if key not in _opened:
        _opened.clear()
        _opened[key] = Recommender(pinned, rules)
    return _opened[key]


def read_blocks(pinned: Pinned, listed: pa.Array | None = None) -> Iterator[pa.Table]:
    """All users with a history, or those of the ``listed`` user_ids, as blocks: user_id and the columns needed.

    Holds the histories of `RANGE_USERS` users and 4 bytes a user.
    """
    user_idx = read_table(pinned.users, [c.USER_IDX])[c.USER_IDX].to_numpy()
    for start in range(0, int(user_idx.max(initial=-1)) + 1, RANGE_USERS):
        within = [(c.USER_IDX, ">=", start), (c.USER_IDX, "<", start + RANGE_USERS)]
        users = read_table(pinned.users, [c.USER_IDX, c.USER_ID], within)
        if listed is not None:
            users = users.filter(pc.is_in(users[c.USER_ID], value_set=listed))
        if users.num_rows:
            histories = read_table(pinned.user_histories, pinned.history_columns, within)
            yield from cut_blocks(_join(users, histories).to_batches())


def cut_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows in ascending user_idx, whatever batches they come in, as whole blocks."""
    waiting: list[pa.RecordBatch] = []
    block = -1
    for batch in batches:
        blocks: NDArray[np.int64] = batch.column(c.USER_IDX).to_numpy() // BLOCK_USERS
        ends = np.append(np.flatnonzero(np.diff(blocks)) + 1, len(blocks))
        start = 0
        for end in ends[: len(blocks)]:
            if waiting and blocks[start] != block:
                yield pa.Table.from_batches(waiting)
                waiting = []
            block = int(blocks[start])
            waiting.append(batch.slice(start, end - start))
            start = int(end)
    if waiting:
        yield pa.Table.from_batches(waiting)


def _join(users: pa.Table, histories: pa.Table) -> pa.Table:
    """Users with their histories by ascending user_idx; those without an event are left out."""
    histories = histories.filter(pc.greater(pc.list_value_length(histories[c.ITEM_IDX]), 0)).sort_by(c.USER_IDX)
    users = users.sort_by(c.USER_IDX)
    histories = histories.filter(pc.is_in(histories[c.USER_IDX], value_set=users[c.USER_IDX].combine_chunks()))
    users = users.filter(pc.is_in(users[c.USER_IDX], value_set=histories[c.USER_IDX].combine_chunks()))
    return histories.add_column(1, c.USER_ID, users[c.USER_ID])
