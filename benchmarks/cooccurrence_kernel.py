"""`cooccurrence_kernel`: sessions in memory to each item's top 50, one core, against scipy's `X.T @ X` and a top 50.

Both count sessions (no weights: scipy would need a second product for the supports), score by cosine in float64, round
to float32 and order by (score, item), so that the rows must be equal. Neither reads or writes a table.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.graph_rows import GraphRows, compare_rows, rows_from_sizes
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs, timed
from benchmarks.scipy_cooccurrence import build_rows as build_scipy_rows
from benchmarks.session_data import SessionData, make_sessions
from recspark.config.graph import GraphConfig
from recspark.graph import kernel, top_n
from recspark.graph.pairs import pair_weights
from recspark.graph.scores import score_rule
from recspark.graph.units import NO_USERS, NO_WEIGHTS

CONFIG = GraphConfig(score="cosine", length_power=0, num_neighbours=50)
_IN_ORDER = np.empty(0, np.int64)


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each size."""
    sizes = [(50_000, 10_000)] if quick else [(300_000, 50_000), (900_000, 50_000)]
    build_rows(make_sessions(100, 50))  # compiles
    for num_sessions, num_items in sizes:
        yield compare(make_sessions(num_sessions, num_items), 3 if quick else 5, command)


def compare(data: SessionData, runs: int, command: str) -> dict[str, Any]:
    """One line; the rows of both sides are equal.

    Raises: BenchmarkError when they are not.
    """
    found: dict[str, GraphRows] = {}
    parts: dict[str, float] = {}

    def run_project() -> Timing:
        with timed() as timing:
            found["project"] = build_rows(data)
        return timing

    def run_peer() -> Timing:
        with timed() as timing:
            found["peer"], seconds = build_scipy_rows(data.indptr, data.items, data.num_items, _limit())
        parts.update(seconds)
        return timing

    paired = run_pairs(run_peer, run_project, runs)
    return speed_line(
        "cooccurrence_kernel",
        "scipy X.T @ X and top 50",
        paired,
        data.work() | {"num_neighbours": _limit(), "score": CONFIG.score, "cores": 1},
        find_versions("numpy", "numba", "scipy"),
        command,
        compared=compare_rows(found["project"], found["peer"]),
        peer_seconds=parts,
    )


def build_rows(data: SessionData, config: GraphConfig = CONFIG) -> GraphRows:
    """The project's kernels in the order in which its Spark tasks call them, all items in one block."""
    slots = np.full(data.num_items, -1, np.int32)
    indptr, items, item_weights, distinct = kernel.prepare_units(
        data.indptr, data.items, NO_WEIGHTS, False, False, config.max_session_items, slots
    )
    unit_counts, costs = np.zeros(data.num_items, np.int64), np.zeros(data.num_items, np.int64)
    kernel.count_units(indptr, items, distinct, slots, unit_counts, costs)
    weights = pair_weights(config, data.num_sessions, int(np.diff(indptr).max()), 1.0, 0)
    units = kernel.Units(indptr, items, item_weights, weights.of_units(distinct, None), NO_USERS)
    everything = np.arange(data.num_items, dtype=np.int32)
    ptr, posting = kernel.build_postings(indptr, items, _IN_ORDER, everything, data.num_items)
    rule = score_rule(config, unit_counts, data.num_sessions)
    row = kernel.new_accumulator(data.num_items, weights.rule.mode, by_user=False)
    rows = top_n.new_rows(data.num_items, data.num_items * rule.limit)
    top_n.build_rows(0, everything, ptr, posting, units, weights.rule, rule, row, rows)
    return rows_from_sizes(rows.sizes, rows.dst, rows.scores, rows.counts)


def _limit() -> int:
    assert CONFIG.num_neighbours is not None
    return CONFIG.num_neighbours
