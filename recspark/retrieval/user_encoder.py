"""From histories to user vectors, behind one protocol: today the mean of item vectors, tomorrow an exported tower.

history [[3, 5], [8]], user_idx [812, 7]  ->  [U, D], or [U, H, D] where users have several vectors: the best counts
"""

from dataclasses import dataclass
from typing import Protocol

from recspark.errors import LakeError
from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt
from recspark.retrieval.user_vectors import build_user_vectors

MEAN = "mean"
FACT = "user_encoder"
"""The fact in the commit of `item_embeddings` that says how users are made of histories; without it, by `mean`."""


class UserEncoder(Protocol):
    """What makes users' vectors. A vector of zeros is none: it has no direction to look in."""

    def encode(self, history: Ragged, user_idx: IntArray | None = None) -> FloatArray:
        """[U, D] or [U, H, D] of histories of item_idx, one row a user, the newest last; who they are where known."""


@dataclass(frozen=True)
class MeanEncoder:
    """The mean of the unit query vectors of a history."""

    vectors: ItemVectors

    def encode(self, history: Ragged, user_idx: IntArray | None = None) -> FloatArray:
        """[U, D]; who the users are does not matter."""
        return build_user_vectors(self.vectors, history)


def open_user_encoder(vectors: ItemVectors, embeddings: TableAt) -> UserEncoder:
    """The encoder of a model whose vectors were read from a pinned `item_embeddings`.

    Raises: LakeError where its record names a way to make users that this version does not know.
    """
    kind = embeddings.record.facts.get(FACT, MEAN)
    if kind != MEAN:
        raise LakeError(
            f"{embeddings.uri}: version {embeddings.version} makes users by {kind!r}, this version of recspark knows "
            f"{MEAN}; install the one that trained the model"
        )
    return MeanEncoder(vectors)
