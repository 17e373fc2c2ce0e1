"""Bits of SVG that pictures of benchmarks share: lines, words, marks of points, the page around them."""

from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape


def page(width: int, height: int, title: str, body: Sequence[str]) -> str:
    """A picture on white."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
    head += f'height="{height}" role="img" font-family="sans-serif" fill="#222">\n<title>{escape(title)}</title>\n'
    return head + f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12, **more: Any) -> str:
    """Words at a place; further attributes as given."""
    extra = "".join(f' {name}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{extra}>{escape(words)}</text>'


MARKS: dict[str, Callable[[float, float, str], str]] = {
    "circle": lambda x, y, colour: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
    "square": lambda x, y, colour: f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>',
    "ring": lambda x, y, colour: (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="white" stroke="{colour}" stroke-width="2"/>'
    ),
}
"""How a point looks: (x, y, colour) -> its shape."""
