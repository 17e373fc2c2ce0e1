"""The records of a run's finished stages as one report: every row accounted for, every model on the same users.

ingest    336,412 rows in = 330,000 kept + 6,000 dropped + 412 quarantined
          dropped: cancelled 5,000, no_customer 1,000
model        recall@20  ndcg@20 ...
skip_gram        .2100    .1400
popularity       .0700    .0400
"""

from collections.abc import Mapping
from typing import Any

from recspark.contracts.stages import PlannedStage
from recspark.evaluate.leak.report import describe_facts
from recspark.lake.arrow import find_done
from recspark.report.metrics_table import build_metrics_report, describe_metrics

Report = dict[str, Any]
"""Plain values, as JSON takes them."""

_ROWS_IN = ("rows_in", "events_in")
_KEPT, _DROPPED, _QUARANTINED = "kept", "dropped", "quarantined"
_NAME_WIDTH = 16


def build_report(lake: str, stages: Mapping[str, PlannedStage]) -> Report:
    """Counts of each finished stage, the balance of rows, and the metrics where the run was evaluated."""
    done = {name: found for name, stage in stages.items() if (found := find_done(lake, stage))}
    evaluated = done.get("evaluate")
    return {
        "lake": lake,
        "stages": {
            name: {
                "id": stages[name].id,
                "version": version,
                "run_id": record.run_id,
                "inputs": _shorten(record.inputs),
                "counts": record.counts,
                "facts": record.facts,
            }
            for name, (version, record) in done.items()
        },
        "balance": [balance_of(name, r.counts) for name, (_, r) in done.items() if _rows_in(r.counts) is not None],
        "evaluation": build_metrics_report(evaluated[1].counts, evaluated[1].facts) if evaluated else None,
        "leak_audit": evaluated[1].facts.get("leak_audit") if evaluated else None,
    }


def _shorten(inputs: Mapping[str, Any]) -> Report:
    """Inputs without the list of a source's files."""
    return {
        name: {k: v for k, v in value.items() if k != "files"} if isinstance(value, dict) else value
        for name, value in inputs.items()
    }


def balance_of(stage: str, counts: Mapping[str, Any]) -> Report:
    """Rows in = kept + dropped by rule + quarantined by reason; ``missing`` is what does not add up."""
    dropped, quarantined = dict(counts.get(_DROPPED, {})), dict(counts.get(_QUARANTINED, {}))
    rows_in = _rows_in(counts) or 0
    kept = counts.get(_KEPT, 0)
    missing = rows_in - kept - sum(dropped.values()) - sum(quarantined.values())
    parts = {_KEPT: kept, _DROPPED: dropped, _QUARANTINED: quarantined}
    return {"stage": stage, "rows_in": rows_in, **parts, "missing": missing}


def describe_report(report: Report) -> str:
    """The report as text for a terminal."""
    blocks = [_describe_balance(report["balance"]), _describe_counts(report["stages"])]
    if report["evaluation"]:
        blocks.append(describe_metrics(report["evaluation"]))
    if report["leak_audit"]:
        blocks.append(describe_facts(report["leak_audit"]))
    return "\n\n".join(block for block in blocks if block)


def list_other_counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Counts that are no part of the balance."""
    if _rows_in(counts) is None:
        return dict(counts)
    return {k: v for k, v in counts.items() if k not in (*_ROWS_IN, _KEPT, _DROPPED, _QUARANTINED)}


def format_number(value: Any) -> str:
    """Thousands apart, fractions short; a nested dictionary as ``name number`` pairs."""
    if isinstance(value, dict):
        return "(" + (", ".join(f"{k} {format_number(v)}" for k, v in value.items()) or "none") + ")"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _rows_in(counts: Mapping[str, Any]) -> int | None:
    return next((counts[name] for name in _ROWS_IN if name in counts), None)


def _describe_balance(balance: list[Report]) -> str:
    if not balance:
        return ""
    lines = ["every row accounted for:"]
    for entry in balance:
        lines.append(
            f"  {entry['stage']:<{_NAME_WIDTH}} {entry['rows_in']:,} rows in = {entry['kept']:,} kept + "
            f"{sum(entry[_DROPPED].values()):,} dropped + {sum(entry[_QUARANTINED].values()):,} quarantined"
        )
        for part in (_DROPPED, _QUARANTINED):
            if entry[part]:
                named = ", ".join(f"{name} {number:,}" for name, number in entry[part].items())
                lines.append(f"  {'':<{_NAME_WIDTH}} {part}: {named}")
        if entry["missing"]:
            lines.append(f"  {'':<{_NAME_WIDTH}} DOES NOT ADD UP: {entry['missing']:,} rows unaccounted for")
    return "\n".join(lines)


def _describe_counts(stages: Mapping[str, Report]) -> str:
    lines = []
    for name, stage in stages.items():
        counts = {} if name == "evaluate" else list_other_counts(stage["counts"])
        if counts:
            text = ", ".join(
                f"{k.removeprefix('num_').replace('_', ' ')} {format_number(v)}" for k, v in counts.items()
            )
            lines.append(f"  {name:<{_NAME_WIDTH}} {text}")
    return "\n".join(["counts:", *lines]) if lines else ""
