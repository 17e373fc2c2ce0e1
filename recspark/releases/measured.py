"""What a release is judged by, measured once when it is made and kept in its manifest: see `recspark.releases.gates`.

{"recall_at_10": .98, "without_vector": .02, "head_share": .1, "k": 50,
 "evaluated": {"split": "test", "history": "train+valid", "mask_seen": true, "search": "exact", "k": 50},
 "metrics": {"skip_gram": {"recall@20": .27, ...}, "popularity": {...}}, "trained": "skip_gram"}
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.commits import CommitRecord
from recspark.index.search import ShardedIndex
from recspark.lake.arrow import TableAt, read_table, stream_table

_COMPARED = ("split", "history", "mask_seen", "search", "k")
"""Facts of an evaluation that have to agree before its metrics are compared with another's."""
_ROWS = 50_000


def measure_index(index: ShardedIndex, items: TableAt | None) -> dict[str, Any]:
    """Recall as the build measured it, and the share of the active catalogue that the index does not hold."""
    facts: dict[str, Any] = {"recall_at_10": index.facts["recall_at_10"]}
    if items is None:
        return facts
    found = read_table(items, [c.ITEM_IDX, c.ACTIVE])
    active = found[c.ITEM_IDX].filter(pc.fill_null(found[c.ACTIVE], True)).to_numpy()
    missing = ~np.isin(active, index.item_ids.item_idx)
    return facts | {"catalogue": len(active), "without_vector": float(missing.mean()) if len(active) else 0.0}


def measure_lists(evaluation: CommitRecord, lists: TableAt, items: TableAt, head_items: float) -> dict[str, Any]:
    """What an evaluation found, and the share of its lists' places that the head of the catalogue takes.

    ``lists`` is `recommendations` at the version of the evaluation, ``evaluation`` the record of its marker.
    """
    facts = evaluation.facts
    model_id = facts["model_ids"][facts["trained"]]
    return {
        "metrics": facts["metrics"],
        "trained": facts["trained"],
        "k": facts["k"],
        "evaluated": {name: facts[name] for name in _COMPARED},
        "head_items": head_items,
        "head_share": measure_head_share(lists, model_id, find_head(items, head_items)),
    }


def find_head(items: TableAt, share: float) -> pa.Array:
    """Ids of the ``share`` of items with train events that have most of them, one at least; ties by smaller idx."""
    found = read_table(items, [c.ITEM_IDX, c.ITEM_ID, c.NUM_EVENTS]).sort_by(c.ITEM_IDX)
    num_events: NDArray[np.int64] = found[c.NUM_EVENTS].to_numpy()
    num_head = max(round(share * int((num_events > 0).sum())), 1)
    rows = np.argsort(-num_events, kind="stable")[:num_head]
    return found[c.ITEM_ID].take(pa.array(rows)).combine_chunks()


def measure_head_share(lists: TableAt, model_id: str, head: pa.Array) -> float:
    """Share of all places in a model's evaluated lists that hold an item of the head; 0 without lists."""
    places = of_head = 0
    where = (pc.field(c.PURPOSE) == "test") & (pc.field(c.MODEL_ID) == model_id)
    for batch in stream_table(lists, [c.ITEM_IDS], _ROWS, where):
        listed = pc.list_flatten(batch.column(0))
        places += len(listed)
        of_head += pc.sum(pc.is_in(listed, value_set=head)).as_py() or 0
    return of_head / max(places, 1)
