"""Gates: what a release must reach before it becomes active, each with its value, its limit and by how much it is off.

skip_gram .2740 recall@20, active release .2900, max_metric_drop .05  ->  refused: .2740 is .0015 below .2755

Figures come from the manifests (`recspark.releases.measured`); nothing is measured here. A gate that is on and cannot
be judged, since the active release is damaged or was evaluated in another way, refuses: it is for a person to say that
it does not count.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PASSED, REFUSED, SKIPPED = "passed", "refused", "skipped"
METRIC_DROP, NEIGHBOUR_OVERLAP = COMPARING = ("max_metric_drop", "min_neighbour_overlap")
"""The gates that look at the active release."""
_AT_LEAST, _AT_MOST = ">=", "<="
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
    sign: str = ""
    """How value and limit have to stand: `>=` or `<=`."""

    def describe(self) -> str:
        """One line: outcome, name, value against limit."""
        if self.value is None or self.limit is None:
            return f"{self.outcome:<8} {self.name:<22} {self.why}"
        text = f"{self.outcome:<8} {self.name:<22} {self.value:.4f} {self.sign} {self.limit:.4f}  {self.why}"
        off = f", off by {abs(self.value - self.limit):.4f}" if self.outcome == REFUSED else ""
        return text + off


@dataclass(frozen=True)
class Compared:
    """What gates look at: figures of the release, of the active one (None without), and their common neighbours.

    ``flaws``: by name of a gate that compares with the active release, the damage that it cannot be judged for.
    """

    measured: Mapping[str, Any]
    active: Mapping[str, Any] | None = None
    active_id: str | None = None
    overlap: float = 0.0
    num_common: int = 0
    flaws: Mapping[str, str] = field(default_factory=dict)


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
    own, other, drop = compared.measured, compared.active, limits.get(METRIC_DROP)
    value, before = _metric_of(own, metric), _metric_of(other, metric)
    if drop is None or other is None:
        yield _judge_without(compared, METRIC_DROP, drop)
    elif not other.get("metrics"):
        yield _skipped(METRIC_DROP, f"release {compared.active_id} was not evaluated")
    elif value is None:
        missing = f"{metric} was not measured" if metric else "the release was not evaluated"
        yield _incomparable(METRIC_DROP, f"{missing}, as release {compared.active_id} was")
    elif changed := _find_changes(other["evaluated"], own["evaluated"]):
        yield _incomparable(METRIC_DROP, f"release {compared.active_id} was evaluated in another way ({changed})")
    elif before is None:
        yield _incomparable(METRIC_DROP, f"{metric} was not measured in release {compared.active_id}")
    else:
        why = f"{metric}, release {compared.active_id} has {before:.4f}"
        yield _judged(METRIC_DROP, value, _AT_LEAST, before * (1 - drop), why)


def _find_changes(before: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    changed = [name for name in own if before.get(name) != own[name]]
    return ", ".join(f"{name} {before.get(name)} there, {own[name]} here" for name in changed)


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
            yield _judged(name, value, _AT_LEAST, ratio * baseline, why)


def _judge_overlap(compared: Compared, limits: Mapping[str, Any]) -> Iterator[Gate]:
    least = limits.get(NEIGHBOUR_OVERLAP)
    if least is None or compared.active is None or NEIGHBOUR_OVERLAP in compared.flaws:
        yield _judge_without(compared, NEIGHBOUR_OVERLAP, least)
    elif compared.num_common < _MIN_COMMON:
        yield _skipped(
            NEIGHBOUR_OVERLAP, f"only {compared.num_common} canaries in common with release {compared.active_id}"
        )
    else:
        why = f"neighbours@10 of {compared.num_common} items in common with release {compared.active_id}"
        yield _judged(NEIGHBOUR_OVERLAP, compared.overlap, _AT_LEAST, least, why)


def _judge_without(compared: Compared, name: str, limit: float | None) -> Gate:
    """A gate that is off, or has no active release to compare with."""
    if limit is None:
        return _skipped(name, "off")
    flaw = compared.flaws.get(name)
    return _incomparable(name, flaw) if flaw else _skipped(name, "no other release is active")


def _metric_of(measured: Mapping[str, Any] | None, metric: str | None) -> float | None:
    """The trained model's value; None where it was not measured."""
    measured = measured or {}
    value: float | None = measured.get("metrics", {}).get(measured.get("trained"), {}).get(metric)
    return value


def _at_least(limits: Mapping[str, Any], name: str, value: float | None, why: str) -> Gate:
    limit = limits.get(name)
    if limit is None or value is None:
        return _skipped(name, "off" if limit is None else "not measured")
    return _judged(name, value, _AT_LEAST, limit, why)


def _at_most(limits: Mapping[str, Any], name: str, value: float | None, why: str) -> Gate:
    limit = limits.get(name)
    if limit is None or value is None:
        return _skipped(name, "off" if limit is None else "not measured")
    return _judged(name, value, _AT_MOST, limit, why)


def _judged(name: str, value: float, sign: str, limit: float, why: str) -> Gate:
    is_passed = value >= limit if sign == _AT_LEAST else value <= limit
    return Gate(name, PASSED if is_passed else REFUSED, value, limit, why, sign)


def _incomparable(name: str, why: str) -> Gate:
    return Gate(name, REFUSED, None, None, f"cannot be compared: {why}")


def _skipped(name: str, why: str) -> Gate:
    return Gate(name, SKIPPED, None, None, why)
