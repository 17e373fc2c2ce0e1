"""Readouts scored on users of the validation slice, exactly: every item for every user, the work shared by the ranks.

tables, users, [input cosine at 0, input cosine at 0.1]  ->  recall@20 [.1204, .1251]

Users are cut into the same blocks on any number of ranks and summed block by block, so tables that agree give values
that agree to the last bit.

Shapes: B = users of a block, N = items, K = length of a list.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.histories import Cases
from recspark.evaluate.ranking import RANKING_METRICS, find_hits
from recspark.evaluate.top_k import BLOCK_BYTES, blocks, mask_scores, top_k
from recspark.training.readout import (
    L2,
    ReadoutSpec,
    mean_of_sums,
    popularity_bias,
    read_vectors,
    sum_user_vectors,
    unit_rows,
)
from recspark.training.tables import SkipGramTables
from recspark.training.world import World

_BLOCK_USERS = 128
"""At most, so that a few ranks have about equally many blocks."""


@dataclass(frozen=True)
class _Vectors:
    """Of one readout, all [N, dim]: candidate vectors and those of queries, and the unit rows of both."""

    items: NDArray[np.float32]
    query: NDArray[np.float32]
    unit_items: NDArray[np.float32]
    unit_query: NDArray[np.float32]

    def score(self, users_BD: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
        """Similarities [B, N]; under l2 less what is the same for all items of a user."""
        if metric == L2:
            return np.asarray(2 * users_BD @ self.items.T - np.square(self.items).sum(axis=1), np.float32)
        if metric == "ip":
            return users_BD @ self.items.T
        return unit_rows(users_BD) @ self.unit_items.T


def space_of(spec: ReadoutSpec) -> ReadoutSpec:
    """What readouts have to share to be scored together: they differ in the popularity term alone."""
    return replace(spec, popularity_term=0.0)


class ReadoutScorer:
    """Scores readouts of whole tables; ``metric`` such as recall@20. A rank holds both tables and up to four more."""

    def __init__(self, tables: SkipGramTables, num_events: NDArray[np.int64], metric: str, world: World) -> None:
        self._tables, self._num_events, self._world = tables, num_events, world
        name, k = metric.split("@")
        self._metric, self._k = RANKING_METRICS[name], int(k)
        self._barred = np.flatnonzero(~tables.is_trained)

    def score(self, cases: Cases, specs: list[ReadoutSpec]) -> Iterator[tuple[list[ReadoutSpec], list[float]]]:
        """(specs of one space, the mean of each over the users), space by space. Collective after each of them, so a
        rank waits for the others no longer than they differ in one.
        """
        for (readout, centred), alike in itertools.groupby(specs, lambda s: (s.readout, s.centred)):
            vectors = self._read_vectors(readout, centred)
            for _, found in itertools.groupby(alike, space_of):
                of_space = list(found)
                yield of_space, self._score_space(cases, of_space, vectors)

    def _read_vectors(self, readout: str, is_centred: bool) -> _Vectors:
        items, query = read_vectors(self._tables, readout, is_centred)
        unit = unit_rows(items)
        return _Vectors(items, query, unit, unit if query is items else unit_rows(query))

    def _score_space(self, cases: Cases, specs: list[ReadoutSpec], vectors: _Vectors) -> list[float]:
        """The means of all users' values; this rank scores every n-th block of them. Collective."""
        num_users = max(1, min(_BLOCK_USERS, BLOCK_BYTES // (4 * len(self._num_events))))
        parts = list(blocks(len(cases), num_users))
        sums, world = np.zeros((len(parts), len(specs))), self._world
        biases = [popularity_bias(self._num_events, self._tables.is_trained, s.popularity_term) for s in specs]
        for place in range(world.rank, len(parts), world.world_size):
            scores_BN = self._score_block(cases, *parts[place], specs[0], vectors)
            sums[place] = self._sum_values(cases, *parts[place], scores_BN, biases)
        total = np.reshape(world.sum_over_ranks(sums.ravel().tolist()), sums.shape).sum(axis=0)
        return [float(value) for value in total / len(cases)]

    def _score_block(
        self, cases: Cases, start: int, stop: int, spec: ReadoutSpec, vectors: _Vectors
    ) -> NDArray[np.float32]:
        """Similarities [B, N] of a block of users; -inf for what must not be listed."""
        history, is_trained = cases.history.block(start, stop), self._tables.is_trained
        lengths = history.lengths.astype(np.int32)
        weights = spec.history_weights
        parts = vectors.query if spec.metric == L2 else vectors.unit_query
        sums = sum_user_vectors(history.values, history.offsets[:-1], lengths, parts, is_trained, weights)
        users, _ = mean_of_sums(sums)
        scores_BN = vectors.score(users, spec.metric)
        scores_BN[:, self._barred] = -np.inf
        mask_scores(scores_BN, cases.masked.block(start, stop))
        return np.asarray(scores_BN, np.float32)

    def _sum_values(
        self, cases: Cases, start: int, stop: int, scores_BN: NDArray[np.float32], biases: list[NDArray[np.float32]]
    ) -> list[float]:
        """The sum of the users' values for each bias: one GEMM serves all popularity terms."""
        relevant, biased_BN = cases.relevant.block(start, stop), np.empty_like(scores_BN)
        sums = []
        for bias in biases:
            np.add(scores_BN, bias, out=biased_BN)
            hits_BK = find_hits(top_k(biased_BN, self._k).ids, relevant)
            sums.append(float(self._metric(hits_BK, relevant.lengths, self._k).sum()))
        return sums
