"""`growth`: how the CPU kernel's cost a token grows with the catalogue, the dimension and the corpus.

One of the three grows at a time; each line compares a token's cost with the smallest setting's (ratio < 1: dearer).
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.corpus import make_corpus
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.skip_gram_runs import train_on_cpu, training_config, warm_up

_BASE = {"num_items": 50_000, "dim": 64, "tokens": 1_000_000}
_QUICK_BASE = {"num_items": 5_000, "dim": 64, "tokens": 100_000}
_GROWN = {"num_items": (500_000, 5_000_000), "dim": (128, 256), "tokens": (10_000_000, 100_000_000)}
_QUICK_GROWN = {"num_items": (50_000,), "dim": (128,), "tokens": (1_000_000,)}


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each grown setting."""
    base = _QUICK_BASE if quick else _BASE
    for name, values in (_QUICK_GROWN if quick else _GROWN).items():
        for value in values:
            yield compare(base, base | {name: value}, command, runs=1 if value >= 100_000_000 else 2)


def compare(base: dict[str, int], grown: dict[str, int], command: str, runs: int) -> dict[str, Any]:
    """Seconds a million tokens of two settings, one thread."""
    paired = run_pairs(cost_of(base), cost_of(grown), runs)
    versions = find_versions("numpy", "numba")
    work = grown | {"base": base, "threads": 1, "unit": "a million tokens"}
    rate = round(1e6 / paired.median_seconds("project")["wall"])
    return speed_line("growth", "the smallest setting", paired, work, versions, command, tokens_per_second=rate)


def cost_of(setting: dict[str, int]) -> Any:
    """A training of a setting, as a function that gives its seconds a million tokens."""
    corpus = make_corpus(setting["num_items"], setting["tokens"])
    config = training_config(epochs=1, num_threads=1)

    def train() -> Timing:
        warm_up(setting["dim"], 1)
        _, timing = train_on_cpu(corpus.tokens, setting["num_items"], setting["dim"], config)
        millions = corpus.tokens.size / 1e6
        return Timing(timing.wall / millions, timing.cpu / millions)

    return train
