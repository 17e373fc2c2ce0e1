"""Canary queries: a few items whose neighbours are written down when a release is made, to be asked for again later.

canaries.parquet: item_id "85123A", query [.1, ...], neighbour_ids ["22470", ...], scores [.93, ...]

They are the items with the smallest hashes of their ids, so releases of one catalogue share most of them, and what two
releases have in common can be told without opening either's index.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import Floats
from recspark.index.recall import without_own
from recspark.index.search import ShardedIndex
from recspark.index.topk import NO_ID, Ids
from recspark.lake.storage import open_filesystem

FILE = "canaries.parquet"
NUM_NEIGHBOURS = 10
_QUERY, _NEIGHBOURS = "query", "neighbour_ids"
_SAME_SCORE = 1e-3
"""Items with scores this close, relative to the largest, may change places: other processors round in another way."""
_IDS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Canaries:
    """C queries and what they found: ids, best first (short lists where the index holds fewer), and scores."""

    item_ids: list[str]
    queries: Floats
    """[C, D]."""
    neighbour_ids: list[list[str]]
    scores: list[list[float]]

    def __len__(self) -> int:
        return len(self.item_ids)


def choose_canaries(vectors: ItemVectors, num_canaries: int) -> NDArray[np.int64]:
    """Rows of the items to ask for: those with a query vector that have the smallest hashes of their ids."""
    assert vectors.item_id is not None, "read with ids"
    hashes = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _IDS_AT_ONCE):
        ids = vectors.item_id.slice(start, _IDS_AT_ONCE).to_pylist()
        hashes[start : start + len(ids)] = [zlib.crc32(item_id.encode()) for item_id in ids]
    rows = np.flatnonzero(vectors.queries.any(axis=1))
    return np.sort(rows[np.argsort(hashes[rows], kind="stable")[:num_canaries]])


def ask_canaries(index: ShardedIndex, vectors: ItemVectors, num_canaries: int) -> Canaries:
    """The neighbours of the chosen items through the index, at its own effort."""
    rows = choose_canaries(vectors, num_canaries)
    assert vectors.item_id is not None, "read with ids"
    item_ids = [vectors.item_id[int(row)].as_py() for row in rows]
    queries = np.ascontiguousarray(vectors.queries[rows])
    return Canaries(item_ids, queries, *_ask(index, queries, vectors.item_idx[rows]))


def find_canary_flaws(index: ShardedIndex, canaries: Canaries) -> list[str]:
    """One line for each canary whose neighbours are not what they were."""
    rows = pc.index_in(pa.array(canaries.item_ids, pa.string()), value_set=index.item_ids.item_id)
    known = rows.fill_null(NO_ID).to_numpy()
    item_idx = np.where(known == NO_ID, NO_ID, index.item_ids.item_idx[np.maximum(known, 0)])
    ids, scores = _ask(index, canaries.queries, item_idx)
    flaws = []
    for row, item_id in enumerate(canaries.item_ids):
        if not _is_same(canaries.neighbour_ids[row], canaries.scores[row], ids[row], scores[row]):
            wanted, found = canaries.neighbour_ids[row][:3], ids[row][:3]
            flaws.append(f"canary {item_id}: found {', '.join(found)} ..., expected {', '.join(wanted)} ...")
    return flaws


def find_overlap(canaries: Canaries, others: Canaries) -> tuple[float, int]:
    """(mean share of a canary's neighbours that the other release gives it too, canaries in both); (0, 0) of none."""
    known = dict(zip(others.item_ids, others.neighbour_ids, strict=True))
    shares = [
        len({*ids} & {*known[item_id]}) / max(min(len(ids), len(known[item_id])), 1)
        for item_id, ids in zip(canaries.item_ids, canaries.neighbour_ids, strict=True)
        if item_id in known
    ]
    return (float(np.mean(shares)), len(shares)) if shares else (0.0, 0)


def write_canaries(uri: str, canaries: Canaries) -> None:
    """Writes the file."""
    columns = {
        c.ITEM_ID: pa.array(canaries.item_ids, pa.string()),
        _QUERY: pa.array(list(canaries.queries), pa.list_(pa.float32())),
        _NEIGHBOURS: pa.array(canaries.neighbour_ids, pa.list_(pa.string())),
        c.SCORES: pa.array(canaries.scores, pa.list_(pa.float32())),
    }
    filesystem, path = open_filesystem(uri)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    pq.write_table(pa.table(columns), path, filesystem=filesystem)


def read_canaries(uri: str) -> Canaries:
    """The canaries of a file that has been compared with its manifest."""
    filesystem, path = open_filesystem(uri)
    found = pq.read_table(path, filesystem=filesystem)
    queries = np.array(found[_QUERY].to_pylist(), np.float32)
    return Canaries(found[c.ITEM_ID].to_pylist(), queries, found[_NEIGHBOURS].to_pylist(), found[c.SCORES].to_pylist())


def _ask(index: ShardedIndex, queries: Floats, own_idx: Ids) -> tuple[list[list[str]], list[list[float]]]:
    """(ids, scores) of each query's neighbours, less its own item."""
    if not len(queries):
        return [], []
    k = min(NUM_NEIGHBOURS, max(len(index) - 1, 1))
    ids, scores = without_own(*index.search(queries, k + 1), own_idx, k)
    kept = ids != NO_ID
    names = [[index.item_ids[int(i)] for i in row[keep]] for row, keep in zip(ids, kept, strict=True)]
    return names, [row[keep].tolist() for row, keep in zip(scores, kept, strict=True)]


def _is_same(wanted: list[str], wanted_scores: list[float], found: list[str], scores: list[float]) -> bool:
    """Whether each item has about the score it had. One that a single list holds has to tie with the last place, where
    the lists are cut.
    """
    if wanted == found:
        return True
    if len(wanted) != len(found):
        return False
    near, cut = _SAME_SCORE * max(map(abs, wanted_scores)), wanted_scores[-1]
    before, after = dict(zip(wanted, wanted_scores, strict=True)), dict(zip(found, scores, strict=True))
    return all(abs(before.get(item, cut) - after.get(item, cut)) <= near for item in {*before, *after})
