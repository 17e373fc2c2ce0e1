"""RP3beta: a candidate's score is the chance of a three-step walk user -> item -> user -> item, over its popularity.

Source: Paudel, Christoffel, Newell, Bernstein: Updatable, accurate, diverse, and scalable recommendations for
interactive applications, 2017, with the transition powers of Cooper et al. 2014 (P3alpha); here one power a step.
The first step is the same for all of a user's items and left out.

    S = D_i^-item_alpha R' D_u^-user_alpha R D_i^-beta, its diagonal 0       R: users x items of 0/1, D: its degrees
"""

import numpy as np
import scipy.sparse as sp

from recspark.baselines.pairs import check_pair_memory, keep_top, multiply_rows, power_of_counts, scale
from recspark.config.baselines import Rp3BetaConfig

BYTES_A_PAIR = 24
"""Value and column, while the blocks are put together."""


def build_rp3beta(users_UN: sp.csr_array, config: Rp3BetaConfig) -> sp.csr_array:
    """Scores float32 [N, N]: row = item of the history, column = candidate.

    Cost: time and memory by the pairs of items that share a user; ``num_neighbours`` bounds what is kept.

    Raises: SetupError when the pairs would not fit the memory that is free.
    """
    advice = "set baselines.rp3beta.num_neighbours, such as 200"
    check_pair_memory(users_UN, BYTES_A_PAIR, "baselines.rp3beta", advice, config.num_neighbours)
    items_of_user, users_of_item = (np.asarray(users_UN.sum(axis=axis)) for axis in (1, 0))
    to_user_NU = scale(
        power_of_counts(users_of_item, -config.item_alpha), sp.csr_array(users_UN.T), np.ones(users_UN.shape[0])
    )
    to_item_UN = scale(
        power_of_counts(items_of_user, -config.user_alpha), users_UN, power_of_counts(users_of_item, -config.beta)
    )
    rows = (block.astype(np.float32) for _, block in multiply_rows(to_user_NU, to_item_UN))
    kept = [block if config.num_neighbours is None else keep_top(block, config.num_neighbours) for block in rows]
    return sp.csr_array(sp.vstack(kept, format="csr"))
