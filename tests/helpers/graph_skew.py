"""Graphs of skewed sessions under a small heap, each against scipy; run as a program, with a JVM of its own.

Prints one JSON line a case: what the job counted, rows that differ from scipy's, and the peak anonymous memory of a
Python worker (RssAnon, sampled; an address-space limit would count mapped files), above that of an idle one.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from recspark.config import RunConfig, plan_run
from recspark.config.graph import GraphConfig
from recspark.graph.cooccurrence import build_edges, count_units, plan_graph, plan_work, session_units
from recspark.graph.pairs import unit_shape
from recspark.graph.warm_up import compile_kernels
from tests.helpers.graph_oracle import rows_of

NUM_ITEMS = 20_000
TASK_MEMORY_MB = 128
HEAP = "512m"
PLAIN = {"length_power": 0, "num_neighbours": 50, "task_memory_mb": TASK_MEMORY_MB}
MILLION = 1_000_000


@dataclass
class Sessions:
    """Items of all sessions one after the other, their ends, and the user of each; a user's are in order of time."""

    items: np.ndarray
    ends: np.ndarray
    users: np.ndarray

    def to_table(self) -> pa.Table:
        """Rows as in the table `sessions`, as far as the graph reads them."""
        offsets = pa.array(np.concatenate([[0], self.ends]).astype(np.int32))
        number = np.arange(len(self.ends))
        times = pa.array(number * 1_000_000, pa.timestamp("us", tz="UTC"))
        return pa.table(
            {
                "session_id": pa.array([f"{n:09d}" for n in number]),
                "user_idx": pa.array(self.users.astype(np.int32)),
                "start_ts": times,
                "end_ts": times,
                "item_idx": pa.ListArray.from_arrays(offsets, pa.array(self.items.astype(np.int32))),
                "weight": pa.ListArray.from_arrays(offsets, pa.array(np.ones(len(self.items), np.float32))),
                "split": pa.array(["train"] * len(self.ends)),
            }
        )


def ordinary(random: np.random.Generator, num_sessions: int) -> Sessions:
    """Short sessions over a long tail of items, one a user."""
    lengths = random.integers(2, 8, num_sessions)
    share = 1 / np.arange(20, NUM_ITEMS + 20)
    items = random.choice(NUM_ITEMS, int(lengths.sum()), p=share / share.sum())
    return Sessions(items, np.cumsum(lengths), np.arange(num_sessions) + 1)


def one_item_in_most() -> Sessions:
    """Item 7 opens 60 % of the sessions."""
    random = np.random.default_rng(1)
    sessions = ordinary(random, 100_000)
    starts = np.concatenate([[0], sessions.ends[:-1]])
    sessions.items[starts[random.random(len(starts)) < 0.6]] = 7
    return sessions


def one_session_of_a_million() -> Sessions:
    """After 20,000 ordinary sessions, one of a million events."""
    random = np.random.default_rng(2)
    sessions = ordinary(random, 20_000)
    sessions.items = np.concatenate([sessions.items, random.integers(0, NUM_ITEMS, MILLION)])
    sessions.ends = np.append(sessions.ends, sessions.ends[-1] + MILLION)
    sessions.users = np.append(sessions.users, 0)
    return sessions


def one_user_of_a_million() -> Sessions:
    """After 20,000 ordinary sessions, 100,000 of ten events each, all of user 0."""
    random = np.random.default_rng(3)
    sessions = ordinary(random, 20_000)
    sessions.items = np.concatenate([sessions.items, random.integers(0, NUM_ITEMS, MILLION)])
    sessions.ends = np.concatenate([sessions.ends, sessions.ends[-1] + 10 * (1 + np.arange(100_000))])
    sessions.users = np.concatenate([sessions.users, np.zeros(100_000, int)])
    return sessions


CASES = {
    "hot_item": (one_item_in_most, {}),
    "hot_item_in_blocks": (one_item_in_most, {"num_blocks": 8}),
    "long_session": (one_session_of_a_million, {}),
    "busy_user": (one_user_of_a_million, {"support": "user"}),
    "busy_user_capped": (one_user_of_a_million, {"max_user_events": 5_000}),
}


