"""Vectors of users by a model's own user tower, from the train histories that the audit has read itself."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.user_tower_file import read_user_tower
from recspark.lake.arrow import TableAt, read_table


def encode_again(
    vectors: TableAt, histories: Ragged, users: NDArray[np.int32], context: HistoryContext = NO_CONTEXT
) -> NDArray[np.float32]:
    """[n, D] of histories of item_idx, one row a user; ``context`` has what the tower reads of events beside items."""
    model_id = vectors.record.key[:12]
    own = [(c.MODEL_ID, "=", model_id)]
    rows = read_table(vectors, [c.IDX, c.VECTOR, c.QUERY_VECTOR], own).sort_by(c.IDX)
    idx = rows[c.IDX].to_numpy()
    tokens = pc.coalesce(rows[c.QUERY_VECTOR], rows[c.VECTOR]).combine_chunks()
    tokens_MD = tokens.flatten().to_numpy(zero_copy_only=False).reshape(len(idx), -1)
    row_of = np.full(max(int(idx.max()), int(histories.values.max(initial=0))) + 1, -1, np.int64)
    row_of[idx] = np.arange(len(idx))
    is_known = row_of[histories.values] >= 0
    known = histories.where(is_known)
    places = Ragged(known.offsets, row_of[known.values].astype(np.int32))
    tower = read_user_tower(vectors.lake, model_id)
    return tower.encode(tokens_MD, places, users, context.pick(is_known).at(tower.spec.until_us, len(histories)))
