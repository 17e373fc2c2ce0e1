"""``python -m benchmarks.on_paper``: what the chain needs at a size that no machine here holds, by the measured rates.

Reads `growth_spark`'s lines of the largest size and prints the table of ARCHITECTURE.md, "On paper". Sessions are taken
to be as long as in the measured events, so pairs grow as events do; the graph and the walks grow as items do.
"""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.places import RESULTS
from recspark.walks.plan import BUILD_BYTES_PER_EDGE, ROUND_SECONDS, STEPS_PER_SECOND

NUM_NEIGHBOURS, NUM_WALKS, WALK_LENGTH, CHUNK_TOKENS = 50, 10, 20, 200_000_000
"""The defaults of graph and walks."""
PAIR_BYTES = 4
"""Of an item in a packed session; a session of l items is sent at most l times, so at most 4 l^2 bytes."""
EDGE_BYTES = 12
"""src is shared: dst, score and count."""


@dataclass(frozen=True)
class Target:
    """The size in question and the cluster it is for."""

    events: int = 10_000_000_000
    users: int = 500_000_000
    items: int = 50_000_000
    executors: int = 100
    cores_each: int = 4

    @property
    def cores(self) -> int:
        """Of all executors."""
        return self.executors * self.cores_each


def read_largest() -> dict[str, dict[str, Any]]:
    """By stage, `growth_spark`'s newest line of the largest size."""
    lines = [json.loads(line) for line in (RESULTS / "growth_spark.jsonl").read_text().splitlines()]
    most = max(line["work"]["events"] for line in lines)
    return {line["work"]["stage"]: line for line in lines if line["work"]["events"] == most}


def plan(measured: dict[str, dict[str, Any]], target: Target) -> list[dict[str, Any]]:
    """A row a stage: cpu-seconds, bytes shuffled and written."""
    events = measured["ingest"]["work"]["events"]
    scale = target.events / events
    rows = []
    for stage in ("ingest", "sessions", "graph"):
        line = measured[stage]
        rows.append({
            "stage": stage, "cpu": line["stage_seconds"]["cpu"] * scale, "shuffle": line["shuffle_mb"] * 1e6 * scale,
            "output": line["output_mb"] * 1e6 * scale,
        })  # fmt: skip
    # Many blocks: every session goes to a block for each of its items.
    rows[-1]["shuffle"] = measured["graph"]["commit_counts"]["pair_cost"] * PAIR_BYTES * scale
    rows[-1]["output"] = target.items * NUM_NEIGHBOURS * EDGE_BYTES
    return [*rows, plan_walks(target)]


def plan_walks(target: Target) -> dict[str, Any]:
    """The walks' row: in shards, by the plan's own rate, each step's walker moved once."""
    tokens = target.items * NUM_WALKS * WALK_LENGTH
    return {"stage": "walks", "cpu": tokens / STEPS_PER_SECOND["sharded", False], "shuffle": 0.0, "output": 4 * tokens}


def graph_bytes(target: Target) -> int:
    """What one machine would hold while it builds the graph to walk on, both directions of each edge."""
    return target.items * NUM_NEIGHBOURS * 2 * BUILD_BYTES_PER_EDGE


def rounds_seconds(target: Target) -> float:
    """What the rounds of sharded walks cost besides."""
    return target.items * NUM_WALKS * WALK_LENGTH / CHUNK_TOKENS * (WALK_LENGTH - 1) * ROUND_SECONDS


def main() -> None:
    """Prints the table."""
    target = Target()
    print(f"{target.events:,} events, {target.users:,} users, {target.items:,} items; {target.cores} cores\n")
    print("| stage | core-hours | on all cores | shuffled | written |")
    print("|---|---|---|---|---|")
    for row in plan(read_largest(), target):
        hours, minutes = row["cpu"] / 3600, row["cpu"] / target.cores / 60
        bytes_moved = [f"{row[what] / 1e9:,.0f} GB" for what in ("shuffle", "output")]
        print("| " + " | ".join([row["stage"], f"{hours:,.0f}", f"{minutes:,.0f} min", *bytes_moved]) + " |")
    print(f"\ngraph to walk on: {graph_bytes(target) / 1e9:,.0f} GB to build on one machine; "
          f"rounds of sharded walks: {rounds_seconds(target) / 60:,.0f} min")  # fmt: skip


if __name__ == "__main__":
    main()