def expected_rows(sessions: Sessions, config: GraphConfig) -> dict[int, list[tuple[int, float, int]]]:
    """Rows by X.T @ X over what the caps leave: the newest events of each unit, then of each user."""
    starts = np.concatenate([[0], sessions.ends[:-1]])
    if config.max_user_events:
        left = config.max_user_events
        for n in np.flatnonzero(sessions.users == 0)[::-1]:
            starts[n] = max(starts[n], sessions.ends[n] - left)
            left -= sessions.ends[n] - starts[n]
    starts = np.maximum(starts, sessions.ends - config.max_session_items)
    lengths = sessions.ends - starts
    kept = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    unit = np.repeat(np.arange(len(lengths)), lengths)
    X = sp.csr_matrix((np.ones(len(kept)), (unit, sessions.items[kept])), shape=(len(lengths), NUM_ITEMS))
    X.data[:] = 1
    sums, holders = (X.T @ X).tocsr(), np.asarray(X.sum(axis=0)).ravel()
    supports = sums.copy()
    if config.support == "user":  # all pairs of user 0 count once
        own, others = X[sessions.users == 0], X[sessions.users != 0]
        once = (own.T @ own).tocsr()
        once.data[:] = 1
        supports = (others.T @ others + once).tocsr()
    powers = np.zeros(NUM_ITEMS)
    np.power(holders, -0.5, out=powers, where=holders > 0)
    sums.sort_indices()
    supports.sort_indices()
    return {i: row for i in range(NUM_ITEMS) if (row := _best(i, sums, supports, powers, config.num_neighbours))}


def _best(i: int, sums: sp.csr_matrix, supports: sp.csr_matrix, powers: np.ndarray, limit: int) -> list:
    span = slice(sums.indptr[i], sums.indptr[i + 1])
    dst, weights, counts = sums.indices[span], sums.data[span], supports.data[span]
    scores = (weights * (powers[i] * powers[dst])).astype(np.float32)
    order = np.lexsort((dst, -scores))
    return [(int(dst[n]), float(scores[n]), int(counts[n])) for n in order if dst[n] != i][:limit]


@dataclass
class WorkerMemory:
    """Peak RssAnon (bytes) of the Python processes below this one, sampled while a block runs."""

    peak: int = 0
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "WorkerMemory":
        self.peak = 0
        self._is_over.clear()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(0.02):
            self.peak = max([self.peak, *_anonymous_bytes(os.getpid())])


def _anonymous_bytes(root: int) -> Iterator[int]:
    parents, found = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # ended meanwhile
            continue
        values = dict(line.split(":", 1) for line in lines)
        pid = int(folder.name)
        parents[pid] = int(values["PPid"])
        if values["Name"].strip().startswith("python") and "RssAnon" in values:
            found[pid] = int(values["RssAnon"].split()[0]) * 1024
    for pid, size in found.items():
        above = parents.get(pid, 0)
        while above not in (0, root):
            above = parents.get(above, 0)
        if above == root:
            yield size


def run_case(spark, path: str, config: GraphConfig):  # type: ignore[no-untyped-def]
    """(rows, stats, plan) of the graph of one Parquet file of sessions."""
    shape = unit_shape(config)
    units = session_units(spark.read.parquet(path), shape, config.max_user_events)
    stats = count_units(units, shape, NUM_ITEMS)
    plan = plan_graph(units, stats, config, plan_work(units, stats, config))
    return rows_of(build_edges(units, plan).toArrow()), stats, plan


def main(folder: str, *names: str) -> None:
    """Runs the named cases in one Spark of a small heap."""
    from recspark.lake.spark import build_spark

    values = {
        "split": {"kind": "time", "cut": "2026-01-01"},
        "spark": {"master": "local[2]", "driver_memory": HEAP, "conf": {"spark.sql.shuffle.partitions": "4"}},
    }
    compile_kernels()
    spark = build_spark(plan_run(RunConfig.model_validate(values), {"fingerprint": "tests"}))
    memory, path = WorkerMemory(), f"{folder}/sessions.parquet"
    pq.write_table(ordinary(np.random.default_rng(4), 100).to_table(), path)
    with memory:
        run_case(spark, path, GraphConfig.model_validate(PLAIN))
    idle = memory.peak
    for name in names:
        build, settings = CASES[name]
        config, sessions = GraphConfig.model_validate(PLAIN | settings), build()
        pq.write_table(sessions.to_table(), path)
        started = time.monotonic()
        with memory:
            found, stats, plan = run_case(spark, path, config)
        seconds = time.monotonic() - started
        expected = expected_rows(sessions, config)
        wrong = [i for i in expected.keys() | found.keys() if found.get(i) != expected.get(i)]
        line = {"case": name, "rows": len(found), "wrong": len(wrong), "hot_items": plan.blocks.hot_items.tolist()}
        line |= {n: getattr(stats, n) for n in ("capped_events", "capped_user_events", "capped_users", "num_events")}
        line |= {"extra_mb": (memory.peak - idle) >> 20, "idle_mb": idle >> 20, "seconds": round(seconds, 1)}
        print(json.dumps(line), flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
