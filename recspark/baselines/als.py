"""ALS on implicit feedback: factors of items from Spark's MLlib, users solved for from their histories.

    score of j = x_u . y_j
    x_u = (Y'Y + alpha sum over i of y_i y_i' + regularisation n I)^-1  (1 + alpha) sum over i of y_i

over the n distinct items i of u's history that have factors y_i. That is MLlib's own last half step: for a train
history it gives MLlib's factors of the user, for any other one the user that they would have been.

Source: Hu, Koren & Volinsky 2008, eq. 4; the penalty by number of ratings: Zhou et al. 2008. Shapes: N = items, D =
factors, B = users of a block.
"""

import numpy as np
from numpy.typing import NDArray

from recspark.config.baselines import AlsConfig
from recspark.contracts import columns as c
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.evaluate.top_k import FloatArray, Ranked, rank_all
from recspark.lake.arrow import TableAt, read_table


def read_factors(factors: TableAt, num_items: int) -> tuple[FloatArray, BoolArray]:
    """(float32 [N, D], which items have factors [N]); rows of the others are zero."""
    rows = read_table(factors, [c.ITEM_IDX, c.VECTOR])
    items = rows[c.ITEM_IDX].to_numpy()
    vectors = rows[c.VECTOR].combine_chunks().flatten().to_numpy().reshape(len(items), -1)
    factors_ND = np.zeros((num_items, vectors.shape[1]), np.float32)
    factors_ND[items] = vectors
    known = np.zeros(num_items, np.bool_)
    known[items] = True
    return factors_ND, known


def rank_by_als(
    factors_ND: FloatArray, known: BoolArray, history: Ragged, masked: Ragged, k: int, config: AlsConfig
) -> Ranked:
    """Each user's k best of the items that are ``known``; unknown items of a history take no place in it."""
    users_BD = solve_users(factors_ND, history.where(known[history.values]), config).astype(np.float32)
    return rank_all(lambda start, stop: users_BD[start:stop] @ factors_ND.T, masked, len(known), k, known)


def solve_users(factors_ND: FloatArray, history: Ragged, config: AlsConfig) -> NDArray[np.float64]:
    """Factors of users from their histories [B, D]; zeros where a history is empty. Cost: n D^2 + D^3 a user."""
    gram_DD = factors_ND.T.astype(np.float64) @ factors_ND
    penalty_DD = config.regularisation * np.eye(len(gram_DD))
    distinct, users_BD = history.distinct(), np.zeros((len(history), len(gram_DD)))
    for user in np.flatnonzero(distinct.lengths):
        own_nD = factors_ND[distinct.row(int(user))].astype(np.float64)
        left_DD = gram_DD + config.alpha * (own_nD.T @ own_nD) + len(own_nD) * penalty_DD
        users_BD[user] = np.linalg.solve(left_DD, (1 + config.alpha) * own_nD.sum(axis=0))
    return users_BD
