"""`sgns`: the CPU kernel against gensim's Word2Vec at equal workers, equal epochs, dim, window and negatives.

Quality at one worker stands beside each ratio (gensim's file mode decays its rate wrongly with more). The last lines of
a catalogue are about time to quality: each point of the curves is a finished training of so many epochs.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import Corpus, make_corpus, neighbour_purity, next_item_recall, write_text
from benchmarks.curve_plot import MEASURES
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Paired, Timing, run_pairs
from benchmarks.peers.venv import peer_python
from benchmarks.worker import Worker

OURS = {"learning_rate": 0.07, "shared_negatives": 20, "batch_sequences": 4096}
"""Chosen on corpora of other seeds (2, 3, 4): row-wise Adagrad's steps are not those of plain SGD, and 20 shared
negatives a block learn about as well from such a corpus as the default 64, in half of the time. In larger batches
threads wait for each other less often."""
DIM = 128
CURVE_EPOCHS = {"project": (1, 2, 4, 8), "peer": (1, 2, 4)}
_QUICK_EPOCHS = {"project": (1, 2), "peer": (1, 2)}
_SEED = 1


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """Lines for each catalogue: one a number of workers, and one a measure of quality, the first with the curves."""
    sizes = [(5_000, 200_000)] if quick else [(50_000, 5_000_000), (1_000_000, 5_000_000)]
    runs = 2 if quick else 5
    for num_items, num_tokens in sizes:
        corpus = make_corpus(num_items, num_tokens)
        with tempfile.TemporaryDirectory() as folder, _open_sides(Path(folder), corpus) as sides:
            yield from _compare(sides, runs, command)
            yield from _draw_curves(sides, _QUICK_EPOCHS if quick else CURVE_EPOCHS, command)


class _Sides:
    """Both sides, the corpus loaded."""

    def __init__(self, folder: Path, corpus: Corpus, project: Worker, peer: Worker) -> None:
        self.corpus, self._folder = corpus, folder
        self.project, self.peer = project, peer
        np.save(folder / "tokens.npy", corpus.tokens)
        write_text(corpus.tokens, folder / "tokens.txt")
        shape = {"num_items": len(corpus.topic), "dim": DIM}
        project.ask("load", tokens=str(folder / "tokens.npy"), **shape)
        peer_versions = peer.ask("load", text=str(folder / "tokens.txt"), **shape)
        self.versions = find_versions("numpy", "numba") | {f"peer {k}": v for k, v in peer_versions.items()}
        self.counts = corpus.counts

    def __enter__(self) -> "_Sides":
        return self

    def __exit__(self, *error: object) -> None:
        self.project.__exit__(*error)
        self.peer.__exit__(*error)

    def train(self, side: str, threads: int, epochs: int) -> Timing:
        """One timed training."""
        return Timing(**self._ask(side, threads=threads, epochs=epochs))

    def score(self, side: str, epochs: int) -> dict[str, float]:
        """Seconds and quality of a training with one worker."""
        path = self._folder / f"{side}.npy"
        timing = self._ask(side, threads=1, epochs=epochs, vectors=str(path))
        vectors = np.load(path)
        return {
            "epochs": epochs,
            **timing,
            "neighbour_purity": neighbour_purity(vectors, self.corpus.topic, self.counts),
            "next_item_recall@20": next_item_recall(vectors, self.corpus.held_out, self.counts),
        }

    def work(self, **more: Any) -> dict[str, Any]:
        """What one run does."""
        return {
            "num_items": len(self.corpus.topic), "tokens": self.corpus.tokens.size, "dim": DIM, "window": 5,
            "num_negatives": 5, "project": OURS, **more,
        }  # fmt: skip

    def _ask(self, side: str, **arguments: Any) -> dict[str, float]:
        if side == "project":
            return self.project.ask("run", settings=OURS, seed=_SEED, **arguments)
        return self.peer.ask("run", seed=_SEED, **arguments)


def _open_sides(folder: Path, corpus: Corpus) -> _Sides:
    peer = Worker("benchmarks.peers.gensim_word2vec", peer_python("gensim"))
    return _Sides(folder, corpus, Worker("benchmarks.sgns_worker"), peer)


def _compare(sides: _Sides, runs: int, command: str) -> Iterator[dict[str, Any]]:
    quality = {side: sides.score(side, 1) for side in ("project", "peer")}
    for workers in (1, 2):
        paired = run_pairs(
            lambda workers=workers: sides.train("peer", workers, 1),  # type: ignore[misc]
            lambda workers=workers: sides.train("project", workers, 1),  # type: ignore[misc]
            runs,
        )
        tokens = sides.corpus.tokens.size
        speed = {side: round(tokens / paired.median_seconds(side)["wall"]) for side in ("project", "peer")}  # type: ignore[arg-type]
        yield speed_line(
            "sgns", f"gensim workers={workers}", paired, sides.work(workers=workers, epochs=1), sides.versions, command,
            tokens_per_second=speed, quality_at_one_worker=quality,
        )  # fmt: skip


def _draw_curves(sides: _Sides, epochs: dict[str, tuple[int, ...]], command: str) -> Iterator[dict[str, Any]]:
    curves = {side: [sides.score(side, n) for n in counts] for side, counts in epochs.items()}
    work = sides.work(workers=1, epochs={side: list(counts) for side, counts in epochs.items()})
    more: dict[str, Any] = {"curves": curves}
    for measure in MEASURES:
        paired, is_reached = time_to_quality(curves, measure)
        peer = f"gensim time to its best {measure.replace('_', ' ')}"
        yield speed_line(
            "sgns", peer, paired, work, sides.versions, command, is_quality_reached=is_reached, **more
        )  # fmt: skip
        more = {}


def time_to_quality(curves: dict[str, list[dict[str, float]]], measure: str) -> tuple[Paired, bool]:
    """Both sides' seconds: the peer's at its best quality, ours of the shortest training that is as good.

    Where none of ours is, our longest one counts, and the second value is False.
    """
    best = max(curves["peer"], key=lambda point: point[measure])
    reached = [point for point in curves["project"] if point[measure] >= best[measure]]
    ours = min(reached, key=lambda point: point["wall"]) if reached else curves["project"][-1]
    return Paired([Timing(ours["wall"], ours["cpu"])], [Timing(best["wall"], best["cpu"])]), bool(reached)
