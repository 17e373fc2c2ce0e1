"""Recall against queries a second as an SVG: one line an index, its settings as points; up and right is better.

{"plan": [{"setting": 4, "recall": .93, "queries_per_second": 9000}, ...], "Annoy": [...]}  ->  "<svg ...>...</svg>"
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.svg import MARKS, line, page, text

Point = Mapping[str, Any]
_WIDTH, _HEIGHT, _LEFT, _TOP, _PANEL_WIDTH, _PANEL_HEIGHT = 900, 480, 80, 50, 560, 360
_COLOURS = ("#0b5fa5", "#b8450b", "#2f7d5b", "#7a4fa3", "#8a6d00", "#a3134f", "#4d4d4d")
_DASHES = ("none", "6 4", "2 3")
_RECALL_STEP = 0.1


def draw_front(front: Mapping[str, Sequence[Point]], title: str) -> str:
    """A picture on white; lines are told apart by colour, dashes and marks together, and named at the side."""
    points = [point for found in front.values() for point in found]
    low = math.floor(min(point["recall"] for point in points) / _RECALL_STEP) * _RECALL_STEP
    speeds = [math.log10(point["queries_per_second"]) for point in points]
    slow, fast = math.floor(min(speeds)), math.ceil(max(speeds))

    def place(point: Point) -> tuple[float, float]:
        x = _LEFT + (point["recall"] - low) / (1 - low) * _PANEL_WIDTH
        share = (math.log10(point["queries_per_second"]) - slow) / max(fast - slow, 1)
        return x, _TOP + _PANEL_HEIGHT * (1 - share)

    body = [text(_WIDTH / 2, 24, title, "middle", size=15), *_axes(low, slow, fast)]
    for number, (name, found) in enumerate(front.items()):
        body += _draw_index(number, name, [place(point) for point in found])
    return page(_WIDTH, _HEIGHT, title, body)


def _axes(low: float, slow: int, fast: int) -> list[str]:
    bottom, right = _TOP + _PANEL_HEIGHT, _LEFT + _PANEL_WIDTH
    parts = [line(_LEFT, bottom, right, bottom, "#222"), line(_LEFT, _TOP, _LEFT, bottom, "#222")]
    for tick in range(round((1 - low) / _RECALL_STEP) + 1):
        x = _LEFT + tick * _RECALL_STEP / (1 - low) * _PANEL_WIDTH
        parts += [line(x, _TOP, x, bottom, "#eee"), text(x, bottom + 20, f"{low + tick * _RECALL_STEP:.1f}")]
    for power in range(slow, fast + 1):
        y = bottom - (power - slow) / max(fast - slow, 1) * _PANEL_HEIGHT
        parts += [line(_LEFT, y, right, y, "#ddd"), text(_LEFT - 8, y + 4, f"{10.0**power:,.0f}", "end")]
    parts.append(text(_LEFT + _PANEL_WIDTH / 2, bottom + 42, "recall@10 against exact search"))
    turned = f"rotate(-90 22 {_TOP + _PANEL_HEIGHT / 2})"
    return [*parts, text(22, _TOP + _PANEL_HEIGHT / 2, "queries a second, one thread (log scale)", transform=turned)]


def _draw_index(number: int, name: str, places: Sequence[tuple[float, float]]) -> list[str]:
    colour, dashes = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
    mark = list(MARKS.values())[number // len(_COLOURS) % len(MARKS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
    x, y = _LEFT + _PANEL_WIDTH + 40, _TOP + 14 + 22 * number
    parts = [f'<polyline points="{path}" {style}/>', *(mark(*place, colour) for place in places)]
    parts += [f'<line x1="{x}" y1="{y}" x2="{x + 36}" y2="{y}" {style}/>', mark(x + 18, y, colour)]
    return [*parts, text(x + 44, y + 4, name, "start")]
