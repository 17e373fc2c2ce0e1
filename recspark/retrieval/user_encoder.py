"""From histories to user vectors, behind one protocol: today the mean of item vectors, tomorrow an exported tower.

history [[3, 5], [8]]  ->  [U, D], or [U, H, D] where a user has several vectors (interests), of which the best counts
"""

from dataclasses import dataclass
from typing import Protocol

from recspark.errors import LakeError
from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt
from recspark.retrieval.user_vectors import build_user_vectors

MEAN = "mean"
FACT = "user_encoder"
"""The fact in the commit of `item_embeddings` that says how users are made of histories; without it, by `mean`."""


class UserEncoder(Protocol):
    """What makes vectors of users. A vector of zeros is none: it has no direction to look in."""

    def encode(self, history: Ragged) -> FloatArray:
        """[U, D], or [U, H, D] with H vectors a user, from histories of item_idx, the newest event last."""


@dataclass(frozen=True)
class MeanEncoder:
    """The weighted mean of unit query vectors: `recspark.retrieval.user_vectors`."""

    vectors: ItemVectors

    def encode(self, history: Ragged) -> FloatArray:
        """[U, D]."""
        return build_user_vectors(self.vectors, history)


def open_encoder(embeddings: TableAt, vectors: ItemVectors) -> UserEncoder:
    """How the model of these embeddings makes users.

    Raises: LakeError where its record names a way that this version does not know.
    """
    kind = embeddings.record.facts.get(FACT, MEAN)
    if kind != MEAN:
        raise LakeError(
            f"{embeddings.uri}: version {embeddings.version} makes users by {kind!r}, this version of recspark knows "
            f"{MEAN}; install the one that trained the model"
        )
    return MeanEncoder(vectors)
