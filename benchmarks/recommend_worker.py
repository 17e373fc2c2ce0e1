"""Both sides of `recommend`, each in a process of its own: the lists of all users, read from Delta, written as Parquet.

The peer is what one writes by hand: user vectors as a sparse product, scores of all items by numpy in blocks of users,
seen items set to -inf, argpartition, then a sort of what is left.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from deltalake import DeltaTable

from benchmarks.growth_worker import peak
from benchmarks.paired import timed
from benchmarks.recommend_lake import plan_lake, write_lake
from benchmarks.worker import serve
from recspark.pipeline.recommend import plan_batch, write_batch

_BLOCK = 1024
_held: dict[str, Any] = {}


def build(folder: str, num_users: int, num_items: int) -> None:
    """Writes the lake, in a process that has no other part."""
    write_lake(plan_lake(Path(folder), 1, "auto"), num_users, num_items)


def load(folder: str, k: int, search: str) -> None:
    """Says where the lake is; nothing is read before a run."""
    _held.update(folder=Path(folder), k=k, search=search)


def run() -> dict[str, Any]:
    """Lists all users once."""
    with timed() as timing:
        listed = _run_peer() if _held["search"] == "peer" else _run_project()
    return {"wall": timing.wall, "cpu": timing.cpu, "lists": listed}


def _run_project() -> int:
    batch = plan_batch(plan_lake(_held["folder"], _held["k"], _held["search"]))
    version = write_batch(batch)
    table = DeltaTable(f"{batch.run.lake}/tables/recommendations", version=version)
    return int(sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist()))


def _run_peer() -> int:
    k, tables = _held["k"], _held["folder"] / "lake" / "tables"
    items = DeltaTable(tables / "item_embeddings").to_pyarrow_table(columns=["idx", "id", "vector"]).sort_by("idx")
    users = DeltaTable(tables / "users").to_pyarrow_table(columns=["user_idx", "user_id"]).sort_by("user_idx")
    histories = (
        DeltaTable(tables / "user_histories").to_pyarrow_table(columns=["user_idx", "item_idx"]).sort_by("user_idx")
    )
    vectors = np.stack(items["vector"].to_numpy())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = histories["item_idx"].combine_chunks()
    seen = sp.csr_array(
        (np.ones(len(lists.values), np.float32), lists.values.to_numpy(), lists.offsets.to_numpy()),
        shape=(len(lists), len(vectors)),
    )
    with tempfile.TemporaryDirectory() as folder:
        return _rank(seen, vectors, items["id"].combine_chunks(), users["user_id"].combine_chunks(), k, Path(folder))


def _rank(seen: Any, vectors: np.ndarray, ids: pa.Array, user_ids: pa.Array, k: int, folder: Path) -> int:
    num_users = 0
    for start in range(0, seen.shape[0], _BLOCK):
        block = seen[start : start + _BLOCK]
        queries = block @ vectors
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        scores = queries @ vectors.T
        scores[block.nonzero()] = -np.inf
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1)
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        offsets = pa.array(np.arange(0, best.size + 1, k, dtype=np.int32))
        rows = pa.table({
            "user_id": user_ids.slice(start, _BLOCK),
            "item_ids": pa.ListArray.from_arrays(offsets, ids.take(pa.array(best.ravel()))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(values.ravel())),
        })  # fmt: skip
        pq.write_table(rows, folder / f"part-{start}.parquet")
        num_users += len(rows)
    return num_users


if __name__ == "__main__":
    serve({"build": build, "load": load, "run": run, "peak": peak})
