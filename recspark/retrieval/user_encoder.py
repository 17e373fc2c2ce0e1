"""From a history to what is asked of the index: a user's vector, or several.

    history [[17, 4, 9]], user_idx [812]   ->   [1, D]           one vector a user
                                           ->   [1, K, D]        interests; an item's score is that of the nearest

Models without a user tower take the mean of unit query vectors (`user_vectors`); a tower is evaluated in numpy from the
file beside the model's vectors, so that nothing that serves imports torch.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.user_tower import StoredUserTower
from recspark.evaluate.user_tower_file import FACT, read_user_tower
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt
from recspark.retrieval.user_vectors import build_user_vectors

UNKNOWN_USER = -1
"""The user_idx of someone whom the lake does not know."""


class UserEncoder(Protocol):
    """What makes users' vectors. A vector of zeros is none: it has no direction to look in."""

    def encode(
        self, history: Ragged, user_idx: IntArray | None = None, context: HistoryContext = NO_CONTEXT
    ) -> FloatArray:
        """[U, D] or [U, K, D] of histories of item_idx, one row a user, the newest last; who they are where known.

        ``context`` has what the model reads of events beside items.
        """


@dataclass(frozen=True)
class MeanEncoder:
    """The mean of the unit query vectors of a history."""

    vectors: ItemVectors

    def encode(
        self, history: Ragged, user_idx: IntArray | None = None, context: HistoryContext = NO_CONTEXT
    ) -> FloatArray:
        """[U, D]; who the users are does not matter."""
        return build_user_vectors(self.vectors, history)


@dataclass(frozen=True)
class TowerEncoder:
    """A trained user tower over the items' query vectors."""

    vectors: ItemVectors
    tower: StoredUserTower

    def encode(
        self, history: Ragged, user_idx: IntArray | None = None, context: HistoryContext = NO_CONTEXT
    ) -> FloatArray:
        """[U, D] or [U, K, D]; zeros for a user of whom nothing is known."""
        place = self.vectors.rows_of(history.values)
        is_known = place >= 0
        rows = Ragged(history.where(is_known).offsets, place[is_known].astype(np.int32))
        users = np.full(len(history), UNKNOWN_USER) if user_idx is None else np.asarray(user_idx)
        return self.tower.encode(self.vectors.queries, rows, users, context.pick(is_known))


def open_user_encoder(vectors: ItemVectors, embeddings: TableAt) -> UserEncoder:
    """The encoder of a model whose vectors were read from a pinned `item_embeddings`.

    Raises: LakeError when its user tower is lost or damaged.
    """
    if FACT not in embeddings.record.facts:
        return MeanEncoder(vectors)
    return TowerEncoder(vectors, read_user_tower(embeddings.lake, vectors.model_id))
