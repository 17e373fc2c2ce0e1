"""Nothing damaged, edited or foreign is searched; every refusal names the file, before faiss has seen it."""

import dataclasses
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow.fs as pafs
import pytest

from recspark.errors import IndexReadError
from recspark.index import files
from recspark.index.ids import ItemIds, read_ids, write_ids
from recspark.index.job import build_index
from recspark.index.receipts import read_receipt, write_receipt
from recspark.index.store import manifest_digest, open_index, quantizer_fingerprint
from recspark.lake.folders import hash_file
from tests.helpers.index_lake import make_items, plan_index_run, write_items


def build(lake, seed=1, **index):
    """(folder, function that opens it) of a small IVFPQ index in three shards."""
    run = plan_index_run(lake, seed=seed, kind="ivf_pq", num_shards=3, nbits=4, **index)
    write_items(run, make_items(400, 16, seed=seed))
    build_index(run)
    index_id = run.stages["index"].id
    return Path(lake) / "indexes" / index_id, lambda **how: open_index(run.lake, index_id, **how)


@pytest.fixture(scope="module")
def built_lake(tmp_path_factory):
    """One build for all tests; each damages a copy."""
    lake = tmp_path_factory.mktemp("built") / "lake"
    return build(lake)[0]


@pytest.fixture
def index(built_lake, lake):
    """(folder, function that opens it) of a copy."""
    folder = Path(lake) / "indexes" / built_lake.name
    shutil.copytree(built_lake, folder)
    return folder, lambda **how: open_index(lake, folder.name, **how)


@pytest.fixture
def no_faiss(monkeypatch):
    """faiss must not be asked to read anything."""
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss has seen the file"))


FILES = ["trained.faiss", "shard-00001.faiss", "refine-00002.npy", "refine-scale.npy", "ids.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(index, no_faiss, name):
    folder, opened = index
    (folder / name).unlink()
    for verify in (True, False):
        with pytest.raises(IndexReadError, match=rf"{name}: missing"):
            opened(verify=verify)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(index, no_faiss, name):
    folder, opened = index
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7])
    for verify in (True, False):
        with pytest.raises(
            IndexReadError, match=rf"{name}: {len(content) - 7} bytes, the manifest says {len(content)}"
        ):
            opened(verify=verify)


