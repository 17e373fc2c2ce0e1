"""Whatever is taken from, or changed in, what a release was made from, verify names it."""

import json
import shutil

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from recspark.errors import IndexReadError, ReleaseError
from recspark.index.store import manifest_digest, open_index
from recspark.releases import verify as module
from recspark.releases.activate import activate, rollback
from recspark.releases.binding import hash_manifest
from recspark.releases.reader import open_release
from recspark.releases.registry import action_record, change_registry
from recspark.releases.verify import verify_release


def flaws(released, release_id=None):
    """check -> flaw, of what is wrong."""
    found = verify_release(released.lake, released.row(release_id or released.first))
    return {check.name: check.flaw for check in found if check.flaw}


def index_file(released, name):
    return released.file("indexes", released.row(released.first).index_id, name)


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(bytes(content))


def forge(released, change):
    """Changes the release's manifest and lets its row agree with it."""
    path = released.file("releases", released.first, "manifest.json")
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    sha256 = hash_manifest(released.lake, "releases", released.first)
    row = released.row(released.first)
    change_registry(
        released.lake,
        lambda found: found.rows | {row.release_id: row.moved("READY", "forged", manifest_sha256=sha256)},
        action_record("forge", row.release_id),
    )


def test_a_release_as_it_was_published_is_whole(released):
    names = [check.name for check in verify_release(released.lake, released.row(released.first))]
    assert flaws(released) == flaws(released, released.second) == {}
    assert {"manifest", "canaries.parquet", "table items", "vectors of item_embeddings", "quantizer", "canaries"} <= {
        *names
    }


@pytest.mark.parametrize("name", ["shard-00000.faiss", "ids.parquet", "shard-00001.faiss"])
@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.99])
def test_a_flipped_bit_in_the_index_is_named_before_faiss_sees_it(released, monkeypatch, name, place):
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss has seen the file"))
    flip(index_file(released, name), place)
    index = f"indexes/{released.row(released.first).index_id}"
    assert f"{name}: SHA-256 differs from the manifest" in flaws(released)[index]


def test_a_shard_cut_short_and_one_that_is_missing_are_named(released):
    shard = index_file(released, "shard-00001.faiss")
    shard.write_bytes(shard.read_bytes()[:-9])
    index = f"indexes/{released.row(released.first).index_id}"
    assert "shard-00001.faiss" in flaws(released)[index]
    shard.unlink()
    assert "shard-00001.faiss: missing" in flaws(released)[index]


