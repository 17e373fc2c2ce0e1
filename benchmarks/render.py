"""``python -m benchmarks.render``: RESULTS.md and QUALITY.md from the lines under ``benchmarks/results``.

Lines with ``curves`` are drawn too, as SVG files beside RESULTS.md. Of lines that measure the same thing the last
counts.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.ablation_table import is_of_ablation, render_ablation
from benchmarks.curve_plot import MEASURES, draw_curves
from benchmarks.front_plot import draw_front
from benchmarks.lines import QUALITY, read_lines
from benchmarks.places import RESULTS
from benchmarks.verdicts import compare_models, compare_with_papers, explain_scoring, find_tried, judge_bars, short
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
        text += _pictures(own) + _footnotes(own)
    return text


def draw_pictures(lines: Iterable[Line]) -> dict[str, str]:
    """{file name: SVG} of the lines that hold curves or a front; of lines on the same data the last is drawn."""
    held = list(lines)
    fronts = {_front_name(line): _draw_front(line) for line in held if "front" in line}
    return {_picture_name(line): _draw(line) for line in held if "curves" in line} | fronts


def render_quality(lines: Iterable[Line], trials: str = "") -> str:
    """QUALITY.md: a data set's verdicts, its bars, a table with one row a model and metric, and one of the ablation.

    Args:
        lines: Of quality.
        trials: Text of TRIALS.md, which says whose settings were tried out.
    """
    chosen = _newest(lines, ("dataset", "model", "metric"))
    tried = find_tried(trials)
    text = f"# Quality\n\n{_HEAD}\n\n"
    text += (
        "Mean over seeds with its standard deviation. cpu-seconds are those of the first seed's whole chain, from raw "
        "events to metrics. Settings are those of the config under `conf/benchmarks`. `trials`: `TRIALS.md` has trials "
        "of this model on validation slices of this data set, never on test. `no trials recorded`: it has none; such a "
        "config may still differ from the project's defaults, for reasons that its comments give or that nobody wrote "
        "down.\n"
    )
    for dataset in dict.fromkeys(line["dataset"] for line in chosen):
        of_set = [line for line in chosen if line["dataset"] == dataset]
        own = [line for line in of_set if not is_of_ablation(line)]
        text += f"\n## {dataset}\n\n" + _verdicts(dataset, own) + _bars(dataset, own)
        text += _table_head("model", "kind", "metric", "value", "seeds", "cpu-s", "settings", "command")
        text += "".join(_quality_row(line, (dataset, line["model"]) in tried) for line in own)
        text += render_ablation([line for line in of_set if is_of_ablation(line)])
    return text


def _picture_name(line: Line) -> str:
    return f"curves-{line['bench']}-{line['work']['num_items']}-items-{line['work']['tokens']}-tokens.svg"


def _draw(line: Line) -> str:
    peer, work = line["peer"].split()[0], line["work"]
    title = f"{line['bench']}: {work['num_items']:,} items, {work['tokens']:,} tokens, dim {work['dim']}"
    return draw_curves(line["curves"], title, {"project": "recspark", "peer": peer})


def _front_name(line: Line) -> str:
    work = line["work"]
    return f"front-{line['bench']}-{work['vectors']}-{work['num_vectors']}x{work['dim']}.svg"


def _draw_front(line: Line) -> str:
    work = line["work"]
    shape = f"{work['num_vectors']:,} {work['vectors']} vectors of {work['dim']}"
    return draw_front(line["front"], f"{line['bench']}: {shape}, batches of {work['queries']:,} queries")


def _pictures(lines: list[Line]) -> str:
    """A link to each picture, and the points of curves as a table."""
    fronts = dict.fromkeys(_front_name(line) for line in lines if "front" in line)
    text = "".join(f"\n![Recall against queries a second]({name})\n" for name in fronts)
    for name, line in {_picture_name(line): line for line in lines if "curves" in line}.items():
        text += f"\n![Quality over training seconds, both sides]({name})\n\n"
        text += _table_head("side", "epochs", "seconds", *(measure.replace("_", " ") for measure in MEASURES))
        for side, points in line["curves"].items():
            cells = [[p["epochs"], f"{p['wall']:.1f}", *(f"{p[m]:.4f}" for m in MEASURES)] for p in points]
            text += "".join(f"| {side} | {' | '.join(map(str, row))} |\n" for row in cells)
    return text


def _verdicts(dataset: str, lines: list[Line]) -> str:
    sentences = [explain_scoring(dataset), *compare_models(dataset, lines), compare_with_papers(dataset, lines)]
    return "".join(f"- {sentence}\n" for sentence in sentences if sentence) + "\n"


def _bars(dataset: str, lines: list[Line]) -> str:
    judged = judge_bars(dataset, lines)
    if not judged:
        return ""
    text = _table_head("bar", "metric", "must reach", "aim", "measured", "verdict")
    for bar, line, verdict in judged:
        must = short(bar.must) + (f" ± {short(bar.tolerance)}" if bar.tolerance else "")
        aim = f"> {short(bar.aim)}" if bar.aim else "-"
        measured = f"{line['model']} {short(line['value'])}" if line else "-"
        text += f"| {bar.name} | {bar.metric} | {must} | {aim} | {measured} | {verdict} |\n"
    return text + "\n"


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
    also = {k: v for k, v in line.items() if k not in known | {"versions", "command", "seconds", "curves", "front"}}
    missed = ", **quality not reached**" if line.get("is_quality_reached") is False else ""
    counted = f"{spread} {line.get('ratio_of', '')}".strip() + missed
    return f"| {line['peer']} | {_flat(line['work'])} | {counted} | {line['runs']} | {kinds} | {_flat(also)} |\n"


def _quality_row(line: Line, is_tried: bool) -> str:
    value = f"**{line['value']:.4f}** ± {line.get('std', 0):.4f}"
    seeds = ", ".join(map(str, line["seeds"]))
    kind, cpu = line["model_kind"], f"{line['cpu_seconds']:.0f}"
    settings = "trials" if is_tried else "no trials recorded"
    start = f"| {line['model']} | {kind} | {line['metric']} | {value} | {seeds} | {cpu}"
    return f"{start} | {settings} | `{line['command']}` |\n"


def _footnotes(lines: list[Line]) -> str:
    commands = dict.fromkeys(line["command"] for line in lines)
    versions = dict.fromkeys(_flat(line["versions"]) for line in lines)
    return "\n" + "".join(f"`{command}`\n" for command in commands) + "\n" + "".join(f"{v}\n" for v in versions)


def _flat(values: Any) -> str:
    """A dictionary in one line of a table; those inside it in brackets."""
    if isinstance(values, dict):
        inner = {key: f"({_flat(value)})" if isinstance(value, dict) else _flat(value) for key, value in values.items()}
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in inner.items())
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
    _write_pictures(draw_pictures(speed))
    trials = (RESULTS.parent / "TRIALS.md").read_text()
    (RESULTS.parent / "QUALITY.md").write_text(render_quality(quality, trials))
    return 0


def _write_pictures(pictures: dict[str, str]) -> None:
    """Those of lines that are gone go too."""
    for old in (*RESULTS.parent.glob("curves-*.svg"), *RESULTS.parent.glob("front-*.svg")):
        old.unlink()
    for name, picture in pictures.items():
        (RESULTS.parent / name).write_text(picture)


if __name__ == "__main__":
    sys.exit(main())
