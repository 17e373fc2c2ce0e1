"""Gates: what a release must reach before it becomes active, each with its value, its limit and by how much it is off.

skip_gram .2740 recall@20, active release .2900, max_metric_drop .05  ->  refused: .2740 is .0015 below .2755

Figures come from the manifests (`recspark.releases.measured`); nothing is measured here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PASSED, REFUSED, SKIPPED = "passed", "refused", "skipped"
_MIN_COMMON = 10
"""Canaries that two releases must share before their neighbours are compared."""


@dataclass(frozen=True)
class Gate:
    """One gate's outcome; ``why`` says what was compared, or why it was skipped."""

    name: str
    outcome: str
    value: float | None
    limit: float | None
    why: str

    def describe(self) -> str:
        """One line: outcome, name, value against limit."""
        if self.value is None or self.limit is None:
            return f"{self.outcome:<8} {self.name:<22} {self.why}"
        sign = ">=" if self.name.startswith("min") or "drop" in self.name else "<="
        text = f"{self.outcome:<8} {self.name:<22} {self.value:.4f} {sign} {self.limit:.4f}  {self.why}"
        off = f", off by {abs(self.value - self.limit):.4f}" if self.outcome == REFUSED else ""
        return text + off


@dataclass(frozen=True)
class Compared:
    """What gates look at: figures of the release, of the active one (None without), and their common neighbours."""

    measured: Mapping[str, Any]
    active: Mapping[str, Any] | None = None
    active_id: str | None = None
    overlap: float = 0.0
    num_common: int = 0


def judge(compared: Compared, limits: Mapping[str, Any]) -> list[Gate]:
    """Every gate that is on; ``limits`` are the values of section `release.gates`."""
    measured = compared.measured
    metric = limits.get("metric") or (f"recall@{measured['k']}" if "k" in measured else None)
    k = metric.rpartition("@")[2] if metric else None
    own = measured.get("metrics", {}).get(measured.get("trained"), {})
    return [
        _at_least(limits, "min_recall", measured.get("recall_at_10"), "recall@10 of the index against exact search"),
        *_judge_drop(compared, limits, metric),
        *_judge_baselines(measured, limits, metric),
        _at_least(limits, "min_coverage", own.get(f"coverage@{k}"), f"share of the catalogue listed at {k}"),
        _at_most(limits, "max_popularity_lift", own.get(f"popularity_lift@{k}"), f"lift over users' own items at {k}"),
        _at_most(limits, "max_head_share", measured.get("head_share"), _describe_head(measured)),
        *_judge_overlap(compared, limits),
        _at_most(limits, "max_without_vector", measured.get("without_vector"), "share of active items not indexed"),
    ]


def refused(gates: list[Gate]) -> list[Gate]:
    """The gates that were not passed."""
    return [gate for gate in gates if gate.outcome == REFUSED]


def describe_gates(gates: list[Gate]) -> str:
    """One line a gate."""
    return "\n".join(gate.describe() for gate in gates)


def _describe_head(measured: Mapping[str, Any]) -> str:
    share = measured.get("head_items")
    return f"share of places for the {share:.1%} most popular items" if share else ""


def _judge_drop(compared: Compared, limits: Mapping[str, Any], metric: str | None) -> Iterator[Gate]:
    name, drop = "max_metric_drop", limits.get("max_metric_drop")
    value = _metric_of(compared.measured, metric)
    before = _metric_of(compared.active, metric) if compared.active else None
    if drop is None:
        yield _skipped(name, "off")
    elif compared.active is None:
        yield _skipped(name, "no other release is active")
    elif value is None or before is None:
        yield _skipped(name, f"{metric or 'no metric'} is not measured in both")
    elif compared.measured["evaluated"] != compared.active["evaluated"]:
        yield _skipped(name, f"evaluated in another way than release {compared.active_id}")
    else:
        why = f"{metric}, release {compared.active_id} has {before:.4f}"
        yield _judged(name, value, before * (1 - drop), value >= before * (1 - drop), why)


def _judge_baselines(measured: Mapping[str, Any], limits: Mapping[str, Any], metric: str | None) -> Iterator[Gate]:
    value = _metric_of(measured, metric)
    for label, ratio in (limits.get("min_over_baselines") or {}).items():
        name = f"min_over_{label}"
        baseline = measured.get("metrics", {}).get(label, {}).get(metric)
        if label == measured.get("trained"):
            yield _skipped(name, f"the model is {label} itself")
        elif value is None or baseline is None:
            yield _skipped(name, f"{label} was not evaluated beside the model")
        else:
            why = f"{metric}, {ratio:g} x {baseline:.4f} of {label}"
            yield _judged(name, value, ratio * baseline, value >= ratio * baseline, why)


def _judge_overlap(compared: Compared, limits: Mapping[str, Any]) -> Iterator[Gate]:
    name, least = "min_neighbour_overlap", limits.get("min_neighbour_overlap")
    if least is None:
        yield _skipped(name, "off")
    elif compared.active is None:
        yield _skipped(name, "no other release is active")
    elif compared.num_common < _MIN_COMMON:
        yield _skipped(name, f"only {compared.num_common} canaries in common with release {compared.active_id}")
    else:
        why = f"neighbours@10 of {compared.num_common} items in common with release {compared.active_id}"
        yield _judged(name, compared.overlap, least, compared.overlap >= least, why)


def _metric_of(measured: Mapping[str, Any] | None, metric: str | None) -> float | None:
    """The trained model's value; None where it was not measured."""
    measured = measured or {}
    value: float | None = measured.get("metrics", {}).get(measured.get("trained"), {}).get(metric)
    return value


def _at_least(limits: Mapping[str, Any], name: str, value: float | None, why: str) -> Gate:
    limit = limits.get(name)
    if limit is None or value is None:
        return _skipped(name, "off" if limit is None else "not measured")
    return _judged(name, value, limit, value >= limit, why)


def _at_most(limits: Mapping[str, Any], name: str, value: float | None, why: str) -> Gate:
    limit = limits.get(name)
    if limit is None or value is None:
        return _skipped(name, "off" if limit is None else "not measured")
    return _judged(name, value, limit, value <= limit, why)


def _judged(name: str, value: float, limit: float, is_passed: bool, why: str) -> Gate:
    return Gate(name, PASSED if is_passed else REFUSED, value, limit, why)


def _skipped(name: str, why: str) -> Gate:
    return Gate(name, SKIPPED, None, None, why)
