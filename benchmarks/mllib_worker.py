"""The peer's side of `sgns_mllib`: Word2Vec of Spark MLlib in a JVM that stays warm."""

import importlib.metadata
import tempfile
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.process_tree import timed_tree
from benchmarks.worker import serve
from recspark.lake.arrow import find_table
from recspark.pipeline.open_run import open_run

_held: dict[str, Any] = {}


def load(conf: str) -> dict[str, str]:
    """Starts Spark and trains once on a part of the walks, so that the JVM has compiled."""
    from pyspark.sql import functions as F

    from recspark.lake.spark import build_spark

    run_ = open_run(conf)
    walks = find_table(run_.lake, run_.stages["walks"], "walks")
    spark = build_spark(run_)
    _held.update(spark=spark, uri=walks.uri, version=walks.version, F=F)
    ids = find_table(run_.lake, run_.stages["ingest"], "items")
    _held["ids"] = spark.read.format("delta").option("versionAsOf", ids.version).load(ids.uri)
    _fit(dim=32, window=5, epochs=1, num_partitions=2, limit=5000)
    return {"peer pyspark": importlib.metadata.version("pyspark")}


def run(dim: int, window: int, epochs: int, num_partitions: int, vectors: str) -> dict[str, float]:
    """Walks to a Parquet file of vectors."""
    with tempfile.TemporaryDirectory() as folder:
        with timed_tree() as timing:
            model = _fit(dim, window, epochs, num_partitions)
            model.getVectors().write.parquet(f"{folder}/vectors")
        _save(f"{folder}/vectors", dim, vectors)
    return {"wall": timing.wall, "cpu": timing.cpu}


def _fit(dim: int, window: int, epochs: int, num_partitions: int, limit: int | None = None) -> Any:
    from pyspark.ml.feature import Word2Vec

    table = _held["spark"].read.format("delta").option("versionAsOf", _held["version"]).load(_held["uri"])
    words = table.select(_held["F"].col("walk").cast("array<string>").alias("words"))
    words = words.limit(limit) if limit else words
    word2vec = Word2Vec(
        vectorSize=dim, windowSize=window, maxIter=epochs, numPartitions=num_partitions, minCount=0, seed=1,
        inputCol="words", outputCol="vector",
    )  # fmt: skip
    return word2vec.fit(words)


def _save(folder: str, dim: int, path: str) -> None:
    """float32 [V, dim] by outside id, which is a number here."""
    idx_to_id = {row.item_idx: int(row.item_id) for row in _held["ids"].select("item_idx", "item_id").collect()}
    rows = pq.read_table(folder).to_pylist()
    found = np.zeros((max(idx_to_id.values()) + 1, dim), np.float32)
    for row in rows:
        found[idx_to_id[int(row["word"])]] = row["vector"]["values"]
    np.save(path, found)


if __name__ == "__main__":
    serve({"load": load, "run": run})
