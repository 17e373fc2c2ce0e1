"""The index's curve as pictures: what a higher nprobe (ef_search, refine factor) finds, and what it costs.

[{"effort": 1, "recall_at_10": .61, "p50_ms": .2, ...}, {"effort": 2, ...}]  ->  two figures: recall, milliseconds
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Point = Mapping[str, Any]
_PANELS = (
    ("recall against exact search", {"recall_at_1": "@1", "recall_at_10": "@10", "recall_at_100": "@100"}),
    ("milliseconds a query", {"p50_ms": "p50", "p99_ms": "p99"}),
)
_STYLES = (("#2f7d5b", "none"), ("#5b8db8", "6 3"), ("#c9a227", "2 3"))
"""(colour, dashes) of a panel's lines: told apart without colours too."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 380, 220, 46, 40, 14, 50
_NUM_TICKS = 4


def draw_curves(facts: Mapping[str, Any]) -> list[str]:
    """HTML figures of an index's facts: its curve and its refine curve, each where it has more than one point."""
    effort_name = "nprobe" if "nprobe" in facts else "ef_search"
    chosen = {"effort": facts.get("effort"), "refine_factor": facts.get("plan", {}).get("refine_factor")}
    figures = []
    for name, key, label in (
        ("curve", "effort", effort_name),
        ("refine_curve", "refine_factor", "candidates a result"),
    ):
        points = facts.get(name, [])
        if len(points) > 1:
            figures += [_draw(caption, lines, points, key, label, chosen[key]) for caption, lines in _PANELS]
    return figures


def _draw(
    caption: str, lines: Mapping[str, str], points: Sequence[Point], key: str, label: str, chosen: int | None
) -> str:
    """One panel: settings side by side on x, the chosen one marked."""
    highest = 1.0 if caption.startswith("recall") else max(point[name] for point in points for name in lines) or 1.0
    steps = len(points) - 1
    xs = [_LEFT + place * (_WIDTH - _LEFT - _RIGHT) / steps for place in range(steps + 1)]
    shapes = [*_axes(highest), *_settings(xs, [point[key] for point in points], label, chosen)]
    for (name, words), (colour, dashes) in zip(lines.items(), _STYLES, strict=False):
        ys = [_y(point[name], highest) for point in points]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        shapes.append(f'<polyline points="{places}" {style}/>')
        shapes.append(f'<text x="{xs[-1] + 6:.1f}" y="{ys[-1] + 4:.1f}" style="fill:{colour}">{words}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    title = f"{caption}, by {label}"
    drawing = f'<svg {size} role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def _axes(highest: float) -> list[str]:
    shapes = []
    for tick in range(_NUM_TICKS + 1):
        value = highest * tick / _NUM_TICKS
        y = _y(value, highest)
        shapes.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#8884"/>')
        shapes.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    return shapes


def _settings(xs: Sequence[float], settings: Sequence[int], label: str, chosen: int | None) -> list[str]:
    shapes = []
    for x, setting in zip(xs, settings, strict=True):
        weight = ' font-weight="700"' if setting == chosen else ""
        shapes.append(f'<text x="{x:.1f}" y="{_HEIGHT - 24}" text-anchor="middle"{weight}>{setting}</text>')
        if setting == chosen:
            line = f'x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"'
            shapes.append(f'<line {line} stroke="#8888" stroke-dasharray="3 3"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*shapes, f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>']


def _y(value: float, highest: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value / highest)
