"""`graph.incremental`: sessions at a version, and the sums of an earlier one -> `item_pair_sums`, `item_graph`.

A *lineage* is what the sums are of: the source's settings and the graph's, whatever state the source was in. Its newest
commit says which sessions it holds, a digest a day; days that differ now are taken away as they were then and added as
they are. Sums are kept where item ids still mean the same items; otherwise, or where most days differ, all is built
anew.
"""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.contracts.commits import CommitRecord
from recspark.contracts.stages import PlannedStage
from recspark.contracts.tables import ITEM_PAIR_SUMS
from recspark.errors import LakeError
from recspark.faults import fault_point
from recspark.graph import daily
from recspark.graph.blocks import UnitStats
from recspark.graph.cooccurrence import BuiltGraph, count_units, plan_work, session_units
from recspark.graph.kernel import PairRule
from recspark.graph.pair_sums import ScorePlan
from recspark.graph.pairs import pair_weights, unit_shape
from recspark.graph.report import check_stats, check_weights, log_plan, show_biggest_users
from recspark.graph.scores import score_rule
from recspark.lake.arrow import TableAt, list_records, open_table
from recspark.lake.locks import stage_lock
from recspark.lake.spark import merge_table, read_table, write_table
from recspark.logs import log

SUMS = ITEM_PAIR_SUMS.name
_ADDED = ("num_units", "num_events", "num_pairs", "pair_cost", "capped_units", "capped_events")
_LARGEST = ("longest", "max_item_weight")


@dataclass(frozen=True)
class Change:
    """Days whose sessions are to be added and taken away; ``state`` is what they are taken from, None for nothing."""

    state: TableAt | None
    added: list[str]
    removed: list[str]


class DailyBuild:
    """One update of a lineage."""

    def __init__(self, spark: SparkSession, run: Run, stage: str, config: GraphConfig, num_items: int) -> None:
        self._spark, self._run, self._stage, self._config = spark, run, stage, config
        self._num_items = num_items
        self._lineage = find_lineage(run, stage)

    def build(self, sessions: TableAt, items: TableAt) -> BuiltGraph:
        """Brings the sums to these sessions, commits them, and scores what may have changed.

        Raises: DataError when a task cannot stay within ``graph.task_memory_mb``, or sums could overflow.
        """
        with stage_lock(self._run.lake, self._as_stage()):
            digests = daily.digest_days(read_table(self._spark, sessions), self._config.use_event_weights)
            change = find_change(self._find_state(items), digests)
            changed, totals = self._sum_days(change, sessions)
            changed.persist(StorageLevel.MEMORY_AND_DISK)
            record = self._run.record(
                self._stage,
                is_marker=False,
                inputs={sessions.name: sessions.version, items.name: items.version},
                facts={"lineage": self._lineage, "days": digests, "totals": totals},
            )
            version = self._write_sums(changed, change, record)
        fault_point(f"{self._stage}.between_tables")
        edges, stats = self._score(changed, change, version, totals)
        counts = {"added_days": len(change.added), "removed_days": len(change.removed), "changed_rows": changed.count()}
        log(self._stage, "sums updated", is_anew=change.state is None, **counts)
        return BuiltGraph(edges, stats, {SUMS: version}, {"lineage": self._lineage}, counts, (changed,))

    def _as_stage(self) -> PlannedStage:
        """What the lock is on: runs of different source states, and so of different keys, share a lineage."""
        planned = self._run.stages[self._stage]
        return replace(planned, spec=replace(planned.spec, name=SUMS), key=self._lineage)

    def _find_state(self, items: TableAt) -> TableAt | None:
        """The newest sums of this lineage, if they can be added to: same ids, and their sessions are still there."""
        for version, record in list_records(self._run.lake, SUMS):
            if record.facts.get("lineage") == self._lineage:
                state = TableAt(self._run.lake, SUMS, version, record)
                break
        else:
            return None
        if not record.facts["days"]:
            return None
        earlier = replace(items, version=record.inputs[items.name])
        try:
            open_table(self._run.lake, "sessions", record.inputs["sessions"])
            is_kept = earlier.version == items.version or self._are_ids_kept(earlier, items)
        except LakeError:
            return None
        return state if is_kept else None

    def _are_ids_kept(self, earlier: TableAt, items: TableAt) -> bool:
        old, new = (read_table(self._spark, t).select(c.ITEM_IDX, c.ITEM_ID) for t in (earlier, items))
        moved = old.join(new, [c.ITEM_IDX, c.ITEM_ID], "left_anti")
        return moved.isEmpty()

    def _sum_days(self, change: Change, sessions: TableAt) -> tuple[DataFrame, dict[str, Any]]:
        """(new rows of sums of all touched items, totals over all days)."""
        parts, totals = [], dict(change.state.record.facts["totals"]) if change.state else {}
        touched = np.zeros(self._num_items, np.bool_)
        for days, sign in ((change.added, 1), (change.removed, -1)):
            if not days and (change.state or sign < 0):
                continue
            source = sessions if sign > 0 else _sessions_of(change)
            rows, stats = self._sum_sessions(source, days)
            parts.append(rows if sign > 0 else daily.negate(rows))
            totals = _join_totals(totals, stats, sign)
            touched |= stats.unit_counts > 0
        check_stats(_to_stats(totals, np.zeros(0, np.int64)), self._config)
        self._find_rule(totals)  # refuses sums that could overflow
        if change.state:
            ids = daily.count_rows(self._spark, touched.astype(np.int64)).select(c.SRC_IDX)
            parts.append(self._read_sums(change.state.version).join(ids, c.SRC_IDX, "left_semi"))
        return daily.add_sums(parts), totals

    def _sum_sessions(self, sessions: TableAt, days: list[str]) -> tuple[DataFrame, UnitStats]:
        shape = unit_shape(self._config)
        of_days = read_table(self._spark, sessions).where(F.col(c.DAY).isin([dt.date.fromisoformat(d) for d in days]))
        units = session_units(of_days, shape)
        stats = count_units(units, shape, self._num_items)
        check_weights(stats)
        work = plan_work(units, stats, self._config)
        log_plan(self._stage, stats, work[1], show_biggest_users(sessions))
        return daily.sum_units(units, stats, self._config, work), stats

    def _find_rule(self, totals: dict[str, Any]) -> PairRule:
        max_weight = totals["max_item_weight"] if self._config.use_event_weights else 1.0
        return pair_weights(self._config, totals["num_units"], totals["longest"], max_weight, newest_us=0).rule

    def _read_sums(self, version: int) -> DataFrame:
        table = TableAt(self._run.lake, SUMS, version, self._run.record(self._stage, is_marker=False))
        return read_table(self._spark, table).where(F.col(c.LINEAGE) == self._lineage)

    def _write_sums(self, changed: DataFrame, change: Change, record: CommitRecord) -> int:
        """The version with the new rows; nothing is written where no day has changed."""
        rows = changed.withColumn(c.LINEAGE, F.lit(self._lineage))
        own = f"{c.LINEAGE} = '{self._lineage}'"
        if change.state is None:
            return write_table(rows.where(F.col(c.NUM_UNITS) > 0), self._run.lake, ITEM_PAIR_SUMS, record, replace=own)
        if not change.added and not change.removed:
            return change.state.version
        version = merge_table(rows, self._run.lake, ITEM_PAIR_SUMS, record, own, delete_where=f"{c.NUM_UNITS} = 0")
        self._check_alone(rows, change.state.version, version, own)
        return version

    def _check_alone(self, rows: DataFrame, before: int, after: int, own: str) -> None:
        """Checks that no other run has changed the sums since they were read; where stores have no locks, it may have.

        Raises: LakeError when one did; the sums are emptied, and the next run builds them anew.
        """
        between = [r for v, r in list_records(self._run.lake, SUMS) if before < v < after]
        if any(record.facts.get("lineage") == self._lineage for record in between):
            nothing = self._run.record(self._stage, is_marker=False, facts={"lineage": self._lineage, "days": {}})
            write_table(rows.limit(0), self._run.lake, ITEM_PAIR_SUMS, nothing, replace=own)
            raise LakeError("item_pair_sums: another run changed the same sums meanwhile; run again, one at a time")

    def _score(
        self, changed: DataFrame, change: Change, version: int, totals: dict[str, Any]
    ) -> tuple[DataFrame, UnitStats]:
        """(rows of `item_graph`, totals as stats): scored anew where needed, the others as they were."""
        sums = self._read_sums(version)
        counts, row_sums = daily.read_terms(sums, self._num_items)
        rule = self._find_rule(totals)
        scores = score_rule(self._config, counts, totals["num_units"], row_sums / rule.scale)
        plan = ScorePlan(rule, scores, self._num_items)
        earlier = self._find_graph(change.state)
        ids = daily.find_rows_to_score(changed, self._config)
        if earlier is None or ids is None:
            edges = daily.score_rows(sums, plan)
        else:
            scored = daily.score_rows(sums.join(ids, c.SRC_IDX, "left_semi"), plan)
            edges = scored.unionByName(read_table(self._spark, earlier).join(ids, c.SRC_IDX, "left_anti"))
        return edges, _to_stats(totals, counts)

    def _find_graph(self, state: TableAt | None) -> TableAt | None:
        """The graph that was made of just these sums."""
        if state is None:
            return None
        for version, record in list_records(self._run.lake, "item_graph"):
            if record.facts.get("lineage") == self._lineage and record.tables.get(SUMS) == state.version:
                return TableAt(self._run.lake, "item_graph", version, record)
        return None


