"""The project's side of `sgns_mllib`: stage `train` on a lake that has walks, in a process that has compiled before."""

import numpy as np

from benchmarks.paired import timed
from benchmarks.skip_gram_runs import warm_up
from benchmarks.worker import serve
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table, open_table
from recspark.pipeline.open_run import open_run

_held = {}


def load(conf: str, dim: int) -> dict[str, int]:
    """Compiles the kernel; the tokens of the walks."""
    _held["conf"] = conf
    run = open_run(conf)
    warm_up(dim, run.config.training.num_threads or 1)
    walks = find_table(run.lake, run.stages["walks"], "walks")
    lists = open_table(walks.lake, walks.name, walks.version).to_pyarrow_table(columns=["walk"])["walk"]
    return {"tokens": sum(len(chunk.flatten()) for chunk in lists.chunks)}


def run(vectors: str) -> dict[str, float]:
    """Walks to committed item_embeddings."""
    from recspark.training.job import train

    opened = open_run(_held["conf"])
    with timed() as timing:
        train(opened)
    found = read_item_vectors(find_table(opened.lake, opened.stages["train"], "item_embeddings"), with_ids=True)
    np.save(vectors, found.vectors[np.argsort(found.item_id.to_numpy(zero_copy_only=False).astype(np.int64))])
    return {"wall": timing.wall, "cpu": timing.cpu}


if __name__ == "__main__":
    serve({"load": load, "run": run})
