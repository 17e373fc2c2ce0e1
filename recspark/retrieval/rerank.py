"""What was retrieved, ranked once more by the model's ranking head, where it has one.

    retrieved [31, 12, 40] for a user and his history   ->   [12, 31, 40], by the head's scores

The same items in another order, cut to k. The head is evaluated in numpy from the file beside the model's vectors.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.lists import FloatArray, Ranked
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.ranking_head import StoredRankingHead
from recspark.evaluate.ranking_head_file import FACT, read_ranking_head
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import COSINE
from recspark.index.topk import largest_k
from recspark.lake.arrow import TableAt
from recspark.retrieval.user_vectors import keep_known


@dataclass(frozen=True)
class Reranker:
    """A trained ranking head over a model's vectors."""

    vectors: ItemVectors
    head: StoredRankingHead

    @property
    def num_candidates(self) -> int:
        """Items of a list to retrieve for it."""
        return self.head.spec.candidates

    def rerank(self, found: Ranked, users_UD: FloatArray, history: Ragged, k: int) -> Ranked:
        """The first k of each list ``found`` by the head's scores; ties go to the smaller item_idx.

        Retrieval scores are those of the vectors, whatever codes an index has found an item by. An item that only the
        index has a vector of, and a user without one, keep their retrieval scores, times the head's scale.
        """
        rows_UC = np.where(found.ids >= 0, self.vectors.rows_of(found.ids), -1)
        scores_UC = self.head.scale * found.scores
        told = np.flatnonzero(users_UD.any(axis=1))
        judged = self.score(users_UD[told], history.take(told), rows_UC[told])
        scores_UC[told] = np.where(rows_UC[told] >= 0, judged, scores_UC[told])
        best, ids = largest_k(scores_UC, found.ids.astype(np.int64), k)
        return Ranked(ids.astype(np.int32), best)

    def score(self, users_UD: FloatArray, history: Ragged, rows_UC: NDArray[np.int64]) -> FloatArray:
        """[U, C] of rows of the vectors, -inf for those below 0; ``history`` of item_idx."""
        known, vectors = keep_known(self.vectors, history), self.vectors
        own = Ragged(known.offsets, vectors.rows_of(known.values).astype(np.int32))
        users = vectors.prepare_queries(users_UD)
        return self.head.score(users, own, self.tokens, rows_UC, vectors.candidates, vectors.bias)

    @cached_property
    def tokens(self) -> FloatArray:
        """[M, D]: what stands for an item in a history, as it is compared."""
        return self.vectors.unit_queries if self.vectors.metric == COSINE else self.vectors.queries


def open_reranker(vectors: ItemVectors, embeddings: TableAt) -> Reranker | None:
    """The reranker of a model whose vectors were read from a pinned `item_embeddings`; None where it has no head.

    Raises: LakeError when the head's file is lost or damaged.
    """
    if FACT not in embeddings.record.facts:
        return None
    return Reranker(vectors, read_ranking_head(embeddings.lake, vectors.model_id))