def find_lineage(run: Run, stage: str) -> str:
    """What the sums are of, in 12 hex digits: settings of source and graph, not the source's state."""
    decides = [run.stages["ingest"].sections, run.stages[stage].sections, ITEM_PAIR_SUMS.format_version]
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:12]


def find_change(state: TableAt | None, digests: dict[str, list[str]]) -> Change:
    """The days that differ from those in the sums; all of them where that is less work."""
    old: dict[str, list[str]] = state.record.facts["days"] if state else {}
    added = sorted(day for day, digest in digests.items() if old.get(day) != digest)
    removed = sorted(day for day, digest in old.items() if digests.get(day) != digest)
    num_changed = sum(int(digests[day][0]) for day in added) + sum(int(old[day][0]) for day in removed)
    if state is None or num_changed >= sum(int(number) for number, _ in digests.values()):
        return Change(None, sorted(digests), [])
    return Change(state, added, removed)


def _sessions_of(change: Change) -> TableAt:
    assert change.state
    return replace(change.state, name="sessions", version=change.state.record.inputs["sessions"])


def _to_stats(totals: dict[str, Any], unit_counts: NDArray[np.int64]) -> UnitStats:
    known = {name: totals[name] for name in (*_ADDED, *_LARGEST) if name != "pair_cost"}
    return UnitStats(unit_counts, np.array([totals["pair_cost"]]), np.zeros(0, np.int64), **known)


def _join_totals(totals: dict[str, Any], stats: UnitStats, sign: int) -> dict[str, Any]:
    joined = {name: totals.get(name, 0) + sign * getattr(stats, name) for name in _ADDED}
    return joined | {name: max(totals.get(name, 0), getattr(stats, name)) for name in _LARGEST}
