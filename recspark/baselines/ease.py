"""EASE: the linear item-item model whose diagonal is zero, in closed form.

    G = R' R + l2 I       P = G^-1       B_ij = -P_ij / P_jj, B_jj = 0       score of j = sum of B_ij over history i

Source: Steck: Embarrassingly shallow autoencoders for sparse data, 2019, eq. 8. Its weights are dense, so the catalogue
is limited (`baselines.ease.max_items`).
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from recspark.config.baselines import EaseConfig
from recspark.config.checks import ease_too_large
from recspark.errors import ConfigError, SetupError
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.evaluate.top_k import FloatArray, Ranked, blocks, rank_all
from recspark.memory import free_memory_bytes, gib

CELL_BYTES = 12
"""A cell of the matrix inverted (float64) and of the weights (float32)."""
_BLOCK_ROWS = 1024


def check_size(num_items: int, config: EaseConfig) -> None:
    """Checks that a model of so many items may be built here.

    Raises: ConfigError above ``baselines.ease.max_items``; SetupError when memory is short.
    """
    if num_items > config.max_items:
        raise ConfigError(ease_too_large(num_items, config.max_items))
    needed, free = CELL_BYTES * num_items**2, free_memory_bytes()
    if needed > free:
        raise SetupError(
            f"baselines.ease: {num_items:,} items with train events need {gib(needed)}, {gib(free)} are free; take "
            f"ease out, or raise vocabulary.min_item_events"
        )


def build_ease(users_UN: sp.csr_array, l2: float) -> FloatArray:
    """Weights float32 [N, N]: row = item of the history, column = candidate. Time ~ N^3."""
    weights = _invert(_gram(users_UN, l2))
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


def rank_by_ease(
    weights_MM: FloatArray, known: BoolArray, history: Ragged, masked: Ragged, k: int,
    history_weights: HistoryWeights = ALL_ALIKE,
) -> Ranked:  # fmt: skip
    """Each user's k best of the M items that are ``known`` [N]; unknown items of a history take no place in it."""
    columns = np.flatnonzero(known)
    row_of_item = np.cumsum(known) - 1
    counted, weights = history_weights.weigh_distinct(history.where(known[history.values]))
    weights = weights.astype(np.float32)

    def score_block(start: int, stop: int) -> FloatArray:
        block, first = counted.block(start, stop), counted.offsets[start]
        values = weights[first : first + len(block.values)]
        shape = (stop - start, len(columns))
        history_BM = sp.csr_array((values, row_of_item[block.values], block.offsets), shape=shape)
        scores_BN = np.full((stop - start, len(known)), -np.inf, dtype=np.float32)
        scores_BN[:, columns] = history_BM @ weights_MM
        return scores_BN

    return rank_all(score_block, masked, len(known), k)


def _gram(users_UN: sp.csr_array, l2: float) -> NDArray[np.float64]:
    """R' R + l2 I, dense, filled by blocks of rows."""
    items_NU, num_items = sp.csr_array(users_UN.T), users_UN.shape[1]
    gram = np.empty((num_items, num_items))
    for start, stop in blocks(num_items, _BLOCK_ROWS):
        gram[start:stop] = (items_NU[start:stop] @ users_UN).toarray()
    gram[np.diag_indices(num_items)] += l2
    return gram


def _invert(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a positive definite matrix, by Cholesky, in the matrix's own memory."""
    factor, failed = lapack.dpotrf(gram.T, lower=True, overwrite_a=True)  # symmetric: the transpose is Fortran's order
    assert not failed, "l2 > 0 makes it positive definite"
    inverse, failed = lapack.dpotri(factor, lower=True, overwrite_c=True)
    assert not failed
    inverse = inverse.T  # what LAPACK calls lower is our upper triangle
    for start, stop in blocks(len(inverse), _BLOCK_ROWS):
        inverse[stop:, start:stop] = inverse[start:stop, stop:].T
        square = np.triu(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] = square + np.triu(square, 1).T
    return np.asarray(inverse)
