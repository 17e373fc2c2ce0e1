"""``python -m benchmarks.render``: RESULTS.md and QUALITY.md from the lines under ``benchmarks/results``.

Of lines that measure the same thing the last counts.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.lines import QUALITY, read_lines
from benchmarks.places import RESULTS
from recspark.errors import RecsparkError

Line = dict[str, Any]
_HEAD = "Rendered by `python -m benchmarks.render` from the lines in `results/`; do not edit."


def render_speed(lines: Iterable[Line]) -> str:
    """RESULTS.md: a table of ratios a benchmark; then what each line measured besides."""
    chosen = _newest(lines, ("bench", "peer", "work"))
    text = f"# Speed\n\n{_HEAD}\n\n"
    text += (
        "Ratio: the peer's seconds over the project's, median over paired runs (smallest to largest); above 1 the "
        "project is faster. The lower of the wall and the cpu-second ratio counts, and is named.\n"
    )
    for bench in dict.fromkeys(line["bench"] for line in chosen):
        own = [line for line in chosen if line["bench"] == bench]
        text += f"\n## {bench}\n\n" + _table_head("peer", "work", "ratio", "runs", "wall / cpu", "also measured")
        text += "".join(_speed_row(line) for line in own)
        text += _footnotes(own)
    return text


def render_quality(lines: Iterable[Line]) -> str:
    """QUALITY.md: a table a data set, one row a model and metric."""
    chosen = _newest(lines, ("dataset", "model", "metric"))
    text = f"# Quality\n\n{_HEAD}\n\n"
    text += (
        "Mean over seeds with its standard deviation. cpu-seconds are those of the first seed's whole chain, from raw "
        "events to metrics. Settings were chosen on validation slices (`TRIALS.md`), never on test.\n"
    )
    for dataset in dict.fromkeys(line["dataset"] for line in chosen):
        own = [line for line in chosen if line["dataset"] == dataset]
        text += f"\n## {dataset}\n\n" + _table_head("model", "kind", "metric", "value", "seeds", "cpu-s", "command")
        text += "".join(_quality_row(line) for line in own)
    return text


def _table_head(*names: str) -> str:
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"


def _newest(lines: Iterable[Line], keys: tuple[str, ...]) -> list[Line]:
    """The last line of each combination of keys, where the first stood."""
    found: dict[str, Line] = {}
    for line in lines:
        found[json.dumps([line[key] for key in keys], sort_keys=True)] = line
    return list(found.values())


def _speed_row(line: Line) -> str:
    spread = f"**{line['ratio']:.2f}** ({line['ratio_min']:.2f} to {line['ratio_max']:.2f})"
    kinds = f"{line.get('wall_ratio', line['ratio']):.2f} / {line.get('cpu_ratio', line['ratio']):.2f}"
    known = {"bench", "peer", "ratio", "ratio_min", "ratio_max", "runs", "ratio_of", "wall_ratio", "cpu_ratio", "work"}
    also = {k: v for k, v in line.items() if k not in known | {"versions", "command", "seconds"}}
    counted = f"{spread} {line.get('ratio_of', '')}".strip()
    return f"| {line['peer']} | {_flat(line['work'])} | {counted} | {line['runs']} | {kinds} | {_flat(also)} |\n"


def _quality_row(line: Line) -> str:
    value = f"**{line['value']:.4f}** ± {line.get('std', 0):.4f}"
    seeds = ", ".join(map(str, line["seeds"]))
    kind, cpu = line["model_kind"], f"{line['cpu_seconds']:.0f}"
    return f"| {line['model']} | {kind} | {line['metric']} | {value} | {seeds} | {cpu} | `{line['command']}` |\n"


def _footnotes(lines: list[Line]) -> str:
    commands = dict.fromkeys(line["command"] for line in lines)
    versions = dict.fromkeys(_flat(line["versions"]) for line in lines)
    return "\n" + "".join(f"`{command}`\n" for command in commands) + "\n" + "".join(f"{v}\n" for v in versions)


def _flat(values: Any) -> str:
    """A dictionary in one line of a table."""
    if isinstance(values, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_flat(value)}" for key, value in values.items())
    if isinstance(values, list):
        return "[" + "; ".join(_flat(value) for value in values) + "]"
    return f"{values:,.4g}" if isinstance(values, float) else f"{values:,}" if type(values) is int else str(values)


def main() -> int:
    """Writes both reports; 0 when done, 2 when a line is none."""
    try:
        lines = read_lines(RESULTS)
    except RecsparkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    speed, quality = ([line for line in lines if (line["bench"] == QUALITY) == wanted] for wanted in (False, True))
    (RESULTS.parent / "RESULTS.md").write_text(render_speed(speed))
    (RESULTS.parent / "QUALITY.md").write_text(render_quality(quality))
    return 0


if __name__ == "__main__":
    sys.exit(main())
