"""Records, manifests, shard arithmetic and table contracts."""

import io
import itertools

import numpy as np
import pytest

from recspark.contracts.commits import CommitRecord, parse_record
from recspark.contracts.manifest import FileEntry, Manifest, parse_manifest, stream_sha256
from recspark.contracts.shards import hash_ids, shard_of, shard_range
from recspark.contracts.stages import GRAPH, ITEM_KNN_GRAPH, stage_key
from recspark.contracts.tables import TABLES


def test_shard_ranges_cover_everything_once():
    for total, num_shards in itertools.product(range(60), range(1, 12)):
        rows = [i for s in range(num_shards) for i in shard_range(s, num_shards, total)]
        assert rows == list(range(total))


def test_hash_is_the_published_splitmix64():
    # First outputs of the reference generator seeded with 0: its state is a multiple of the golden gamma.
    assert hash_ids(np.array([0]), seed=0)[0] == 0xE220A8397B1DCDAF
    assert hash_ids(np.array([0]), seed=1)[0] == 0x6E789E6AA1B965F4


def test_shards_of_items_are_even_and_stable():
    ids = np.arange(100_000)
    counts = np.bincount(shard_of(ids, 7), minlength=7)
    assert counts.min() > 0.97 * len(ids) / 7
    assert (shard_of(ids[500:600], 7) == shard_of(ids, 7)[500:600]).all()


def test_record_round_trip():
    record = CommitRecord(
        "graph", "k" * 64, "run", True, "0.1.0", {"items": 3}, {"sessions": 1}, {"n": 5}, {"a": [1]}, {}
    )
    assert parse_record(record.to_json()) == record


@pytest.mark.parametrize("text", [None, "", "not json", "[]", '{"other": 1}', '{"recspark": 99}'])
def test_foreign_metadata_is_no_record(text):
    assert parse_record(text) is None


def test_manifest_round_trip_and_lookup():
    manifest = Manifest("indexes", "abc", (FileEntry("a/b", 3, "00"),), {}, {}, {}, "run", "now", "0.1.0")
    assert parse_manifest(manifest.to_json()) == manifest
    assert manifest.file("a/b").bytes == 3
    with pytest.raises(KeyError, match="nope"):
        manifest.file("nope")


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 9}', '{"format_version": 1, "files": []}'])
def test_broken_manifest_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"manifest|format_version|Expecting"):
        parse_manifest(text)


def test_sha256_of_a_stream():
    size, digest = stream_sha256(io.BytesIO(b"abc"), chunk_bytes=2)
    assert (size, digest[:8]) == (3, "ba7816bf")  # FIPS 180-2, appendix B.1


def test_equal_work_has_one_key_whatever_the_stage_is_called():
    assert stage_key(GRAPH, {"graph": 1}, {"sessions": "a"}) == stage_key(
        ITEM_KNN_GRAPH, {"graph": 1}, {"sessions": "a"}
    )
    assert stage_key(GRAPH, {"graph": 1}, {"sessions": "a"}) != stage_key(GRAPH, {"graph": 1}, {"sessions": "b"})


def test_partition_and_key_columns_exist():
    for spec in TABLES.values():
        assert {*spec.key, *spec.partition_by} <= set(spec.schema.names), spec.name
