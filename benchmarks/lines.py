"""The lines that benchmarks print, one JSON object a figure.

{"bench": "sgns", "peer": "gensim", "ratio": 9.1, "ratio_min": 8.8, "ratio_max": 9.4, "runs": 5, "work": {...}, ...}
{"bench": "quality", "dataset": "gowalla", "model": "skip_gram", "metric": "recall@20", "value": 0.15, ...}

Further keys may follow; those in `SPEED_KEYS` and `QUALITY_KEYS` are always there.
"""

import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import Paired
from recspark.errors import RecsparkError

QUALITY = "quality"
_NUMBER = (int, float)
SPEED_KEYS: dict[str, Any] = {
    "bench": str, "peer": str, "ratio": _NUMBER, "ratio_min": _NUMBER, "ratio_max": _NUMBER, "runs": int,
    "work": dict, "versions": dict, "command": str,
}  # fmt: skip
QUALITY_KEYS: dict[str, Any] = {
    "bench": str, "dataset": str, "model": str, "model_kind": str, "metric": str, "value": _NUMBER, "seeds": list,
    "values": list, "cpu_seconds": _NUMBER, "command": str,
}  # fmt: skip


class BenchmarkError(RecsparkError):
    """A benchmark cannot run, or what it printed is no line of ours."""


def speed_line(
    bench: str,
    peer: str,
    paired: Paired,
    work: dict[str, Any],
    versions: dict[str, str],
    command: str,
    counts: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A figure against a peer; ratio > 1 means that the project is faster.

    The lower of the wall and the cpu-second ratio counts, unless ``counts`` names one (where a job uses more cores on
    purpose, cpu-seconds say nothing). Both stand in the line.
    """
    kind = counts or paired.lower
    spread = paired.spread(kind)
    return {
        "bench": bench,
        "peer": peer,
        "ratio": spread.median,
        "ratio_min": spread.low,
        "ratio_max": spread.high,
        "runs": len(paired.project),
        "ratio_of": kind,
        "wall_ratio": paired.spread("wall").median,
        "cpu_ratio": paired.spread("cpu").median,
        "seconds": {"project": paired.median_seconds("project"), "peer": paired.median_seconds("peer")},
        "work": work,
        **more,
        "versions": versions,
        "command": command,
    }


def quality_line(
    dataset: str,
    model: str,
    model_kind: str,
    metric: str,
    values: dict[int, float],
    cpu_seconds: float,
    command: str,
    **more: Any,
) -> dict[str, Any]:
    """A metric of a model on a data set; ``values`` by seed, of which the mean counts."""
    found = list(values.values())
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((v - mean) ** 2 for v in found) / max(len(found) - 1, 1))
    return {
        "bench": QUALITY,
        "dataset": dataset,
        "model": model,
        "model_kind": model_kind,
        "metric": metric,
        "value": mean,
        "std": spread,
        "seeds": list(values),
        "values": found,
        "cpu_seconds": round(cpu_seconds, 1),
        **more,
        "command": command,
    }


def check_line(line: dict[str, Any]) -> None:
    """Checks that a line has what a reader counts on.

    Raises: BenchmarkError naming each key that is missing or of a wrong type.
    """
    keys = QUALITY_KEYS if line.get("bench") == QUALITY else SPEED_KEYS
    problems = [
        f"{key}: expected {_type_name(kind)}, got {line.get(key)!r}"
        for key, kind in keys.items()
        if not isinstance(line.get(key), kind) or isinstance(line.get(key), bool)
    ]
    problems += [f"{key}: {value} is no finite number" for key, value in line.items() if _is_wild(value)]
    if problems:
        raise BenchmarkError(f"not a benchmark's line: {'; '.join(problems)}; in {json.dumps(line)[:200]}")


def to_text(line: dict[str, Any]) -> str:
    """The line as it is printed; floats to 6 significant digits.

    Raises: BenchmarkError when it is none.
    """
    check_line(line)
    return json.dumps(_round(line))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All lines of a folder's ``*.jsonl``, in the order of file names and lines.

    Raises: BenchmarkError naming file and line number of what is no line.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                line = json.loads(text)
                check_line(line)
            except (ValueError, BenchmarkError, AttributeError) as error:
                raise BenchmarkError(f"{path.name}, line {number}: {error}") from error
            found.append(line)
    return found


def find_versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of the project and of installed packages."""
    names = ("recspark", *packages)
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        from recspark import __version__

        return __version__ if package == "recspark" else "not installed"


def _type_name(kind: Any) -> str:
    kinds: Sequence[type] = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(k.__name__ for k in kinds)


def _is_wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _round(v) for k, v in value.items()}
    return [_round(v) for v in value] if isinstance(value, list | tuple) else value
