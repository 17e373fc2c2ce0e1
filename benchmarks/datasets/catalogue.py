"""Every data set of `quality`: how it is prepared, which metrics its papers report, and whether it is a graph."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import scipy.sparse as sp

from benchmarks.datasets import diginetica, gowalla, graphs, s3rec
from benchmarks.lines import BenchmarkError
from benchmarks.places import WORK, shared_data

Prepare = Callable[[Path, Path], None]
"""(folder of the raw data, Parquet file to write)."""


@dataclass(frozen=True)
class Dataset:
    """``raw`` names the file or folder under the shared data. Without ``prepare`` the config reads that itself."""

    name: str
    raw: str
    metrics: tuple[str, ...]
    prepare: Prepare | None = None
    read_labels: Callable[[Path], sp.csr_array] | None = None
    """Of a graph: labels [N, L] of its nodes, whose item_id is the row's number."""
    main: str = ""
    """The metric that verdicts are about; the first by default. Of a graph `_raw` may stand in it (see
    `quality.score_graph`): the scoring that its published figures have."""

    @property
    def main_metric(self) -> str:
        """One of the metrics, or the raw scoring of one."""
        return self.main or self.metrics[0]

    @property
    def prepared(self) -> Path:
        """The Parquet file that the configs read."""
        return WORK / "data" / f"{self.name}.parquet"


_RANKING = ("recall@20", "ndcg@20")
_NEXT_ITEM = ("hr@10", "ndcg@10")
_ALL = (
    Dataset("gowalla", "gowalla-lightgcn", _RANKING, gowalla.prepare),
    Dataset("s3-beauty", "s3rec/Beauty.txt", _NEXT_ITEM, s3rec.prepare_sequences),
    Dataset("s3-sports", "s3rec/Sports_and_Outdoors.txt", _NEXT_ITEM, s3rec.prepare_sequences),
    Dataset("bert4rec-beauty", "amazon-beauty-bert4rec/beauty.txt.gz", _NEXT_ITEM, s3rec.prepare_pairs),
    Dataset("diginetica", "diginetica-sessions", ("hr@20", "mrr@20"), diginetica.prepare),
    Dataset("online-retail", "online-retail/by-day", _RANKING),
    Dataset("movielens", "ml-latest-small", (*_RANKING, "recall@20:cold_items")),
    Dataset(
        "blogcatalog", "blogcatalog/blogcatalog.mat", graphs.f1_names(10, 50, 90), graphs.prepare_blogcatalog,
        graphs.read_blogcatalog_labels, main="micro_f1_raw@50",
    ),
    Dataset(
        "dblp", "dblp-prone", graphs.f1_names(1, 5, 9), graphs.prepare_dblp, graphs.read_dblp_labels, main="micro_f1@5",
    ),
)  # fmt: skip
DATASETS = {dataset.name: dataset for dataset in _ALL}


def find_dataset(name: str) -> Dataset:
    """A data set by name, prepared.

    Raises: BenchmarkError when there is none of that name, or its raw data is not there.
    """
    if name not in DATASETS:
        raise BenchmarkError(f"quality: no data set {name!r}; one of {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    raw = shared_data() / dataset.raw
    if not raw.exists():
        raise BenchmarkError(
            f"quality {name}: the public data sets are not beside this checkout (shared/data/{dataset.raw}); put them "
            f"there, or set RECSPARK_DATA to the folder that holds them"
        )
    if dataset.prepare and not dataset.prepared.exists():
        dataset.prepared.parent.mkdir(parents=True, exist_ok=True)
        part = dataset.prepared.with_suffix(f".{os.getpid()}.part")
        dataset.prepare(raw, part)
        part.rename(dataset.prepared)
    return dataset
