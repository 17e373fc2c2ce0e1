"""The report as one HTML page that needs nothing else: styles and bars are inline, no scripts, light and dark."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from recspark.evaluate.leak.report import describe_facts
from recspark.report.index_curve import draw_curves
from recspark.report.metrics_table import ITEM_KNN, ORACLE, POPULARITY, describe_setting
from recspark.report.summary import Report, format_number, list_other_counts

_BAR_WIDTH, _BAR_HEIGHT, _LABEL_WIDTH = 360, 22, 120
_COLOURS = {POPULARITY: "#8aa0b4", ITEM_KNN: "#5b8db8", ORACLE: "#c9a227"}
_TRAINED_COLOUR = "#2f7d5b"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.note { color: var(--soft); white-space: pre-line; margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.trained td { font-weight: 600; } .wrong { color: #c0392b; font-weight: 600; }
svg text { font: 13px system-ui, sans-serif; fill: currentColor; } figure { margin: 1rem 0; display: inline-block; }
figcaption { font-weight: 600; }
"""


def render_html(report: Report, title: str) -> str:
    """The page's text, from `build_report`."""
    body = [f"<h1>{escape(title)}</h1>", f'<p class="note">lake {escape(str(report["lake"]))}</p>']
    if report["evaluation"]:
        body += _render_evaluation(report["evaluation"])
    if report["leak_audit"]:
        body.append(f"<p>{escape(describe_facts(report['leak_audit']))}</p>")
    body += _render_balance(report["balance"]) + _render_index(report["stages"]) + _render_stages(report["stages"])
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    page = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{page}\n</body></html>\n'


def _render_evaluation(evaluation: Report) -> list[str]:
    columns, metrics, trained = evaluation["columns"], evaluation["metrics"], evaluation["trained"]
    rows = [
        _row(
            [name, *(f"{values[column]:.4f}" for column in columns)],
            num_text=1,
            style="trained" if name == trained else "",
        )
        for name, values in metrics.items()
    ]
    return [
        "<h2>Quality, on the same users</h2>",
        *(f"<p>{escape(finding)}</p>" for finding in evaluation["findings"]),
        _table(["model", *columns], rows, num_text=1),
        *(_bars(column, {name: values[column] for name, values in metrics.items()}) for column in columns[:2]),
        f'<p class="note">{escape(describe_setting(evaluation))}</p>',
    ]


def _render_balance(balance: list[Report]) -> list[str]:
    if not balance:
        return []
    rows = []
    for entry in balance:
        numbers = [entry["rows_in"], entry["kept"], *(sum(entry[p].values()) for p in ("dropped", "quarantined"))]
        rows.append(_row([entry["stage"], *(f"{n:,}" for n in numbers)], num_text=1))
        for part in ("dropped", "quarantined"):
            named = ", ".join(f"{name} {number:,}" for name, number in entry[part].items())
            rows.append(f'<tr><td></td><td colspan="4">{part}: {escape(named)}</td></tr>' if named else "")
        if entry["missing"]:
            wrong = f"does not add up: {entry['missing']:,} rows unaccounted for"
            rows.append(f'<tr><td></td><td colspan="4" class="wrong">{wrong}</td></tr>')
    head = ["stage", "rows in", "kept", "dropped", "quarantined"]
    return ["<h2>Every row accounted for</h2>", _table(head, rows, num_text=1)]


def _render_index(stages: Mapping[str, Report]) -> list[str]:
    """Why the index is what it is, and its curve."""
    facts = stages["index"]["facts"] if "index" in stages else {}
    if "plan" not in facts:
        return []
    reasons = "\n".join(facts["plan"]["reasons"])
    note = f'<p class="note">{escape(reasons)}</p>'
    return [f"<h2>Index {escape(facts['plan']['name'])}</h2>", *draw_curves(facts), note]


def _render_stages(stages: Mapping[str, Report]) -> list[str]:
    rows = []
    for name, stage in stages.items():
        counts = list_other_counts(stage["counts"])
        text = ", ".join(f"{key.replace('_', ' ')} {format_number(value)}" for key, value in counts.items())
        inputs = ", ".join(f"{key} {format_number(value)}" for key, value in stage["inputs"].items())
        rows.append(_row([name, stage["id"], str(stage["version"]), inputs, text], num_text=5))
    return ["<h2>Stages</h2>", _table(["stage", "key", "version", "read", "counts"], rows, num_text=5)]


def _bars(caption: str, values: Mapping[str, float]) -> str:
    """Horizontal bars, one a model, the longest as wide as the picture."""
    longest = max(values.values()) or 1.0
    shapes = []
    for place, (name, value) in enumerate(values.items()):
        y, width = place * _BAR_HEIGHT, value / longest * _BAR_WIDTH
        colour = _COLOURS.get(name, _TRAINED_COLOUR)
        shapes.append(
            f'<text x="0" y="{y + 15}">{escape(name)}</text>'
            f'<rect x="{_LABEL_WIDTH}" y="{y + 3}" width="{width:.1f}" height="{_BAR_HEIGHT - 6}" fill="{colour}"/>'
            f'<text x="{_LABEL_WIDTH + width + 6:.1f}" y="{y + 15}">{value:.4f}</text>'
        )
    size = f'width="{_LABEL_WIDTH + _BAR_WIDTH + 70}" height="{len(values) * _BAR_HEIGHT}"'
    drawing = f'<svg {size} role="img" aria-label="{escape(caption)}">{"".join(shapes)}</svg>'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _table(head: Iterable[str], rows: Iterable[str], num_text: int) -> str:
    """A table whose first ``num_text`` columns are text, the others numbers."""
    cells = "".join(f"<th{_number_class(i >= num_text)}>{escape(name)}</th>" for i, name in enumerate(head))
    return f"<table><tr>{cells}</tr>{''.join(rows)}</table>"


def _row(cells: Iterable[Any], num_text: int, style: str = "") -> str:
    inner = "".join(f"<td{_number_class(i >= num_text)}>{escape(str(cell))}</td>" for i, cell in enumerate(cells))
    return f'<tr class="{style}">{inner}</tr>' if style else f"<tr>{inner}</tr>"


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
