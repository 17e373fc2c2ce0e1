"""The project's side of `sgns`: the numba kernel on a corpus file."""

import numpy as np

from benchmarks.skip_gram_runs import train_on_cpu, training_config, warm_up
from benchmarks.worker import serve

_held = {}


def load(tokens: str, num_items: int, dim: int) -> None:
    _held.update(tokens=np.load(tokens), num_items=num_items, dim=dim)


def run(
    threads: int, epochs: int, settings: dict[str, float], seed: int, vectors: str | None = None
) -> dict[str, float]:
    """One training; its vectors go to a file when asked for."""
    warm_up(_held["dim"], threads)
    config = training_config(epochs=epochs, num_threads=threads, **settings)
    found, timing = train_on_cpu(_held["tokens"], _held["num_items"], _held["dim"], config, seed)
    if vectors:
        np.save(vectors, found)
    return {"wall": timing.wall, "cpu": timing.cpu}


if __name__ == "__main__":
    serve({"load": load, "run": run})
