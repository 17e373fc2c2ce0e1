"""The id map of an index: item_idx inside, item_id outside, the shard that holds it and its bias. File `ids.parquet`.

item_idx 17, item_id "85123A", shard 2, bias 0.1
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


@dataclass(frozen=True)
class ItemIds(Mapping[int, str]):
    """item_idx -> item_id, and where each item lies: ``shard`` and its row there, in ascending item_idx."""

    item_idx: Ids
    item_id: pa.Array
    shard: NDArray[np.int32]
    bias: Floats

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
        """Position of known ids in the arrays; 0 for -1."""
        rows: NDArray[np.int64] = np.searchsorted(self.item_idx, np.maximum(item_idx, self.item_idx[0]))
        return rows

    @cached_property
    def row_in_shard(self) -> NDArray[np.int64]:
        """Each item's place among the items of its shard."""
        places = np.empty(len(self.item_idx), np.int64)
        for shard in np.unique(self.shard):
            here = self.shard == shard
            places[here] = np.arange(int(here.sum()))
        return places


def write_ids(uri: str, ids: ItemIds) -> None:
    """Writes the id map: item_idx, item_id, shard, bias, in ascending item_idx."""
    table = pa.table(
        {
            c.ITEM_IDX: pa.array(ids.item_idx, pa.int32()),
            c.ITEM_ID: ids.item_id,
            c.SHARD: pa.array(ids.shard, pa.int32()),
            c.BIAS: pa.array(ids.bias, pa.float32()),
        }
    )
    filesystem, path = open_filesystem(uri)
    pq.write_table(table, path, filesystem=filesystem)


def read_ids(uri: str) -> ItemIds:
    """The id map of a folder.

    Raises: IndexReadError when the file is none.
    """
    filesystem, path = open_filesystem(uri)
    try:
        table = pq.read_table(path, filesystem=filesystem)
        return ItemIds(
            item_idx=table[c.ITEM_IDX].to_numpy().astype(np.int64),
            item_id=table[c.ITEM_ID].combine_chunks(),
            shard=table[c.SHARD].to_numpy(),
            bias=table[c.BIAS].to_numpy(),
        )
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise IndexReadError(
            f"{uri}: no id map ({error}); remove its folder and {rebuild_command('indexes')}"
        ) from error