def test_an_index_built_anew_under_its_id_is_another(released):
    path = index_file(released, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["created_at"] = "2030-01-01T00:00:00+00:00"
    path.write_text(json.dumps(manifest))
    index = f"indexes/{released.row(released.first).index_id}"
    assert "edited, or the folder was built anew" in flaws(released)[index]


def test_shards_of_another_release_with_a_fitting_manifest_are_refused(released):
    """Both indexes are whole in themselves; only the release knows which one is its own."""
    first, second = (released.row(one).index_id for one in (released.first, released.second))
    shutil.rmtree(released.file("indexes", first))
    shutil.copytree(released.file("indexes", second), released.file("indexes", first))
    assert f"indexes/{first}" in flaws(released)
    with pytest.raises(IndexReadError, match=rf"manifest\.json: is that of indexes/{second}, in the folder of {first}"):
        open_index(released.lake, first)


@pytest.mark.parametrize(("field", "value"), [("id", "0" * 12), ("kind", "models")])
def test_an_index_manifest_of_another_folder_is_refused(released, field, value):
    path = index_file(released, "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(IndexReadError, match=rf"is that of \w+/\w+, in the folder of {path.parent.name}"):
        open_index(released.lake, path.parent.name)


def test_a_forged_index_manifest_does_not_agree_with_the_release(released):
    path = index_file(released, "manifest.json")
    manifest = json.loads(path.read_text())
    facts = manifest["facts"]
    facts["recall_at_10"] = 1.0
    facts["run"] = "forged"
    facts["digest"] = manifest_digest(manifest["counts"], manifest["config"], manifest["inputs"], facts)
    path.write_text(json.dumps(manifest))
    assert list(flaws(released)) == [f"indexes/{released.row(released.first).index_id}"]


def test_a_lost_model_and_lost_canaries_are_named(released):
    shutil.rmtree(released.file("models", released.row(released.first).model_id))
    released.file("releases", released.first, "canaries.parquet").unlink()
    assert {name.split("/")[0] for name in flaws(released)} == {"models", "canaries.parquet"}


def test_a_lost_data_file_names_table_version_and_file(released):
    version = json.loads(released.file("releases", released.first, "manifest.json").read_text())["inputs"]["tables"][
        "user_histories"
    ]["version"]
    file = next(released.file("tables", "user_histories").glob("*.parquet"))
    file.unlink()
    found = flaws(released)["table user_histories"]
    assert f"user_histories at version {version}: 1 data files lost or cut short: {file.name}" in found


def test_flipped_bits_in_a_data_file_are_named(released):
    """Name, size and rows are as they were; the way back, which must be quick, does not read them."""
    activate(released.lake, released.first)
    activate(released.lake, released.second)
    file = next(released.file("tables", "user_histories").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    third = len(content) // 3
    content[third : third + 64] = bytes(byte ^ 0x55 for byte in content[third : third + 64])
    file.write_bytes(bytes(content))
    assert list(flaws(released)) == ["table user_histories"]
    said = f"SHA-256 differs from what the release was made from: {file.name}: damaged or replaced"
    assert said in flaws(released)["table user_histories"]
    with pytest.raises(ReleaseError, match="SHA-256 differs"):
        activate(released.lake, released.first)
    rollback(released.lake)


def test_a_version_of_another_stage_or_config_is_named(released):
    def change(manifest):
        manifest["inputs"]["tables"]["items"]["key"] = "0" * 64
        manifest["inputs"]["tables"]["users"]["stage"] = "walks"

    forge(released, change)
    found = flaws(released)
    assert "at version 0: key differ from what the release was made from" in found["table items"]
    assert "at version 0: stage differ from what the release was made from" in found["table users"]


def test_a_release_made_before_files_were_hashed_is_told_apart(released):
    forge(released, lambda manifest: manifest["inputs"]["tables"]["items"].pop("sha256"))
    assert "was made before files were hashed; publish it again" in flaws(released)["table items"]


def test_opening_reads_no_tables(released, monkeypatch):
    monkeypatch.setattr("recspark.releases.binding.hash_files", lambda *_: pytest.fail("a table was read"))
    with open_release(released.lake, released.first) as release:
        assert release.recommend([["i3"]], 3).item_ids


def test_what_hashing_costs_is_said(released, capfd):
    bound = json.loads(released.file("releases", released.first, "manifest.json").read_text())["inputs"]["tables"]
    verify_release(released.lake, released.row(released.first))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "read the data files of all tables" in line]
    assert json.loads(line)["bytes"] == sum(table["bytes"] for table in bound.values())
    assert all(len(table["sha256"]) == table["files"] for table in bound.values())


def test_a_version_that_is_gone_is_named(released):
    table = released.file("tables", "item_embeddings")
    shutil.rmtree(table)
    assert "no such table" in flaws(released)["table item_embeddings"]
    assert "vectors of item_embeddings" in flaws(released)


def test_a_table_that_was_replaced_under_its_version_is_named(released):
    path = str(released.file("tables", "items"))
    rows = DeltaTable(path).to_pyarrow_table()
    shutil.rmtree(path)
    write_deltalake(path, rows.slice(0, 59))
    assert (
        "rows, bytes, digest, stage, key differ from what the release was made from" in flaws(released)["table items"]
    )


def turn_column(released, column, turned):
    """Rewrites a column of the data file of `item_embeddings` in place."""
    (name,) = DeltaTable(str(released.file("tables", "item_embeddings")), version=0).file_uris()
    rows = pq.read_table(name)
    values = pa.array(turned(rows[column].to_pylist()), rows[column].type)
    pq.write_table(rows.set_column(rows.column_names.index(column), column, values), name)


@pytest.mark.parametrize(
    ("column", "turned"),
    [("vector", lambda rows: [list(np.roll(row, 1)) for row in rows]), ("id", lambda rows: rows[::-1])],
)
def test_other_vectors_or_names_under_the_same_version_are_named(released, column, turned):
    turn_column(released, column, turned)
    found = flaws(released)
    assert "other vectors or ids than the release was made with" in found["vectors of item_embeddings"]
    with open_release(released.lake, released.first) as release, pytest.raises(ReleaseError, match="holds other vect"):
        release.recommend([["i3", "i7"]], 3)


def test_another_quantizer_and_another_count_are_named(released):
    forge(released, lambda m: m["facts"]["index"].update(quantizer_fingerprint="0" * 64))
    assert "the release was made with 000000000000" in flaws(released)["quantizer"]
    forge(released, lambda m: m["counts"].update(vectors=61))
    assert flaws(released)["counts"] == "the index holds 60 vectors, the release was made with 61"


def test_canaries_that_find_something_else_are_named(released, monkeypatch):
    real = module.open_index

    def open_other(lake, index_id, verify):
        return real(lake, released.row(released.second).index_id, verify=verify)

    monkeypatch.setattr(module, "open_index", open_other)
    said = flaws(released)["canaries"]
    assert " of 20 differ: canary i" in said
    assert ", expected i" in said


def test_a_release_that_was_never_published_has_nothing_to_verify(released):
    row = released.row(released.first)
    change_registry(
        released.lake,
        lambda found: found.rows | {row.release_id: row.moved("FAILED", "out of disk", manifest_sha256=None)},
        action_record("fail", row.release_id),
    )
    (check,) = verify_release(released.lake, released.row(released.first))
    assert "FAILED, out of disk: nothing has been published under it" in str(check.flaw)
