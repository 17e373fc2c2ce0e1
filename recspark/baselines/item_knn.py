"""Item kNN: a candidate's score is the sum of the graph's scores (item -> candidate) over a history's distinct items,
each times its weight.

history {a, b}, item_graph a -> c .5, b -> c .25, b -> d .4     scores c .75, d .4
history [a, b], the last one weighing 1, the other .5           scores c .5, d .4
"""

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from recspark.contracts import columns as c
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.evaluate.top_k import FloatArray, Ranked, rank_all


def build_score_matrix(item_graph: pa.Table, num_items: int) -> sp.csr_array:
    """Scores [N, N] of an item_graph: row = item of the history, column = candidate."""
    neighbours = Ragged.from_arrow(item_graph[c.DST_IDX])
    scores = item_graph[c.SCORE].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = item_graph[c.SRC_IDX].to_numpy()[neighbours.row_of_value]
    return sp.csr_array((scores.astype(np.float32), (rows, neighbours.values)), shape=(num_items, num_items))


def rank_by_neighbours(
    scores_NN: sp.csr_array, history: Ragged, masked: Ragged, k: int, candidates: BoolArray | None = None,
    history_weights: HistoryWeights = ALL_ALIKE,
) -> Ranked:  # fmt: skip
    """Each user's k best candidates; what no history item points to scores 0, and there the smaller item_idx is first.

    As item_idx runs from popular to rare, lists are thereby filled up with the most popular items. Items of a history
    that point nowhere take no place in it.
    """
    num_items = scores_NN.shape[0]
    points_somewhere = np.diff(scores_NN.indptr) > 0
    counted, weights = history_weights.weigh_distinct(history.where(points_somewhere[history.values]))
    weights = weights.astype(np.float32)

    def score_block(start: int, stop: int) -> FloatArray:
        block, first = counted.block(start, stop), counted.offsets[start]
        values = weights[first : first + len(block.values)]
        history_BN = sp.csr_array((values, block.values, block.offsets), shape=(stop - start, num_items))
        return np.asarray((history_BN @ scores_NN).toarray(), dtype=np.float32)

    return rank_all(score_block, masked, num_items, k, candidates)
