"""Runs one benchmark and prints its lines: ``python -m benchmarks NAME [--quick] [--save]``.

python -m benchmarks sgns --quick
python -m benchmarks quality gowalla skip_gram [--seeds 1,2,3] [--save] [key=value ...]
python -m benchmarks ablation s3-beauty [--seeds 1,2,3] [--save] [key=value ...]
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lines import to_text
from benchmarks.places import RESULTS
from benchmarks.worker import WorkerError, take_stdout
from recspark.errors import RecsparkError

SPEED = (
    "sgns", "sgns_torch", "sgns_mllib", "two_tower_step", "loader", "ranks", "growth",
    "cooccurrence_kernel", "cooccurrence_spark", "walks_kernel", "walks_spark", "growth_spark",
    "index_build", "index_search", "recommend",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Prints a line a figure; 0 when done, 2 when the user has to change something."""
    parsed = _parser().parse_intermixed_args(arguments)
    lines_out = take_stdout()
    command = shlex.join(["python", "-m", "benchmarks", *(a for a in arguments if a != "--save")])
    try:
        for line in _run(parsed, command):
            text = to_text(line)
            print(text, file=lines_out, flush=True)
            if parsed.save:
                _save(parsed, text)
    except (RecsparkError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    names = (*SPEED, "quality", "ablation")
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "rest", nargs="*", metavar="DATASET MODEL [key=value ...]", help="of quality; MODEL not of ablation"
    )
    parser.add_argument("--quick", action="store_true", help="a size that takes less than a minute")
    parser.add_argument("--save", action="store_true", help="also append to benchmarks/results/NAME.jsonl")
    parser.add_argument("--seeds", default="1,2,3", help="of quality; 1,2,3 by default")
    return parser


def _run(parsed: argparse.Namespace, command: str) -> Iterator[dict[str, Any]]:
    if parsed.name == "ablation":
        yield from _run_ablation(parsed, command)
        return
    if parsed.name != "quality":
        if parsed.rest:
            raise RecsparkError(f"{parsed.name}: takes no further words, got {' '.join(parsed.rest)}")
        yield from importlib.import_module(f"benchmarks.{parsed.name}").run(parsed.quick, command)
        return
    from benchmarks.quality import run_quality

    if len(parsed.rest) < 2:
        raise RecsparkError("quality: needs DATASET MODEL, such as: python -m benchmarks quality gowalla skip_gram")
    dataset, model, *overrides = parsed.rest
    seeds = [int(s) for s in parsed.seeds.split(",")]
    yield from run_quality(dataset, model, seeds[:1] if parsed.quick else seeds, overrides, command)


def _run_ablation(parsed: argparse.Namespace, command: str) -> Iterator[dict[str, Any]]:
    from benchmarks.ablation import run_ablation

    if not parsed.rest:
        raise RecsparkError("ablation: needs DATASET, such as: python -m benchmarks ablation s3-beauty")
    seeds = [int(s) for s in parsed.seeds.split(",")]
    yield from run_ablation(parsed.rest[0], seeds[:1] if parsed.quick else seeds, parsed.rest[1:], command)


def _save(parsed: argparse.Namespace, text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    name = f"{parsed.name}-{parsed.rest[0]}" if parsed.name in ("quality", "ablation") else parsed.name
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
