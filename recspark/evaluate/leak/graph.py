"""An item graph: its items were trained on, and the support of its edges is what train sessions or histories hold.

edge 4 -> 9 with count 3    train sessions with both items: 3   ->  nothing else was counted
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.histories import TrainParts
from recspark.evaluate.leak.inputs import BATCH_ROWS, check_ids, check_inputs, is_sampled
from recspark.evaluate.leak.kernel import count_support
from recspark.evaluate.leak.report import Check, Finding
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import TableAt, count_rows, stream_table

MAX_ROWS = 20_000
"""Rows whose edges are counted again."""
MAX_ROW_EDGES = 200
"""The best ones of each."""


@dataclass(frozen=True)
class Edges:
    """Some rows of a graph: edges of row r, which is item ``src[r]``'s, are ``ptr[r] .. ptr[r + 1] - 1``."""

    src: NDArray[np.int32]
    ptr: NDArray[np.int64]
    dst: NDArray[np.int32]
    counts: NDArray[np.int64]


def check_graph(name: str, tables: Mapping[str, TableAt], train: TrainParts) -> list[Check]:
    """Checks ``<name>.inputs``, ``.items`` and ``.count`` of `item_graph` or of a baseline's graph of its own."""
    graph = tables[name]
    stage = "graph" if name == "item_graph" else name
    config: dict[str, Any] = graph.record.config["graph"]
    source = "sessions" if config["group"] == "session" else "user_histories"
    inputs = check_inputs(f"{stage}.inputs", graph, graph.record.inputs, tables, {source, "items"})
    edges, items = _scan(stage, graph, train)
    return [inputs, items, _count_again(stage, graph, tables[source], edges, config, len(train.item_events))]


def _scan(stage: str, graph: TableAt, train: TrainParts) -> tuple[Edges, Check]:
    """(the sampled rows, whether all items of the graph have train events)."""
    finding = Finding(f"{stage}.items", graph, "both ends of each edge have train events", "edges")
    total, kept = count_rows(graph), []
    for batch in stream_table(graph, [c.SRC_IDX, c.DST_IDX, c.COUNT], BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        out, src = Ragged.from_arrow(rows[c.DST_IDX]), rows[c.SRC_IDX].to_numpy()
        owner = src[out.row_of_value]
        for column, ids in ((c.SRC_IDX, src), (c.DST_IDX, out.values)):
            check_ids("item_graph", column, ids, len(train.item_events))
        is_bad = (train.item_events[owner] == 0) | (train.item_events[out.values] == 0)
        finding.look(is_bad, _naming(owner, out.values, train.item_events))
        counts = Ragged.from_arrow(rows[c.COUNT])
        wanted = np.flatnonzero(is_sampled(src, total, MAX_ROWS))
        best = out.place_of_value < MAX_ROW_EDGES
        kept.append((src[wanted], out.where(best).take(wanted), counts.where(best).take(wanted)))
    lengths = np.concatenate([edges.lengths for _, edges, _ in kept] or [np.empty(0, np.int64)])
    return Edges(
        _join([src for src, _, _ in kept]),
        np.append(0, np.cumsum(lengths)).astype(np.int64),
        _join([edges.values for _, edges, _ in kept]),
        _join([counts.values for _, _, counts in kept]).astype(np.int64),
    ), finding.check()


def _naming(owner: NDArray[np.int32], other: NDArray[np.int32], events: NDArray[np.int64]) -> Callable[[int], str]:
    return lambda p: f"{owner[p]} -> {other[p]}, which have {events[owner[p]]:,} and {events[other[p]]:,} train events"


def _count_again(
    stage: str, graph: TableAt, source: TableAt, edges: Edges, config: dict[str, Any], num_items: int
) -> Check:
    """Whether `count` of the sampled edges is what the train parts hold; or no more where settings cut users."""
    is_exact = not config["max_user_events"] and (config["group"] == "user" or config["support"] == "unit")
    wanted = "just as many" if is_exact else "at least as many"
    unit = "sessions" if config["group"] == "session" else "histories"
    promise = f"{wanted} train {unit} hold both items of an edge as its count says"
    finding = Finding(f"{stage}.count", graph, promise, "edges")
    known = _support(source, edges, config, num_items)
    is_bad = (edges.counts != known) if is_exact else (edges.counts > known) | (edges.counts < 1)
    owner = np.repeat(edges.src, np.diff(edges.ptr))
    finding.look(is_bad, lambda p: f"{owner[p]} -> {edges.dst[p]}: count {edges.counts[p]:,}, found {known[p]:,}")
    cut = "" if is_exact else "a bound: graph.max_user_events or graph.support user count less than all sessions; "
    return finding.check(f"{cut}{len(edges.src):,} of {count_rows(graph):,} rows")


def _support(source: TableAt, edges: Edges, config: dict[str, Any], num_items: int) -> NDArray[np.int64]:
    """Units that hold both items of each edge, int64 [E]."""
    row_of = np.full(num_items, -1, np.int64)
    row_of[edges.src] = np.arange(len(edges.src))
    seen_in, seen_at = np.full((2, num_items), -1, np.int64)
    counted_in, counts = np.full(len(edges.dst), -1, np.int64), np.zeros(len(edges.dst), np.int64)
    max_items, num_units = config["max_session_items"], 0
    window = config["window"] or max_items
    for units in _train_units(source):
        count_support(
            units.offsets, units.values, max_items, window, row_of, edges.ptr, edges.dst, seen_in, seen_at, counted_in,
            num_units, counts,
        )  # fmt: skip
        num_units += len(units)
    return counts


def _train_units(source: TableAt) -> Iterator[Ragged]:
    """The items of train sessions, or of the train part of histories."""
    if source.name == "sessions":
        for batch in stream_table(source, [c.ITEM_IDX, c.SPLIT], BATCH_ROWS, where=pc.field(c.SPLIT) == c.TRAIN):
            yield Ragged.from_arrow(pa.Table.from_batches([batch])[c.ITEM_IDX])
        return
    for batch in stream_table(source, [c.ITEM_IDX, c.NUM_TRAIN], BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        events = Ragged.from_arrow(rows[c.ITEM_IDX])
        num_train = np.repeat(rows[c.NUM_TRAIN].to_numpy(), events.lengths)
        yield events.where(events.place_of_value < num_train)


def _join(arrays: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(arrays or [np.empty(0, np.int32)])
