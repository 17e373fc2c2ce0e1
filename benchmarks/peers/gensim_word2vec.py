"""The peer's side of `sgns`: gensim's Word2Vec on a text file, read by its own threads (its fastest way in).

Runs in gensim's environment: nothing of recspark here.
"""

import importlib.metadata
import time

import numpy as np
from gensim.models import Word2Vec

from benchmarks.worker import serve

_held = {}


def load(text: str, num_items: int, dim: int) -> dict[str, str]:
    _held.update(text=text, num_items=num_items, dim=dim)
    names = ("gensim", "numpy", "scipy")
    return {name: importlib.metadata.version(name) for name in names}


def run(threads: int, epochs: int, seed: int, vectors: str | None = None) -> dict[str, float]:
    """One training with word2vec's defaults; building the vocabulary is not timed."""
    model = Word2Vec(
        vector_size=_held["dim"], window=5, negative=5, sg=1, hs=0, sample=0, min_count=1, workers=threads, seed=seed,
        alpha=0.025, min_alpha=0.0001,
    )  # fmt: skip
    model.build_vocab(corpus_file=_held["text"])
    wall, cpu = time.perf_counter(), time.process_time()
    model.train(
        corpus_file=_held["text"], total_examples=model.corpus_count, total_words=model.corpus_total_words,
        epochs=epochs,
    )  # fmt: skip
    timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if vectors:
        _save(model, vectors)
    return timing


def _save(model: Word2Vec, path: str) -> None:
    """float32 [V, dim] by item number; zero for items that are not in the text."""
    found = np.zeros((_held["num_items"], _held["dim"]), np.float32)
    found[np.array(model.wv.index_to_key, dtype=np.int64)] = model.wv.vectors
    np.save(path, found)


if __name__ == "__main__":
    serve({"load": load, "run": run})
