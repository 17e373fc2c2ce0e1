"""Sequences whose items carry the mark of an event type."""

import numpy as np
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake

from recspark.contracts.commits import CommitRecord
from recspark.errors import LakeError
from recspark.lake.arrow import TableAt, table_uri
from recspark.training import data
from recspark.training.data import LaneReader, open_sequences
from recspark.training.sequence_files import MARK

RECORD = CommitRecord("walks", "key", "run", True, "0")


def write_typed(lake: str, types: list[list[int]]) -> TableAt:
    """Sequences 0 1 2 ... with these event types, in row groups of 3."""
    items = [[*range(len(row))] for row in types]
    columns = {"item_idx": pa.array(items, pa.list_(pa.int32())), "event_type": pa.array(types, pa.list_(pa.int8()))}
    properties = WriterProperties(max_row_group_size=3)
    write_deltalake(table_uri(lake, "sessions"), pa.table(columns), writer_properties=properties)
    return TableAt(lake, "sessions", 0, RECORD)


@pytest.mark.parametrize("cache_bytes", [0, data.CACHE_BYTES])
def test_items_of_the_type_asked_for_are_marked(tmp_path, cache_bytes):
    types = [[n % 3 for n in range(row % 5)] for row in range(40)]
    files = open_sequences(write_typed(str(tmp_path), types), "item_idx", marked_type=2)
    found = []
    for batch in LaneReader(files, 4, 1, cache_bytes=cache_bytes).read(0, 0, 8, range(4)):
        rows = np.split(batch.values, batch.offsets[1:-1])
        found += [[(int(v) & ~MARK, bool(v & MARK)) for v in row] for row in rows]
    assert sorted(found) == sorted([(n, t == 2) for n, t in enumerate(row)] for row in types)


def test_rows_with_other_numbers_of_types_than_items_are_refused(tmp_path):
    columns = {"item_idx": pa.array([[1, 2]], pa.list_(pa.int32())), "event_type": pa.array([[1]], pa.list_(pa.int8()))}
    write_deltalake(table_uri(str(tmp_path), "sessions"), pa.table(columns))
    files = open_sequences(TableAt(str(tmp_path), "sessions", 0, RECORD), "item_idx", marked_type=1)
    with pytest.raises(LakeError, match=r"rows with more items than event types, or fewer; build the table again"):
        list(LaneReader(files, 1, 1).read(0, 0, 1, [0]))
