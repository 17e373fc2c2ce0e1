"""The stages: where each runs, what it writes, and which table or folder means done.

A stage's key hashes its own config sections, the keys of the stages it reads and the format versions of its tables:
two configs share work exactly as far as they agree.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from recspark.contracts.tables import TABLES

SPARK, TORCH, INDEX = SIDES = ("spark", "torch", "index")
"""Each side runs as a process of its own; they meet only in data."""


@dataclass(frozen=True)
class StageSpec:
    """One kind of stage: ``tables`` is what it writes, the marker last; or a ``folder``, whose manifest means done.

    ``side_folder`` is a folder written before the marker: readers of the tables do without it, a run mends it.
    """

    name: str
    side: str
    tables: tuple[str, ...] = ()
    folder: str | None = None
    side_folder: str | None = None

    @property
    def marker(self) -> str | None:
        """The table whose commit means done, None where a folder's manifest does."""
        return None if self.folder else self.tables[-1]


@dataclass(frozen=True)
class PlannedStage:
    """A stage of one run: ``upstream`` maps stages read to their keys, ``sections`` is the config it depends on."""

    spec: StageSpec
    key: str
    sections: dict[str, Any]
    upstream: dict[str, str]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.spec.name

    @property
    def id(self) -> str:
        """``model_id`` of train, ``index_id`` of index: the first 12 hex digits of the key."""
        return short_id(self.key)


INGEST = StageSpec("ingest", SPARK, ("quarantine", "events"))
INGEST_EDGES = StageSpec("ingest", SPARK, ("quarantine", "items", "item_graph"))
SESSIONS = StageSpec("sessions", SPARK, ("quarantine", "items", "users", "user_histories", "sessions"))
GRAPH = StageSpec("graph", SPARK, ("item_graph",))
ITEM_KNN_GRAPH = StageSpec("item_knn_graph", SPARK, ("item_graph",))
GRAPH_EDGES = StageSpec("graph_edges", SPARK, ("item_graph_edges",))
SUMS_TABLE = "item_pair_sums"
"""Side table of a graph that is kept up to date by days."""
ALS = StageSpec("als", SPARK, ("als_factors",))
NEGATIVES = StageSpec("negatives", SPARK, ("user_negatives",))
WALKS = StageSpec("walks", SPARK, ("walks",))
TRAIN = StageSpec("train", TORCH, ("user_embeddings", "item_embeddings"), side_folder="models")
INDEX_BUILD = StageSpec("index", INDEX, folder="indexes")
EVALUATE = StageSpec("evaluate", INDEX, ("recommendations", "metrics"))
RELEASE = StageSpec("release", INDEX, ("releases",))
"""Publishes only: what becomes ACTIVE is decided by `recspark release`."""
RECOMMEND = StageSpec("recommend", INDEX, ("recommendations",))
"""Not part of a run: by `recspark recommend` and ``jobs/recommend.py``."""

STAGE_NAMES = (
    "ingest", "sessions", "graph", "graph_edges", "item_knn_graph", "als", "negatives", "walks", "train", "index",
    "evaluate", "release",
)  # fmt: skip


def with_sums(graph: StageSpec) -> StageSpec:
    """A graph's stage that keeps its sums."""
    return replace(graph, tables=(SUMS_TABLE, *graph.tables))


def stage_key(spec: StageSpec, sections: dict[str, Any], upstream: dict[str, str]) -> str:
    """Hex SHA-256 over what decides a stage's output.

    ``sections`` are plain (JSON-able) values; ``upstream`` maps each input to the key of the stage that makes it. The
    stage's name is no part of it: two stages that do the same work share it.
    """
    decides = {
        "sections": sections,
        "upstream": upstream,
        "formats": {t: TABLES[t].format_version for t in spec.tables},
        "folder": spec.folder,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def short_id(key: str) -> str:
    """``model_id`` or ``index_id``: the first 12 hex digits of the stage's key."""
    return key[:12]
