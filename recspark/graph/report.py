"""What a graph is refused for, the line that says what it will take, and what its commit counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.graph.blocks import MB, NUM_SHOWN, BlockPlan, UnitStats
from recspark.lake.arrow import TableAt, open_table, stream_table
from recspark.logs import log

_USER_ROWS = 1 << 18
"""Of the users, that are looked at together."""


def check_stats(stats: UnitStats, config: GraphConfig) -> None:
    """Checks that there is something to connect.

    Raises: DataError without any pair, or with event weights that cannot be summed.
    """
    check_weights(stats)
    if stats.num_pairs == 0:
        other = "; try graph.group: user" if config.group == "session" else ""
        raise DataError(
            f"item_graph would be empty: none of the {stats.num_units:,} train {config.group}s holds two different "
            f"items ({stats.num_events:,} events){other}, a longer sessions.gap_seconds, a lower "
            "vocabulary.min_item_events, or a later split.cut"
        )


def check_weights(stats: UnitStats) -> None:
    """Raises: DataError with event weights that cannot be summed."""
    if stats.bad_weights:
        raise DataError(
            f"graph.use_event_weights: {stats.bad_weights:,} of {stats.num_events:,} train events have a weight that "
            "is negative or not a number; drop them by a rule, mend the weight column, or turn use_event_weights off"
        )


def check_edges(counts: dict[str, Any], config: GraphConfig) -> None:
    """Checks that pruning left an edge.

    Raises: DataError when it did not, with the settings that prune.
    """
    if counts["num_edges"] == 0:
        raise DataError(
            f"item_graph would be empty: {counts['num_pairs']:,} pairs in {counts['num_units']:,} {config.group}s, but "
            f"none passes graph.min_support {config.min_support}, graph.window {config.window}, event weights and "
            f"graph.score {config.score} above 0; lower min_support, widen the window or take another score"
        )


def count_graph(edges: DataFrame, stats: UnitStats) -> dict[str, Any]:
    """Counts for the commit; computes the edges. The record of a commit is written with it, so counts come first."""
    found = edges.agg(F.count("*").alias("rows"), F.sum(F.size(c.DST_IDX)).alias("edges")).first()
    assert found is not None
    return {
        "num_units": stats.num_units,
        "num_events": stats.num_events,
        "num_items": int(np.count_nonzero(stats.unit_counts)),
        "num_pairs": stats.num_pairs,
        "pair_cost": stats.pair_cost,
        "capped_units": stats.capped_units,
        "capped_events": stats.capped_events,
        "capped_users": stats.capped_users,
        "capped_user_events": stats.capped_user_events,
        "num_rows": int(found["rows"]),
        "num_edges": int(found["edges"] or 0),
    }


def log_plan(stage: str, stats: UnitStats, blocks: BlockPlan, biggest_users: str) -> None:
    """Says what the work will take before it starts."""
    biggest = np.argsort(-stats.unit_counts, kind="stable")[:NUM_SHOWN]
    shown = [f"item {i} in {stats.unit_counts[i] / stats.num_units:.1%}" for i in biggest if stats.unit_counts[i]]
    log(
        stage,
        "plan",
        num_units=stats.num_units,
        pair_cost=stats.pair_cost,
        num_blocks=blocks.num_blocks,
        hot_items=len(blocks.hot_items),
        biggest_items="; ".join(shown),
        biggest_units="; ".join(f"{n:,} events" for n in stats.largest),
        biggest_users=biggest_users,
        longest_unit=stats.longest,
        capped_units=stats.capped_units,
        capped_events=stats.capped_events,
        capped_users=stats.capped_users,
        capped_user_events=stats.capped_user_events,
        shuffle_mb=round(blocks.shuffle_bytes / MB, 1),
        task_mb=round(blocks.task_bytes / MB, 1),
    )


def show_biggest_users(source: TableAt) -> str:
    """The users with most train events, for the plan; empty unless ``source`` is a table of the sessions stage.

    Read without Spark, for which a table that it has not opened before takes two jobs.
    """
    version = source.record.tables.get("users")
    if version is None:
        return ""
    users = replace(source, name="users", version=version)
    found: list[tuple[int, int]] = []
    for rows in stream_table(users, [c.USER_IDX, c.NUM_EVENTS], _USER_ROWS, pc.field(c.NUM_EVENTS) >= _least(users)):
        events, idx = rows.column(c.NUM_EVENTS).to_numpy(), rows.column(c.USER_IDX).to_numpy()
        first = np.lexsort((idx, -events))[:NUM_SHOWN]
        found = sorted([*found, *zip((-events[first]).tolist(), idx[first].tolist(), strict=True)])[:NUM_SHOWN]
    return "; ".join(f"user {user}: {-events:,} events" for events, user in found)


def _least(users: TableAt) -> int:
    """The users shown have at least so many events: each file's most is some user's. Files with less are not read."""
    files = pa.table(open_table(users.lake, users.name, users.version).get_add_actions(flatten=True))
    most = files[f"max.{c.NUM_EVENTS}"].drop_null().to_pylist() if f"max.{c.NUM_EVENTS}" in files.column_names else []
    return int(sorted(most, reverse=True)[NUM_SHOWN - 1]) if len(most) >= NUM_SHOWN else 0
