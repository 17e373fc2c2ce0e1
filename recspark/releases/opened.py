"""One release, held open: its index, user tower and ranking head; the item vectors are read when they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts.manifest import Manifest
from recspark.errors import QueryError, ReleaseError, first_line
from recspark.evaluate.ranking_head import StoredRankingHead
from recspark.evaluate.ranking_head_file import FACT as HEAD
from recspark.evaluate.ranking_head_file import read_ranking_head
from recspark.evaluate.user_tower import StoredUserTower
from recspark.evaluate.user_tower_file import FACT as TOWER
from recspark.evaluate.user_tower_file import read_user_tower
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.index.search import ShardedIndex
from recspark.index.store import open_index
from recspark.index.topk import Ids
from recspark.lake.arrow import TableAt
from recspark.releases.binding import hash_vectors, open_bound
from recspark.releases.manifest import check_folders, read_release_manifest
from recspark.releases.registry import ReleaseRow
from recspark.retrieval.rerank import Reranker
from recspark.retrieval.user_encoder import MeanEncoder, TowerEncoder, UserEncoder

_EMBEDDINGS = "item_embeddings"


@dataclass(frozen=True)
class Catalogue:
    """item_idx and item_id of items that lists may hold, by ascending item_idx."""

    item_idx: Ids
    item_id: pa.Array

    def name(self, item_idx: Ids) -> list[str]:
        """The ids of known item_idx."""
        names: list[str] = self.item_id.take(pa.array(np.searchsorted(self.item_idx, item_idx))).to_pylist()
        return names


@dataclass(frozen=True)
class Opened:
    """One release, opened: nothing of it changes any more."""

    row: ReleaseRow
    manifest: Manifest
    index: ShardedIndex
    embeddings: TableAt
    """`item_embeddings` at the version that is bound."""
    tower: StoredUserTower | None
    head: StoredRankingHead | None

    @cached_property
    def vectors(self) -> ItemVectors:
        """The model's item vectors; read when the first history is asked for.

        Raises: ReleaseError when they are not those that the release was made with.
        """
        table = self.embeddings
        vectors = read_item_vectors(table, with_ids=True)
        if hash_vectors(vectors) != self.manifest.facts["vectors_sha256"]:
            raise ReleaseError(
                f"{table.uri}: version {table.version} holds other vectors or ids than release {self.row.release_id} "
                f"was made with; restore the table, or activate another release"
            )
        return vectors

    @cached_property
    def encoder(self) -> UserEncoder:
        """How users are made of histories."""
        return TowerEncoder(self.vectors, self.tower) if self.tower else MeanEncoder(self.vectors)

    @cached_property
    def reranker(self) -> Reranker | None:
        """What ranks once more what was retrieved; None where the model has no ranking head."""
        return Reranker(self.vectors, self.head) if self.head else None

    @property
    def indexed(self) -> Catalogue:
        """The items that the index holds."""
        return Catalogue(self.index.item_ids.item_idx, self.index.item_ids.item_id)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Those and the model's: an item without direction, or one that only the index has a vector for, is in one."""
        assert self.vectors.item_id is not None, "read with ids"
        others = np.flatnonzero(~np.isin(self.vectors.item_idx, self.indexed.item_idx))
        if not len(others):
            return self.indexed
        item_idx = np.concatenate([self.indexed.item_idx, self.vectors.item_idx[others]])
        item_id = pa.concat_arrays([self.indexed.item_id, self.vectors.item_id.take(pa.array(others))])
        order = np.argsort(item_idx)
        return Catalogue(item_idx[order], item_id.take(pa.array(order)))

    @cached_property
    def idx_of(self) -> dict[str, int]:
        """item_id -> item_idx of every item that a history may hold."""
        assert self.vectors.item_id is not None, "read with ids"
        return dict(zip(self.vectors.item_id.to_pylist(), self.vectors.item_idx.tolist(), strict=True))


def open_row(lake: str, row: ReleaseRow) -> Opened:
    """The release with its index and what its model's folder holds for serving; all files are compared with the
    manifests that the release binds before they are used.
    """
    manifest = read_release_manifest(lake, row)
    check_folders(lake, row, manifest)
    embeddings = open_bound(lake, _EMBEDDINGS, manifest.inputs["tables"][_EMBEDDINGS])
    facts = embeddings.record.facts
    tower = read_user_tower(lake, row.model_id) if TOWER in facts else None
    head = read_ranking_head(lake, row.model_id) if HEAD in facts else None
    return Opened(row, manifest, open_index(lake, row.index_id), embeddings, tower, head)


def to_idx(index: ShardedIndex, item_ids: Sequence[str] | None, name: str) -> NDArray[np.int64] | None:
    """The item_idx of those that can be found; None for None.

    Raises: QueryError for anything but a list of ids; ``name`` is what the caller calls it.
    """
    if item_ids is None:
        return None
    if isinstance(item_ids, str | bytes):
        raise QueryError(f"{name}: takes a list of item ids, got the text {item_ids!r}")
    try:
        wanted = pa.array(item_ids, pa.string())
    except (pa.ArrowException, TypeError) as error:
        raise QueryError(f"{name}: takes a list of item ids, which are texts ({first_line(error)})") from error
    rows = pc.index_in(wanted, value_set=index.item_ids.item_id).drop_null()
    found: NDArray[np.int64] = index.item_ids.item_idx[rows.to_numpy()]
    return found
