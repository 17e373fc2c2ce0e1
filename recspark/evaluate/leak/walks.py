"""`walks`: nodes that were trained on, steps that follow edges of the very graph they say they were made from."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.inputs import check_ids, check_inputs, is_sampled
from recspark.evaluate.leak.report import Check, Finding
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.lake.arrow import TableAt, count_rows, stream_table

MAX_WALKS = 100_000
"""Walks whose steps are looked up, those of some start nodes."""
_BATCH_ROWS, _GRAPH_ROWS = 100_000, 20_000


def check_walks(tables: Mapping[str, TableAt], item_events: NDArray[np.int64]) -> list[Check]:
    """Checks `walks.inputs`, `walks.items` and `walks.edges`; ``item_events`` int64 [V]."""
    walks, graph = tables["walks"], tables["item_graph"]
    config: dict[str, Any] = walks.record.config["walks"]
    inputs = check_inputs("walks.inputs", walks, walks.record.inputs, tables, {"item_graph", "items"})
    steps, num_walks, items = _scan(walks, item_events, config["restart_probability"] > 0)
    return [inputs, items, _look_up(walks, graph, steps, num_walks, config["symmetrize"])]


def _scan(walks: TableAt, item_events: NDArray[np.int64], has_restarts: bool) -> tuple[NDArray[np.int64], int, Check]:
    """(distinct steps of the sampled walks as keys, number of these walks, whether all nodes have train events)."""
    finding = Finding("walks.items", walks, "each node of a walk has train events", "nodes")
    total, num_walks, steps = count_rows(walks), 0, [np.empty(0, np.int64)]
    for batch in stream_table(walks, [c.START_IDX, c.WALK], _BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        start, nodes = rows[c.START_IDX].to_numpy(), Ragged.from_arrow(rows[c.WALK])
        check_ids("walks", c.WALK, nodes.values, len(item_events))
        finding.look(item_events[nodes.values] == 0, _naming(nodes.values))
        kept = np.flatnonzero(is_sampled(start, total, MAX_WALKS))
        num_walks += len(kept)
        steps.append(_steps_of(nodes.take(kept), start[kept], has_restarts))
    return np.unique(np.concatenate(steps)), num_walks, finding.check()


def _naming(nodes: NDArray[np.int32]) -> Callable[[int], str]:
    return lambda place: f"item {nodes[place]}"


def _steps_of(walks: Ragged, start: NDArray[np.int32], has_restarts: bool) -> NDArray[np.int64]:
    """Keys of the walks' steps, without those that may be leaps back to the start."""
    rows = walks.row_of_value
    is_step = rows[1:] == rows[:-1]
    if has_restarts:
        is_step &= walks.values[1:] != start[rows[1:]]
    return np.unique(_key(walks.values[:-1][is_step], walks.values[1:][is_step]))


def _look_up(walks: TableAt, graph: TableAt, steps: NDArray[np.int64], num_walks: int, is_symmetric: bool) -> Check:
    """Whether each step is an edge of the graph, or the reverse of one where walks go both ways."""
    is_edge = np.zeros(len(steps), np.bool_)
    for batch in stream_table(graph, [c.SRC_IDX, c.DST_IDX], _GRAPH_ROWS):
        rows = pa.Table.from_batches([batch])
        out = Ragged.from_arrow(rows[c.DST_IDX])
        src = rows[c.SRC_IDX].to_numpy()[out.row_of_value]
        _mark(steps, _key(src, out.values), is_edge)
        if is_symmetric:
            _mark(steps, _key(out.values, src), is_edge)
    either = " or the reverse of one" if is_symmetric else ""
    promise = f"each step is an edge of item_graph at version {graph.version}{either}"
    finding = Finding("walks.edges", walks, promise, "distinct steps")
    finding.look(~is_edge, lambda p: f"{steps[p] >> 32} -> {steps[p] & 0xFFFFFFFF}")
    return finding.check(f"{num_walks:,} of {count_rows(walks):,} walks")


def _mark(steps: NDArray[np.int64], edges: NDArray[np.int64], is_edge: BoolArray) -> None:
    """Marks the steps (ascending) that are among the edges."""
    if len(steps):
        places = np.minimum(np.searchsorted(steps, edges), len(steps) - 1)
        is_edge[places[steps[places] == edges]] = True


def _key(src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.int64]:
    return (src.astype(np.int64) << 32) | dst.astype(np.int64)
