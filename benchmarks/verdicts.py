"""What the lines of a data set say: which learned model beats which baseline, and which bars are reached.

skip_gram .0638, item_knn .0650  ->  "skip_gram does not beat item_knn: .0638 against .0650 (-.0012, -1.8 %)"
"""

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.datasets.bars import BARS, PUBLISHED, Bar
from benchmarks.datasets.catalogue import DATASETS
from recspark.config.baselines import CLOSED_FORM_KINDS, LIST_KINDS

Line = dict[str, Any]
BASELINES = frozenset({*LIST_KINDS, *CLOSED_FORM_KINDS, "als"})
"""Kinds that a learned model has to beat; Spark's ALS stands among them."""
_EXPECTED = ("popularity", "item_knn", "rp3beta")
_TRIAL = re.compile(r"^[#|*`\s]*(\w+)[*`]*\s*(?::|\||$)")


def find_tried(trials: str) -> set[tuple[str, str]]:
    """(data set, model) of what TRIALS.md has trials of.

    A section ``## DATASET`` names a model by starting a line with it: ``### MODEL``, ``MODEL: ...`` or ``| MODEL |``.
    """
    found, dataset = set(), ""
    for line in trials.splitlines():
        if line.startswith("## "):
            dataset = line[3:].strip()
        elif match := _TRIAL.match(line):
            found.add((dataset, match[1]))
    return found


def main_metric(dataset: str, lines: Sequence[Line]) -> str:
    """The metric that a data set's verdicts are about."""
    return DATASETS[dataset].main_metric if dataset in DATASETS else str(lines[0]["metric"])


def compare_models(dataset: str, lines: Sequence[Line]) -> list[str]:
    """Sentences about one data set's newest lines: the best model, then each learned model against each baseline."""
    metric = main_metric(dataset, lines)
    measured = [line for line in lines if line["metric"] == metric]
    if not measured:
        return [f"No line holds {metric}: no verdict."]
    baselines = [line for line in measured if line["model_kind"] in BASELINES]
    learned = [line for line in measured if line["model_kind"] not in BASELINES]
    sentences = [_name_best(metric, measured)]
    sentences += [
        f"{line['model']} {'; '.join(_compare(line, b) for b in baselines)}." for line in learned if baselines
    ]
    return sentences + _name_missing(dataset, {line["model"] for line in measured})


def explain_scoring(dataset: str) -> str:
    """How the F1 scores of a graph are to be read; "" of other data sets."""
    if dataset not in DATASETS or not DATASETS[dataset].read_labels:
        return ""
    metric = main_metric(dataset, [])
    which = "as they are, which is what DeepWalk's own scoring takes" if "_raw@" in metric else "at unit length"
    return (
        f"Scoring: `micro_f1_raw`, `macro_f1_raw` of vectors as they are, `micro_f1`, `macro_f1` of vectors at unit "
        f"length. The sentences and bars here are about {metric.partition('@')[0]}: vectors {which}."
    )


def compare_with_papers(dataset: str, lines: Sequence[Line]) -> str:
    """Published figures of the main metric, and where the best line stands among them; "" where there are none."""
    metric = main_metric(dataset, lines)
    measured = [line for line in lines if line["metric"] == metric]
    papers = sorted(PUBLISHED.get(dataset, {}).items(), key=lambda paper: paper[1])
    if not measured or not papers:
        return ""
    best = max(measured, key=lambda line: line["value"])
    told = ", ".join(f"{name} {short(value)}" for name, value in papers)
    passed = [f"above {name}" for name, value in papers if best["value"] > value]
    left = [f"not above {name}" for name, value in papers if best["value"] <= value]
    place = passed[-1:] + left[:1]
    return f"Published {metric}: {told}. The best here, {best['model']} {short(best['value'])}, is {', '.join(place)}."


def judge_bars(dataset: str, lines: Sequence[Line]) -> list[tuple[Bar, Line | None, str]]:
    """(bar, the line that counts, verdict) of each bar of a data set; a bar nobody measured says so."""
    found = []
    for bar in BARS.get(dataset, ()):
        held = [line for line in lines if line["metric"] == bar.metric and bar.counts(line["model"])]
        best = max(held, key=lambda line: line["value"], default=None)
        found.append((bar, best, judge(bar, best["value"]) if best else "not measured"))
    return found


def judge(bar: Bar, value: float) -> str:
    """``aim passed``, ``reached``, or by how much a value fails its bar."""
    off = value - bar.must
    if bar.tolerance is not None:
        return "reached" if abs(off) <= bar.tolerance + 1e-9 else f"**off by {_signed(off)}**"
    if off < 0:
        return f"**missed by {_gap(-off)}**"
    if bar.aim is None:
        return "reached"
    if value == bar.aim:
        return "reached, level with the aim"
    return "aim passed" if value > bar.aim else f"reached, {_gap(bar.aim - value)} short of the aim"


def short(value: float) -> str:
    """Four decimals without the leading zero: ``.0638``."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.4f}")


def _name_best(metric: str, measured: Sequence[Line]) -> str:
    best = max(measured, key=lambda line: line["value"])
    kind = "a baseline" if best["model_kind"] in BASELINES else "a learned model"
    return f"Best {metric}: {best['model']}, {kind}, {short(best['value'])}."


def _compare(line: Line, baseline: Line) -> str:
    ours, theirs = line["value"], baseline["value"]
    verb = "beats" if ours > theirs else "does not beat"
    share = f", {(ours - theirs) / theirs:+.1%}".replace("%", " %") if theirs > 0 else ""
    is_close = ours > theirs and ours - theirs <= max(line.get("std", 0), baseline.get("std", 0))
    noise = ", less than the seeds' standard deviation" if is_close else ""
    return f"{verb} {baseline['model']}: {short(ours)} against {short(theirs)} ({_signed(ours - theirs)}{share}{noise})"


def _name_missing(dataset: str, measured: set[str]) -> list[str]:
    if dataset in DATASETS and DATASETS[dataset].read_labels:
        return []  # a graph without users: these baselines do not apply
    missing = [name for name in _EXPECTED if name not in measured]
    return [f"Not measured here: {', '.join(missing)}."] if missing else []


def _gap(value: float) -> str:
    """A difference above 0: with more decimals where four would make it 0."""
    digits = next((digits for digits in range(4, 16) if float(f"{value:.{digits}f}")), 16)
    return f"{value:.{digits}f}".lstrip("0")


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + short(value)
