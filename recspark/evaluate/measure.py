"""All metrics of one model's lists, as rows of table `metrics`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recspark.contracts import columns as c
from recspark.contracts.tables import METRICS
from recspark.evaluate.beyond import coverage, novelty, popularity_lift
from recspark.evaluate.histories import ALL, SEGMENTS, Cases
from recspark.evaluate.ragged import BoolArray, IntArray
from recspark.evaluate.ranking import RANKING_METRICS, find_hits

COLD_ITEMS = "cold_items"
"""The segment in which only items without train events are relevant, and only users who want some are counted."""


@dataclass(frozen=True)
class MetricValue:
    """One number: ``recall`` at ``k`` over the ``num_users`` of a segment."""

    name: str
    k: int
    value: float
    segment: str
    num_users: int

    @property
    def label(self) -> str:
        """Such as ``recall@20``."""
        return f"{self.name}@{self.k}"


def measure(ids_UK: IntArray, cases: Cases, num_events: IntArray, ks: Sequence[int]) -> list[MetricValue]:
    """Every metric at every k for every segment that has users; ``ids_UK`` has the row order of ``cases``."""
    hits_UK = find_hits(ids_UK, cases.relevant)
    found = []
    for segment in SEGMENTS:
        members = cases.segment(segment)
        if members.any():
            found += list(_measure_segment(ids_UK, hits_UK, cases, num_events, ks, segment, members))
    return found + list(_measure_cold_items(ids_UK, cases, num_events, ks))


def _measure_cold_items(
    ids_UK: IntArray, cases: Cases, num_events: IntArray, ks: Sequence[int]
) -> Iterator[MetricValue]:
    """Of the users that want an item without train events, how well those items are found among all."""
    relevant = cases.relevant.where(num_events[cases.relevant.values] == 0)
    members = relevant.lengths > 0
    if members.any():
        of_cold = replace(cases, relevant=relevant)
        hits_UK = find_hits(ids_UK, relevant)
        yield from _measure_segment(ids_UK, hits_UK, of_cold, num_events, ks, COLD_ITEMS, members)


def _measure_segment(
    ids_UK: IntArray,
    hits_UK: BoolArray,
    cases: Cases,
    num_events: IntArray,
    ks: Sequence[int],
    segment: str,
    members: BoolArray,
) -> Iterator[MetricValue]:
    rows = np.flatnonzero(members)
    hits, ids, history = hits_UK[rows], ids_UK[rows], cases.history.take(rows)
    num_relevant = cases.relevant.lengths[rows]
    for k in sorted(set(ks)):
        values = {name: float(metric(hits, num_relevant, k).mean()) for name, metric in RANKING_METRICS.items()}
        values["coverage"] = coverage(ids, num_events > 0, k)
        values["popularity_lift"] = popularity_lift(ids, history, num_events, k)
        values["novelty"] = novelty(ids, num_events, k)
        for name, value in values.items():
            yield MetricValue(name, k, value, segment, len(rows))


def overall(values: list[MetricValue]) -> dict[str, float]:
    """{"recall@20": .18, ...} of all users."""
    return {v.label: v.value for v in values if v.segment == ALL}


def to_metrics_table(stage_key: str, values: dict[str, list[MetricValue]]) -> pa.Table:
    """Rows of table `metrics` for each model_id's values."""
    rows = [
        {
            c.STAGE_KEY: stage_key,
            c.MODEL_ID: model_id,
            c.NAME: v.name,
            c.K: v.k,
            c.VALUE: v.value,
            c.SEGMENT: v.segment,
            c.NUM_USERS: v.num_users,
        }
        for model_id, of_model in values.items()
        for v in of_model
    ]
    return pa.Table.from_pylist(rows, schema=METRICS.schema)
