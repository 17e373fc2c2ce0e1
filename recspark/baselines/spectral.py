"""Spectral vectors: the leading eigenvectors of the normalised graph, rows of which place nodes that share paths near.

    graph       A of an edge list, joined with its reverse: D^-1/2 A D^-1/2
    histories   users x items R: B' B with B = D_u^-1/2 R D_i^-1/2, two bipartite steps, never multiplied out

Source: Ng, Jordan, Weiss: On spectral clustering, 2001; the bipartite form: Dhillon 2001.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from recspark.baselines.factors import ItemFactors, check_directions, pad_columns
from recspark.baselines.item_knn import build_score_matrix
from recspark.baselines.pairs import power_of_counts, scale
from recspark.config.baselines import SpectralConfig
from recspark.errors import DataError, TrainingError

Vector = NDArray[np.float64]


def check_size(dim: int, config: SpectralConfig, num_items: int) -> None:
    """Checks that so many items with an edge have such vectors.

    Raises: DataError when ``dim``, with what is skipped, comes too near to their number.
    """
    check_directions("spectral", config.skip, dim, config.eigenvalue_power, "eigenvalue_power", num_items)


def build_spectral_from_users(users_UN: sp.csr_array, dim: int, config: SpectralConfig, seed: int) -> ItemFactors:
    """Vectors of items by the users they share; items without a user have none.

    Raises: DataError when there are too few items for ``dim``; TrainingError when the eigenvectors do not settle.
    """
    items_of_user, users_of_item = (np.asarray(users_UN.sum(axis=axis)) for axis in (1, 0))
    walk_UN = scale(power_of_counts(items_of_user, -0.5), users_UN, power_of_counts(users_of_item, -0.5))
    back_NU = sp.csr_array(walk_UN.T)
    return _build(lambda vector: back_NU @ (walk_UN @ vector), users_of_item > 0, dim, config, seed)


def build_spectral_from_graph(
    item_graph: pa.Table, num_items: int, dim: int, config: SpectralConfig, seed: int
) -> ItemFactors:
    """Vectors of all nodes of an `item_graph`; isolated ones have zeros and are counted.

    An edge counts both ways, by the larger weight where the two differ.

    Raises: DataError when there are too few items for ``dim``; TrainingError when the eigenvectors do not settle.
    """
    edges = build_score_matrix(item_graph, num_items).astype(np.float64)
    both = sp.csr_array(edges.maximum(edges.T))
    degrees = np.asarray(both.sum(axis=1))
    damping = 1.0 / np.sqrt(np.where(degrees > 0, degrees, np.inf))  # weights, so degrees, may be below 1
    normal = scale(damping, both, damping)
    return _build(lambda vector: normal @ vector, degrees > 0, dim, config, seed)


def _build(
    multiply: Callable[[Vector], Vector], is_known: NDArray[np.bool_], dim: int, config: SpectralConfig, seed: int
) -> ItemFactors:
    check_size(dim, config, int(is_known.sum()))
    values, vectors = find_leading(multiply, len(is_known), config.skip + dim, seed)
    values, vectors = values[config.skip :], vectors[:, config.skip :]
    scales = np.maximum(values, 0.0) ** config.eigenvalue_power
    rows = pad_columns(np.where(is_known[:, None], vectors * scales, 0.0), dim)
    if not rows.any():
        raise DataError(
            f"baselines.spectral: no eigenvalue is above 0 behind {config.skip:,} skipped; lower spectral.skip"
        )
    return ItemFactors(rows, rows, is_known, {"isolated": int((~is_known).sum())})


def find_leading(
    multiply: Callable[[Vector], Vector], num_nodes: int, count: int, seed: int
) -> tuple[Vector, NDArray[np.float64]]:
    """(values, vectors [N, count]) of a symmetric operator, the largest first; all there are where N is small.

    Raises: TrainingError when Lanczos' method does not converge.
    """
    if count >= num_nodes - 1:
        values, vectors = eigh(multiply(np.eye(num_nodes)))
    else:
        operator = LinearOperator((num_nodes, num_nodes), matvec=multiply, dtype=np.float64)
        start = np.random.default_rng(seed).standard_normal(num_nodes)  # else ARPACK draws its own, anew each time
        try:
            values, vectors = eigsh(operator, count, which="LA", v0=start)
        except ArpackNoConvergence as error:
            raise TrainingError(
                f"spectral: {len(error.eigenvalues)} of {count} eigenvectors settled; lower model.embedding_dim"
            ) from error
    order = np.argsort(-values, kind="stable")[:count]
    return values[order], _fix_signs(vectors[:, order])


def _fix_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column's largest entry made positive: the sign of an eigenvector is arbitrary."""
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return np.asarray(vectors * np.where(largest < 0, -1.0, 1.0))
