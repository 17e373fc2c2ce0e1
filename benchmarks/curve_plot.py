"""Time-to-quality curves as an SVG: seconds on x (logarithmic), one panel a measure, both sides in each.

{"project": [{"epochs": 1, "wall": 4.1, "neighbour_purity": 0.31, ...}, ...], "peer": [...]}  ->  "<svg ...>...</svg>"
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.svg import MARKS, line, page, text

Point = dict[str, float]
MEASURES = {
    "neighbour_purity": "neighbour purity (share of the 10 nearest)",
    "next_item_recall@20": "next-item recall@20 (share of sentences)",
}
"""What the panels show: {key of a point: the y axis' label with its unit}."""
_SECONDS = "training seconds (wall, one thread, log scale)"
_WIDTH, _HEIGHT = 900, 400
_PANEL_WIDTH, _PANEL_HEIGHT, _TOP, _LEFT, _STEP = 350, 250, 85, 70, 450
_MIN_TICKS = 3


@dataclass(frozen=True)
class _Style:
    """Of a side: told apart by colour, dashes and the shape of points; its labels above or below them."""

    colour: str
    dashes: str
    mark: str
    label_dy: int


_STYLES = {"project": _Style("#0b5fa5", "none", "circle", -9), "peer": _Style("#b8450b", "6 4", "square", 18)}


@dataclass(frozen=True)
class _Axes:
    """A panel's place on the page and its ranges: from values to pixels."""

    left: float
    seconds: tuple[float, float]
    top_value: float

    def x(self, seconds: float) -> float:
        low, high = map(math.log, self.seconds)
        return self.left + (math.log(seconds) - low) / (high - low) * _PANEL_WIDTH

    def y(self, value: float) -> float:
        return _TOP + _PANEL_HEIGHT * (1 - value / self.top_value)


def draw_curves(curves: dict[str, list[Point]], title: str, names: dict[str, str]) -> str:
    """A picture on white, readable without its colours.

    Args:
        curves: Points by side; each holds ``epochs``, ``wall`` seconds and the `MEASURES`.
        title: What was trained on.
        names: How the legend calls each side.
    """
    body = [text(_WIDTH / 2, 24, title, "middle", size=15), *_legend(names)]
    for place, (measure, label) in enumerate(MEASURES.items()):
        axes = _fit_axes(curves, measure, _LEFT + place * _STEP)
        body += [*_draw_axes(axes, label)]
        for side, points in curves.items():
            body += _draw_curve(axes, points, measure, _STYLES[side])
    return page(_WIDTH, _HEIGHT, title, body)


def seconds_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 ... inside a range; tighter steps where that gives too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= _MIN_TICKS:
            break
    return ticks


def value_ticks(highest: float) -> list[float]:
    """0 and round steps up to the first at or above a value: at most seven."""
    rough = max(highest, 1e-9) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    return [round(step * n, 10) for n in range(math.ceil(highest / step - 1e-9) + 1)]


def _fit_axes(curves: dict[str, list[Point]], measure: str, left: float) -> _Axes:
    points = [point for side in curves.values() for point in side]
    walls = [point["wall"] for point in points]
    highest = max(point[measure] for point in points)
    room = 1.3 if max(walls) >= 4 * min(walls) else 2.0  # wide enough for two round ticks
    return _Axes(left, (min(walls) / room, max(walls) * room), value_ticks(highest * 1.08)[-1] or 1.0)


def _draw_axes(axes: _Axes, label: str) -> list[str]:
    bottom, right = _TOP + _PANEL_HEIGHT, axes.left + _PANEL_WIDTH
    parts = []
    for value in value_ticks(axes.top_value):
        y = axes.y(value)
        parts += [line(axes.left, y, right, y, "#ddd"), text(axes.left - 8, y + 4, f"{value:g}", "end")]
    for seconds in seconds_ticks(*axes.seconds):
        x = axes.x(seconds)
        parts += [line(x, bottom, x, bottom + 5, "#222"), text(x, bottom + 20, f"{seconds:g}")]
    parts += [line(axes.left, bottom, right, bottom, "#222"), line(axes.left, _TOP, axes.left, bottom, "#222")]
    parts.append(text(axes.left + _PANEL_WIDTH / 2, bottom + 42, _SECONDS))
    turned = f"rotate(-90 {axes.left - 48} {_TOP + _PANEL_HEIGHT / 2})"
    return [*parts, text(axes.left - 48, _TOP + _PANEL_HEIGHT / 2, label, transform=turned)]


def _draw_curve(axes: _Axes, points: Sequence[Point], measure: str, style: _Style) -> list[str]:
    places = [(axes.x(point["wall"]), axes.y(point[measure])) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" {_stroke(style)}/>']
    for point, (x, y) in zip(points, places, strict=True):
        parts += [MARKS[style.mark](x, y, style.colour)]
        parts.append(text(x, y + style.label_dy, f"{point['epochs']:g}", size=11, fill=style.colour))
    return parts


def _legend(names: dict[str, str]) -> list[str]:
    parts, x = [], float(_LEFT)
    for side, name in names.items():
        style = _STYLES[side]
        parts.append(f'<line x1="{x}" y1="50" x2="{x + 36}" y2="50" {_stroke(style)}/>')
        parts += [MARKS[style.mark](x + 18, 50, style.colour), text(x + 44, 54, name, "start")]
        x += 80 + 7 * len(name)
    return [*parts, text(_WIDTH - 30, 54, "beside each point: epochs of that training", "end", size=11)]


def _stroke(style: _Style) -> str:
    return f'stroke="{style.colour}" stroke-width="2" stroke-dasharray="{style.dashes}"'
