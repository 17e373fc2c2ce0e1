"""PPMI-SVD: what skip-gram with negative sampling factorises implicitly, factorised explicitly.

    C = R' D_u^-length_power R, no diagonal                     pairs of items that share a user, by train histories
    M_ij = max(0, log(C_ij / (C_i. p_j)) - log shift)           p_j = C_j.^smoothing / sum_n C_n.^smoothing
    M ~ U S V'    input = U S^power, output = V S^power         the largest ``dim`` singular values

Source: Levy & Goldberg: Neural word embedding as implicit matrix factorization, 2014, eq. 10-13; context smoothing and
the power of S: Levy, Goldberg, Dagan 2015, section 3; the randomised SVD: Halko, Martinsson, Tropp 2011.
"""

import numpy as np
import scipy.sparse as sp

from recspark.baselines.factors import FloatArray, ItemFactors, check_directions, pad_columns
from recspark.baselines.pairs import check_pair_memory, multiply_rows, power_of_counts, scale
from recspark.config.baselines import PpmiSvdConfig
from recspark.errors import DataError, SetupError

BYTES_A_PAIR = 64
"""Count, place and logarithm of a pair while they are turned into PPMI."""


def check_size(dim: int, config: PpmiSvdConfig, num_items: int) -> None:
    """Checks that so many items that share a user with another have such vectors.

    Raises: DataError when ``dim`` comes too near to their number.
    """
    check_directions("ppmi_svd", 0, dim, config.singular_value_power, "singular_value_power", num_items)


def build_ppmi_svd(users_UN: sp.csr_array, dim: int, config: PpmiSvdConfig, seed: int) -> ItemFactors:
    """The factors of all items; those that share a user with no other item have none.

    Cost: time and memory by the pairs of items that share a user.

    Raises: DataError when no pair is above chance or there are too few items for ``dim``; SetupError when the pairs
    would not fit the memory that is free, or scikit-learn is missing.
    """
    check_pair_memory(users_UN, BYTES_A_PAIR, "baselines.ppmi_svd", "take it out, or cut clean.max_user_events")
    counts_NN = count_pairs(users_UN, config.length_power)
    ppmi_NN = build_ppmi(counts_NN, config.smoothing, config.shift)
    if not ppmi_NN.nnz:
        raise DataError(
            f"baselines.ppmi_svd: none of {counts_NN.nnz:,} pairs of items that share a user is above chance; lower "
            f"baselines.ppmi_svd.shift, or check that train histories hold two items"
        )
    is_known = (np.diff(ppmi_NN.indptr) > 0) | (np.bincount(ppmi_NN.indices, minlength=ppmi_NN.shape[0]) > 0)
    check_size(dim, config, int(is_known.sum()))
    left, right = _factorise(ppmi_NN, dim, config, seed)
    found = {"num_pairs": int(counts_NN.nnz), "num_pairs_above_chance": int(ppmi_NN.nnz)}
    return ItemFactors(left, right, is_known, found)


def count_pairs(users_UN: sp.csr_array, length_power: float) -> sp.csr_array:
    """Symmetric [N, N] without a diagonal: length^-length_power of the users that two items share, summed."""
    lengths = np.diff(users_UN.indptr).astype(np.float64)
    damped = scale(power_of_counts(lengths, -length_power), users_UN, np.ones(users_UN.shape[1]))
    return sp.csr_array(sp.vstack([rows for _, rows in multiply_rows(sp.csr_array(users_UN.T), damped)], format="csr"))


def build_ppmi(counts_NN: sp.csr_array, smoothing: float, shift: float) -> sp.csr_array:
    """Shifted positive pointwise mutual information [N, N] of counts; row = item, column = context."""
    totals = np.asarray(counts_NN.sum(axis=1))
    contexts = power_of_counts(totals, smoothing)
    chance = contexts / max(contexts.sum(), np.finfo(np.float64).tiny)
    pairs = counts_NN.tocoo()
    values = np.log(pairs.data / (totals[pairs.row] * chance[pairs.col])) - np.log(shift)
    above = values > 0
    return sp.csr_array((values[above], (pairs.row[above], pairs.col[above])), shape=counts_NN.shape)


def _factorise(ppmi_NN: sp.csr_array, dim: int, config: PpmiSvdConfig, seed: int) -> tuple[FloatArray, FloatArray]:
    try:
        from sklearn.utils.extmath import randomized_svd
    except ImportError as error:
        raise SetupError("ppmi_svd needs scikit-learn: pip install 'recspark[baselines]'") from error
    rank = min(dim, ppmi_NN.shape[0])
    low_bits = seed % 2**32  # all that scikit-learn takes
    left, values, right = randomized_svd(ppmi_NN, rank, n_iter=config.num_iterations, random_state=low_bits)
    scales = np.where(values > values[0] * np.finfo(np.float32).eps, values, 0.0) ** config.singular_value_power
    return pad_columns(left * scales, dim), pad_columns(right.T * scales, dim)