@pytest.mark.parametrize("place", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_named(index, no_faiss, name, place):
    folder, opened = index
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 0x10
    (folder / name).write_bytes(content)
    with pytest.raises(IndexReadError, match=rf"{name}: SHA-256 differs"):
        opened()


def test_a_flipped_bit_in_the_number_of_vectors_is_named(index, no_faiss):
    """faiss would read on: the header holds ntotal as eight bytes."""
    folder, opened = index
    path = folder / "shard-00000.faiss"
    count = json.loads((folder / "manifest.json").read_text())["facts"]["shards"][0]["count"]
    content = path.read_bytes()
    place = content.index(count.to_bytes(8, "little"))
    assert place < 32
    path.write_bytes(content[:place] + (count ^ 1).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(IndexReadError, match=r"shard-00000\.faiss: SHA-256 differs"):
        opened()


def test_another_version_of_the_vectors_than_asked_for_is_refused(index, no_faiss, request):
    _, opened = index
    with pytest.raises(IndexReadError, match="made of item_embeddings at version 0, asked for is version 4; run"):
        opened(item_embeddings=4)


def test_a_shard_of_another_build_is_refused(index, tmp_path, request):
    folder, opened = index
    other, _ = build(tmp_path / "other", seed=2)
    shutil.copy(other / "shard-00001.faiss", folder / "shard-00001.faiss")
    request.getfixturevalue("no_faiss")
    with pytest.raises(IndexReadError, match=r"shard-00001\.faiss: "):
        opened()


def forge(folder, change):
    """Changes the manifest and makes it agree with itself and with the files, as no honest tool would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    facts = manifest["facts"]
    facts["files"] = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    facts["digest"] = manifest_digest(manifest["counts"], manifest["config"], manifest["inputs"], facts)
    path.write_text(json.dumps(manifest))


def take_entry(folder, other, name):
    """Moves a file with its manifest entry from one index to another."""
    shutil.copy(other / name, folder / name)
    entries = json.loads((other / "manifest.json").read_text())["files"]
    wanted = next(entry for entry in entries if entry["path"] == name)

    def change(manifest):
        manifest["files"] = [wanted if entry["path"] == name else entry for entry in manifest["files"]]

    forge(folder, change)


def test_a_shard_of_another_training_is_refused_even_with_a_fitting_manifest(index, tmp_path):
    folder, opened = index
    other, _ = build(tmp_path / "other", seed=2)
    take_entry(folder, other, "shard-00001.faiss")
    with pytest.raises(IndexReadError, match=r"shard-00001\.faiss: a shard of another build \(quantizer"):
        opened()


def test_a_shard_with_another_count_is_refused(index):
    folder, opened = index
    forge(folder, lambda manifest: manifest["facts"]["shards"][2].update(count=1))
    with pytest.raises(IndexReadError, match=r"shard-00002\.faiss: \d+ vectors, the manifest says 1"):
        opened()


@pytest.mark.parametrize("num_items", [390, 400])
def test_an_id_map_of_another_build_is_refused(index, tmp_path, num_items):
    """Also one that fits in length; without a fitting manifest it is its SHA-256 that differs."""
    folder, opened = index
    run = plan_index_run(tmp_path / "other", kind="flat")
    write_items(run, make_items(num_items, 16))
    build_index(run)
    other = tmp_path / "other" / "indexes" / run.stages["index"].id
    shutil.copy(folder / "ids.parquet", tmp_path / "own")
    shutil.copy(other / "ids.parquet", folder / "ids.parquet")
    with pytest.raises(IndexReadError, match=r"ids\.parquet: (SHA-256 differs|\d+ bytes, the manifest says)"):
        opened()
    take_entry(folder, other, "ids.parquet")
    with pytest.raises(IndexReadError, match=r"ids\.parquet: the id map of another build"):
        opened()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["facts"].update(effort=1, nprobe=1),
        lambda m: m["counts"].update(vectors=7),
        lambda m: m["facts"]["space"].update(metric="ip"),
        lambda m: m["inputs"].update(item_embeddings=99),
        lambda m: m["files"].pop(),
        lambda m: m["files"][0].update(sha256="0" * 64),
        lambda m: m["facts"].pop("digest"),
    ],
)
def test_an_edited_manifest_is_refused(index, no_faiss, change):
    folder, opened = index
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IndexReadError, match=r"manifest\.json: edited since it was written"):
        opened()


def test_no_manifest_and_no_json_are_told(index, no_faiss):
    folder, opened = index
    (folder / "manifest.json").write_text("{")
    with pytest.raises(IndexReadError, match=r"manifest\.json"):
        opened()
    (folder / "manifest.json").unlink()
    with pytest.raises(IndexReadError, match=r"no manifest\.json, so no finished index; run `recspark run CONF"):
        opened()


def test_a_shard_is_a_plain_faiss_file(index):
    folder, opened = index
    shard = faiss.read_index(str(folder / "shard-00000.faiss"))
    ids, _ = opened().search(make_items(400, 16, seed=1).vectors[:5], 3)
    assert shard.ntotal > 0
    assert ids.shape == (5, 3)


def test_fingerprints_tell_trainings_apart(index, tmp_path):
    folder, _ = index
    other, _ = build(tmp_path / "other", seed=2)
    prints = [quantizer_fingerprint(faiss.read_index(str(f / "trained.faiss"))) for f in (folder, other)]
    shard = quantizer_fingerprint(faiss.read_index(str(folder / "shard-00002.faiss")))
    assert prints[0] == shard
    assert prints[0] != prints[1]


def test_receipts_count_only_for_their_build_and_whole_files(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    folder = str(tmp_path)
    written = write_receipt(folder, "a.json", "build 1", ["a.bin"], {"count": 3})
    assert read_receipt(folder, "a.json", "build 1") == written
    assert read_receipt(folder, "a.json", "build 2") is None
    assert read_receipt(folder, "b.json", "build 1") is None
    (tmp_path / "a.bin").write_bytes(b"abd")
    assert read_receipt(folder, "a.json", "build 1") is None
    (tmp_path / "a.bin").unlink()
    assert read_receipt(folder, "a.json", "build 1") is None
    (tmp_path / "a.json").write_text('{"build": "build 1", "fi')
    assert read_receipt(folder, "a.json", "build 1") is None


def test_an_id_map_and_shards_of_other_numbers_are_refused(index, tmp_path):
    folder, opened = index
    other, _ = build(tmp_path / "other", num_queries=50)
    ids = read_ids(str(folder / "ids.parquet"), json.loads((folder / "manifest.json").read_text())["facts"]["build"])
    few = ItemIds(ids.item_idx[:390], ids.item_id[:390], ids.shard[:390], ids.bias[:390])
    write_ids(str(other / "ids.parquet"), few, "a build")
    entry = hash_file(str(other), "ids.parquet")
    (other / "manifest.json").write_text(json.dumps({"files": [dataclasses.asdict(entry)]}))
    take_entry(folder, other, "ids.parquet")
    forge(folder, lambda manifest: manifest["facts"].update(build="a build"))
    with pytest.raises(IndexReadError, match=r"ids\.parquet: 390 items, the shards hold 400"):
        opened()


def test_a_file_system_that_is_not_local_holds_the_same(index, tmp_path, monkeypatch):
    """Object stores are written and read through a local copy; here a local folder plays one."""
    far = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(files, "open_filesystem", lambda uri: (far, uri))
    near = faiss.read_index(str(index[0] / "shard-00000.faiss"))
    (tmp_path / "far").mkdir()
    files.write_faiss(near, "far/a.faiss")
    assert files.read_faiss("far/a.faiss").ntotal == near.ntotal
    files.write_array(np.arange(6).reshape(2, 3), "far/a.npy")
    monkeypatch.setattr(files, "open_input", lambda uri: far.open_input_stream(uri))
    assert files.read_array("far/a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_faiss_cannot_read_is_told(tmp_path):
    (tmp_path / "a.faiss").write_bytes(b"not an index")
    with pytest.raises(IndexReadError, match=r"a\.faiss: faiss cannot read it"):
        files.read_faiss(str(tmp_path / "a.faiss"))
