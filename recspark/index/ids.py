"""The id map of an index: item_idx inside, item_id outside, the shard that holds it and its bias. File `ids.parquet`.

item_idx 17, item_id "85123A", shard 2, bias 0.1, digest 9041...

The file names the build it belongs to. ``digest`` says what an item's vector and bias are, so that a later build knows
which have changed. An incremental index's also has ``row``: an item's place in the refine codes of
its shard, which hold rows of removed items too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import IndexReadError
from recspark.index.metric import Floats
from recspark.index.topk import Ids
from recspark.lake.folders import rebuild_command
from recspark.lake.storage import open_filesystem

_DIGEST, _ROW = "digest", "row"
_BUILD = "recspark.build"
"""Key in the file's metadata."""


@dataclass(frozen=True)
class ItemIds(Mapping[int, str]):
    """item_idx -> item_id, and where each item lies: ``shard`` and its ``row`` there (None: by ascending item_idx)."""

    item_idx: Ids
    item_id: pa.Array
    shard: NDArray[np.int32]
    bias: Floats
    digest: NDArray[np.uint64] | None = None
    row: NDArray[np.int64] | None = None

    def __getitem__(self, item_idx: int) -> str:
        row = int(np.searchsorted(self.item_idx, item_idx))
        if row == len(self.item_idx) or self.item_idx[row] != item_idx:
            raise KeyError(item_idx)
        return str(self.item_id[row].as_py())

    def __iter__(self) -> Iterator[int]:
        return iter(self.item_idx.tolist())

    def __len__(self) -> int:
        return len(self.item_idx)

    def rows_of(self, item_idx: Ids) -> NDArray[np.int64]:
        """Position of known ids in the arrays; that of some item for -1."""
        rows: NDArray[np.int64] = self._row_of_idx[item_idx]
        return rows

    @cached_property
    def _row_of_idx(self) -> NDArray[np.int64]:
        """Position by item_idx: ids are dense, so a table costs less than a search in it."""
        rows = np.zeros(int(self.item_idx[-1]) + 1, np.int64)
        rows[self.item_idx] = np.arange(len(self.item_idx))
        return rows

    @cached_property
    def row_in_shard(self) -> NDArray[np.int64]:
        """Each item's place in the refine codes of its shard."""
        if self.row is not None:
            return self.row
        places = np.empty(len(self.item_idx), np.int64)
        for shard in np.unique(self.shard):
            here = self.shard == shard
            places[here] = np.arange(int(here.sum()))
        return places


def write_ids(uri: str, ids: ItemIds, build: str) -> None:
    """Writes the id map of a build: item_idx, item_id, shard, bias, digest (and row), in ascending item_idx."""
    columns = {
        c.ITEM_IDX: pa.array(ids.item_idx, pa.int32()),
        c.ITEM_ID: ids.item_id,
        c.SHARD: pa.array(ids.shard, pa.int32()),
        c.BIAS: pa.array(ids.bias, pa.float32()),
    }
    if ids.digest is not None:
        columns[_DIGEST] = pa.array(ids.digest, pa.uint64())
    if ids.row is not None:
        columns[_ROW] = pa.array(ids.row, pa.int64())
    table = pa.table(columns).replace_schema_metadata({_BUILD: build})
    filesystem, path = open_filesystem(uri)
    pq.write_table(table, path, filesystem=filesystem, write_page_checksum=True)


def read_ids(uri: str, build: str) -> ItemIds:
    """The id map of a folder.

    Raises: IndexReadError when the file is none, or belongs to another build.
    """
    filesystem, path = open_filesystem(uri)
    advice = f"remove its folder and {rebuild_command('indexes')}"
    try:
        table = pq.read_table(path, filesystem=filesystem)
        found = ItemIds(
            item_idx=table[c.ITEM_IDX].to_numpy().astype(np.int64),
            item_id=table[c.ITEM_ID].combine_chunks(),
            shard=table[c.SHARD].to_numpy(),
            bias=table[c.BIAS].to_numpy(),
            digest=table[_DIGEST].to_numpy() if _DIGEST in table.column_names else None,
            row=table[_ROW].to_numpy() if _ROW in table.column_names else None,
        )
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise IndexReadError(f"{uri}: no id map ({error}); {advice}") from error
    theirs = (table.schema.metadata or {}).get(_BUILD.encode(), b"").decode()
    if theirs != build:
        raise IndexReadError(
            f"{uri}: the id map of another build ({theirs[:12] or 'unnamed'}, this index has {build[:12]}); {advice}"
        )
    return found
