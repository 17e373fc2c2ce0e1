"""What an evaluation reads from the lake, and the rows of `recommendations` it writes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.tables import RECOMMENDATIONS
from recspark.evaluate.lists import Ranked
from recspark.evaluate.ragged import IntArray
from recspark.lake.arrow import TableAt, read_table


def read_num_events(items: TableAt) -> NDArray[np.int64]:
    """Train events of each item [N], by item_idx."""
    found = read_table(items, [c.ITEM_IDX, c.NUM_EVENTS])
    num_events = np.zeros(found.num_rows, dtype=np.int64)
    num_events[found[c.ITEM_IDX].to_numpy()] = found[c.NUM_EVENTS].to_numpy()
    return num_events


def to_recommendations(
    purpose: str, model_id: str, user_ids: pa.ChunkedArray, item_ids: pa.ChunkedArray, ranked: Ranked
) -> pa.Table:
    """Rows of `recommendations`: one a user, in row order of ``ranked``; ``item_ids`` is by item_idx."""
    listed = ranked.ids >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(listed.sum(axis=1))]).astype(np.int32))
    ids = take_ids(item_ids, ranked.ids[listed]).combine_chunks()
    columns = {
        c.PURPOSE: pa.repeat(purpose, len(user_ids)),
        c.MODEL_ID: pa.repeat(model_id, len(user_ids)),
        c.USER_ID: user_ids,
        c.ITEM_IDS: pa.ListArray.from_arrays(offsets, ids),
        c.SCORES: pa.ListArray.from_arrays(offsets, pa.array(ranked.scores[listed])),
    }
    return pa.table(columns).cast(RECOMMENDATIONS.schema)


def take_ids(ids: pa.ChunkedArray, idx: IntArray) -> pa.ChunkedArray:
    """The outside ids of dense ids."""
    return pc.take(ids, pa.array(idx))
