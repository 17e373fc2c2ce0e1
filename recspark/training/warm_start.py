"""Starting from an earlier model: which of its rows, or which mean of them, each item of this run begins with.

    item of this run            its starting row
    known to the model          the model's own, in both tables, with the step sizes it had come to
    with known neighbours       the mean of its neighbours' in item_graph
    with a feature value        the mean over its values of the mean over the known items that share them
    none of these               as without a warm start

An item that `training.min_count` leaves out has no row to start with, so none in the result; others may start from it.

Step sizes belong to it: a row-wise Adagrad that forgot them would throw every vector far away with its first step.
A row depends on the item alone, so a start is the same for any number of ranks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.lake.arrow import TableAt, read_ids, read_table
from recspark.lake.feature_values import read_feature_values
from recspark.training.earlier_model import EarlierModel
from recspark.training.inputs import TrainInputs

KNOWN, FROM_NEIGHBOURS, FROM_CONTENT, FRESH = "known", "from_neighbours", "from_content", "fresh"
LEFT_OUT = "left_out"
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class StartRows:
    """Weights, csr float32 [V, earlier V], over an earlier model's rows; ``of_value`` [M, earlier V] and ``by_value``
    [V, M] for items that start from content. ``counts`` says how many items start from what.
    """

    model: EarlierModel
    weights: sp.csr_array
    by_value: sp.csr_array
    of_value: sp.csr_array
    counts: dict[str, int]

    def rows_of(
        self, ids: NDArray[np.int64], prefix: str = ""
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
        """(places in ``ids`` that have a starting row, those rows of each array by its name in a backend's state).

        Only of arrays whose name begins with ``prefix``.
        """
        places = np.flatnonzero((_has_entry(self.weights) | _has_entry(self.by_value))[ids])
        weights, by_value = self.weights[ids[places]], self.by_value[ids[places]]
        own, of_value = self.model.weigh(weights, prefix), self.model.weigh(self.of_value, prefix)
        return places, {name: np.asarray(rows + by_value @ of_value[name], np.float32) for name, rows in own.items()}

    def to_facts(self) -> dict[str, Any]:
        """What the model's manifest says of its start."""
        return {"model_id": self.model.model_id, **self.counts}


def plan_start(
    model: EarlierModel, inputs: TrainInputs, features: tuple[str, ...] = (), min_count: int = 1
) -> StartRows:
    """Where each item of the run starts; ``inputs.item_graph`` is None where neighbours do not count.

    Items below ``min_count`` train events are left out; of 1, those that have none so far stay.

    Raises: TrainingError when the earlier model knows none of the items.
    """
    row = model.find_rows(read_ids(inputs.items, c.ITEM_IDX, c.ITEM_ID))
    shape = (len(row), model.num_rows)
    is_kept = (inputs.num_events >= min_count) | (min_count == 1)
    known = np.flatnonzero((row >= 0) & is_kept)
    weights = _means((known, row[known]), shape)
    if inputs.item_graph is not None and len(known) < len(row):
        src, dst = _read_edges(inputs.item_graph)
        tells = is_kept[src] & (row[src] < 0) & (row[dst] >= 0)
        weights = weights + _means((src[tells], row[dst[tells]]), shape)
    has_row = _has_entry(weights)
    item, value, num_values = read_feature_values(inputs.items, features if not has_row.all() else ())
    is_known = row[item] >= 0
    of_value = _means((value[is_known], row[item[is_known]]), (num_values, model.num_rows))
    asks = (is_kept & ~has_row)[item] & _has_entry(of_value)[value]
    by_value = _means((item[asks], value[asks]), (len(row), num_values))
    counts = {
        KNOWN: len(known),
        FROM_NEIGHBOURS: int(has_row.sum()) - len(known),
        FROM_CONTENT: int(_has_entry(by_value).sum()),
        FRESH: int((is_kept & ~has_row & ~_has_entry(by_value)).sum()),
        LEFT_OUT: int((~is_kept).sum()),
    }
    return StartRows(model, weights, by_value, of_value, counts)


def _means(entries: Pairs, shape: tuple[int, int]) -> sp.csr_array:
    """Rows that are means over the columns named: 1 / n at each of a row's n entries, repeats counted once."""
    rows, columns = entries
    matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    lengths = np.diff(matrix.indptr)
    matrix.data = np.repeat((1 / np.maximum(lengths, 1)).astype(np.float32), lengths)
    return matrix


def _has_entry(matrix: sp.csr_array) -> NDArray[np.bool_]:
    return np.asarray(np.diff(matrix.indptr) > 0)


def _read_edges(item_graph: TableAt) -> Pairs:
    """(src, dst) of every edge."""
    found = read_table(item_graph, [c.SRC_IDX, c.DST_IDX])
    lengths = pc.list_value_length(found[c.DST_IDX]).to_numpy()
    src = np.repeat(found[c.SRC_IDX].to_numpy().astype(np.int64), lengths)
    return src, pc.list_flatten(found[c.DST_IDX]).to_numpy().astype(np.int64)
