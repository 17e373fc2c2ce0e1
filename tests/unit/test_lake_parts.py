"""Files of several writers become visible at once, replace their slice only, and say what they hold."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import ITEM_EMBEDDINGS
from recspark.errors import LakeError
from recspark.lake import parts
from recspark.lake.arrow import TABLE_PROPERTIES, TableAt, find_commit, open_table, read_table, write_table
from recspark.lake.parts import PartFile, PartWriter, commit_parts


def record(key: str) -> CommitRecord:
    return CommitRecord("train", key, f"run of {key}", True, "0")


def rows(start: int, stop: int) -> pa.Table:
    size = stop - start
    return pa.table(
        {
            "idx": pa.array(range(start, stop), pa.int32()),
            "id": [f"i{i}" for i in range(start, stop)],
            "vector": pa.array([[float(i), 0.5] for i in range(start, stop)], pa.list_(pa.float32())),
            "query_vector": pa.nulls(size, pa.list_(pa.float32())),
            "bias": pa.array([0.0] * size, pa.float32()),
        }
    )


def write_parts(lake: str, model_id: str, *ranges: list[tuple[int, int]]) -> list[PartFile | None]:
    """One file for each list of pieces."""
    written = []
    for part, pieces in enumerate(ranges):
        writer = PartWriter(lake, ITEM_EMBEDDINGS, {"model_id": model_id}, part)
        for start, stop in pieces:
            writer.write(rows(start, stop))
        written.append(writer.close())
    return written


def commit(lake: str, model_id: str, written: list[PartFile | None], key: str = "k") -> int:
    return commit_parts(lake, ITEM_EMBEDDINGS, {"model_id": model_id}, written, record(key))


def read(lake: str) -> dict[str, list[int]]:
    """model_id -> idx in order."""
    found = open_table(lake, "item_embeddings").to_pyarrow_table().sort_by("idx").to_pylist()
    ids = {row["model_id"] for row in found}
    assert all(row["vector"] == [row["idx"], 0.5] and row["id"] == f"i{row['idx']}" for row in found)
    return {model_id: [row["idx"] for row in found if row["model_id"] == model_id] for model_id in ids}


def test_two_writers_make_one_version(tmp_path: Path) -> None:
    lake = str(tmp_path)
    written = write_parts(lake, "a", [(0, 3), (3, 5)], [(5, 9)])
    assert not DeltaTable.is_deltatable(f"{lake}/tables/item_embeddings")
    assert commit(lake, "a", written) == 0
    assert read(lake) == {"a": list(range(9))}
    table = open_table(lake, "item_embeddings")
    assert len(table.file_uris()) == 2
    assert len(table.history()) == 1
    assert table.metadata().configuration == TABLE_PROPERTIES
    assert find_commit(lake, "item_embeddings", "k") == (0, record("k"))


def test_a_flipped_bit_in_a_page_is_never_another_value(tmp_path: Path) -> None:
    """Every byte of the pages, their headers too; the footer behind them carries no checksum."""
    lake = str(tmp_path)
    version = commit(lake, "a", write_parts(lake, "a", [(0, 9)]))
    at = TableAt(lake, "item_embeddings", version, record("k"))
    before = read_table(at)
    (file,) = Path(lake, "tables", "item_embeddings").rglob("*.parquet")
    whole, said = file.read_bytes(), 0
    pages = range(4, len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"))
    for place in pages:
        broken = bytearray(whole)
        broken[place] ^= 1
        file.write_bytes(broken)
        try:
            assert read_table(at).equals(before), place
        except LakeError as error:
            assert "a data file of version 0 is lost or damaged" in str(error)  # noqa: PT017
            said += 1
    assert said > len(pages) // 2


def test_files_say_what_they_hold_so_that_readers_can_skip_them(tmp_path: Path) -> None:
    lake = str(tmp_path)
    commit(lake, "a", write_parts(lake, "a", [(0, 3)], [(7, 9), (4, 5)]))
    table = open_table(lake, "item_embeddings")
    actions = pa.table(table.get_add_actions(flatten=True)).sort_by("min.idx").to_pydict()
    assert actions["num_records"] == [3, 3]
    assert actions["min.idx"] == [0, 4]
    assert actions["max.idx"] == [2, 8]
    assert table.to_pyarrow_table(filters=[("idx", "=", 7)])["id"].to_pylist() == ["i7"]


def test_a_slice_is_replaced_and_others_stay(tmp_path: Path) -> None:
    lake = str(tmp_path)
    commit(lake, "a", write_parts(lake, "a", [(0, 3)]))
    assert commit(lake, "b", write_parts(lake, "b", [(0, 2)], [(2, 4)]), "other") == 1
    assert commit(lake, "a", write_parts(lake, "a", [(1, 2)], []), "again") == 2
    assert read(lake) == {"a": [1], "b": [0, 1, 2, 3]}
    old = open_table(lake, "item_embeddings", 0).to_pyarrow_table()
    assert len(old) == 3


def test_the_other_writer_and_this_one_take_turns(tmp_path: Path) -> None:
    lake = str(tmp_path)
    whole = rows(0, 4).append_column("model_id", pa.array(["a"] * 4))
    assert write_table(lake, ITEM_EMBEDDINGS, whole, record("w"), "model_id = 'a'") == 0
    assert commit(lake, "a", write_parts(lake, "a", [(0, 2)])) == 1
    assert write_table(lake, ITEM_EMBEDDINGS, whole, record("v"), "model_id = 'a'") == 2
    assert read(lake) == {"a": [0, 1, 2, 3]}


def test_no_rows_are_a_version_too(tmp_path: Path) -> None:
    lake = str(tmp_path)
    assert write_parts(lake, "a", []) == [None]
    assert commit(lake, "a", [None, None]) == 0
    assert commit(lake, "a", [None], "again") == 1
    assert read(lake) == {}
    assert find_commit(lake, "item_embeddings", "again") == (1, record("again"))


def test_a_table_that_another_training_makes_meanwhile_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = str(tmp_path)
    commit(lake, "a", write_parts(lake, "a", [(0, 3)]))
    plain, first = DeltaTable.is_deltatable, [False]

    def late(*args: str) -> bool:
        return first.pop() if first else plain(*args)

    monkeypatch.setattr(parts.DeltaTable, "is_deltatable", staticmethod(late))
    assert commit(lake, "b", write_parts(lake, "b", [(0, 2)]), "other") == 1
    assert read(lake) == {"a": [0, 1, 2], "b": [0, 1]}


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = PartWriter(str(tmp_path), ITEM_EMBEDDINGS, {"model_id": "a"}, 0)
    with pytest.raises(LakeError, match="item_embeddings: rows do not fit the table's contract"):
        writer.write(rows(0, 2).drop_columns(["bias"]))
