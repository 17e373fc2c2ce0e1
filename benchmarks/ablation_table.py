"""The lines of `ablation` as a table: a row a variant, how far each metric lies from that of the unchanged config."""

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]
UNCHANGED = "as it is"


def is_of_ablation(line: Line) -> bool:
    """Whether a line is a variant's, not a model's of its own."""
    return "changed" in line


def render_ablation(lines: Sequence[Line]) -> str:
    """A table of one data set's variants; empty without lines.

    Percentages are relative to `as it is` with the same seeds; without such a line there are none.
    """
    if not lines:
        return ""
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    variants: dict[str, dict[str, Line]] = {}
    for line in lines:
        variants.setdefault(line["model"].partition(", ")[2], {})[line["metric"]] = line
    unchanged = variants.get(UNCHANGED, {})
    head = ["variant", "changed", *metrics, "seeds"]
    text = f"\n### What each part of two_tower is worth\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|\n"
    for name, found in variants.items():
        one = next(iter(found.values()))
        changed = ", ".join(f"`{key}`" for key in one["changed"]) or "-"
        cells = [_describe(found[m], unchanged.get(m)) if m in found else "-" for m in metrics]
        text += f"| {' | '.join([name, changed, *cells, ', '.join(map(str, one['seeds']))])} |\n"
    commands = dict.fromkeys(line["command"] for line in lines)
    return text + "\n" + "".join(f"`{command}`\n" for command in commands)


def _describe(line: Line, unchanged: Line | None) -> str:
    value = f"{line['value']:.4f}"
    if unchanged is None or unchanged is line or unchanged["seeds"] != line["seeds"] or not unchanged["value"]:
        return value
    return f"{value} ({100 * (line['value'] / unchanged['value'] - 1):+.1f} %)"
