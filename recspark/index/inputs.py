"""What one build of an index is made of: its run and table, and the items read from it, checked and completed."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recspark.config.index import IndexConfig
from recspark.config.plan import Run
from recspark.contracts import columns as c
from recspark.contracts.commits import find_stale_input
from recspark.contracts.shards import shard_of
from recspark.contracts.stages import PlannedStage
from recspark.contracts.tables import USER_EMBEDDINGS
from recspark.index.build import build_digest
from recspark.index.files import FOLDER
from recspark.index.fill import fill_vectors
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.index.metric import Floats
from recspark.index.vectors import check_vectors, drop_zero_vectors, hash_sample
from recspark.lake.arrow import TableAt, find_done, find_table, stream_table
from recspark.lake.folders import folder_uri
from recspark.logs import log

_STAGE = "index"
_ROWS_AT_ONCE = 100_000
_MOST_USERS = 200_000
"""Rows of users that are looked at for a sample."""


@dataclass(frozen=True)
class Build:
    """What all steps of one build share."""

    run: Run
    stage: PlannedStage
    config: IndexConfig
    table: TableAt

    @property
    def folder(self) -> str:
        """Where it goes."""
        return folder_uri(self.run.lake, FOLDER, self.stage.id)

    @property
    def digest(self) -> str:
        """What the output hangs on; receipts and the id map carry it."""
        return build_digest(key=self.stage.key, version=self.table.version, seed=self.run.seed)

    def is_done(self) -> bool:
        """Whether the index is published, and of these vectors."""
        done = find_done(self.run.lake, self.stage)
        return bool(done and find_stale_input(done[1].inputs, self.table.name, self.table.version) is None)


def read_items(build: Build, shards: set[int] | None = None, num_shards: int = 1) -> ItemVectors:
    """The items to index, checked; of some shards only, or (None) all of them, with those that are filled in."""
    part = None if shards is None else lambda item_idx: np.isin(shard_of(item_idx, num_shards), [*shards])
    items = read_item_vectors(build.table, with_ids=True, part=part)
    check_vectors(items)
    num_rows, items = len(items), drop_zero_vectors(items, is_part=part is not None)
    if len(items) < num_rows:
        log(_STAGE, "zero vectors left out: cosine cannot compare them", num_left_out=num_rows - len(items))
    return _fill(build, items) if build.config.fill else items


def count_items(build: Build) -> tuple[int, int]:
    """(items that have a vector of the model, floats a vector), without reading one."""
    is_own = pc.field(c.MODEL_ID) == str(build.table.record.facts[c.MODEL_ID])
    batches = stream_table(build.table, [c.IDX], _ROWS_AT_ONCE, is_own)
    return sum(batch.num_rows for batch in batches), int(build.table.record.facts["embedding_dim"])


def read_users(build: Build) -> Floats | None:
    """float32[U, dim], the vectors of a sample (by hash) of the model's users, as many as items are searched to measure
    recall; None without users. Of a large table only the first rows are read.
    """
    version = build.table.record.tables.get(USER_EMBEDDINGS.name)
    if version is None:
        return None
    is_own = pc.field(c.MODEL_ID) == str(build.table.record.facts[c.MODEL_ID])
    users = replace(build.table, name=USER_EMBEDDINGS.name, version=version)
    parts, num_read = [], 0
    for batch in stream_table(users, [c.IDX, c.VECTOR], _ROWS_AT_ONCE, is_own):
        parts.append(batch)
        num_read += batch.num_rows
        if num_read >= _MOST_USERS:
            break
    if not num_read:
        return None
    table = pa.Table.from_batches(parts)
    idx = table[c.IDX].to_numpy().astype(np.int64)
    rows = hash_sample(idx, build.config.num_queries, build.run.seed)
    vectors = table[c.VECTOR].take(pa.array(rows)).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    found: Floats = vectors.astype(np.float32).reshape(len(rows), -1)
    return found[found.any(axis=1) & np.isfinite(found).all(axis=1)]


def _fill(build: Build, items: ItemVectors) -> ItemVectors:
    run, ways = build.run, build.config.fill
    known = find_table(run.lake, run.producer("items"), "items")
    graph = find_table(run.lake, run.producer("item_graph"), "item_graph") if "neighbours" in ways else None
    features = tuple(f.name for f in run.config.features if f.of == "item" and f.kind in ("categorical", "multi"))
    filled, counts = fill_vectors(items, known, graph, features, ways)
    log(_STAGE, "vectors of items that the model has none for", **counts)
    return filled
