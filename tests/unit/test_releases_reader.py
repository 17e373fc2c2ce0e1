"""What a service sees: one whole release at any time, the old one until it reloads, and nothing but what it needs."""

import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from recspark.errors import IndexReadError, QueryError, ReleaseError
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table
from recspark.lake.folders import publish_folder
from recspark.releases import opened
from recspark.releases import reader as module
from recspark.releases.activate import activate
from recspark.releases.leases import list_leases
from recspark.releases.pinned import pin_active
from recspark.releases.publish import publish
from recspark.releases.reader import open_release
from tests.helpers.index_lake import exact_top
from tests.helpers.release_lake import build_releasable, plan_releasable, publish_and_die

HISTORIES = [["i3", "i7", "i3"], ["i50"], [], ["no such item"]]


@pytest.fixture
def active(released):
    """The lake with its first release active."""
    activate(released.lake, released.first)
    return released


def vectors_of(released, seed):
    run = released.run(seed)
    return read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"), with_ids=True)


def test_search_gives_what_exact_arithmetic_gives(active):
    vectors = vectors_of(active, 1)
    queries = vectors.queries[[4, 9, 31]]
    with open_release(active.lake) as release:
        found = release.search(queries, 5)
        assert len(release) == 60
    wanted, scores = exact_top(vectors, queries, 5, "cosine")
    assert found.item_idx.tolist() == wanted.tolist()
    assert found.item_ids == [[f"i{idx}" for idx in row] for row in wanted]
    assert found.scores == pytest.approx(scores, abs=1e-5)


def test_search_takes_items_that_are_allowed_or_blocked(active):
    query = vectors_of(active, 1).queries[[4]]
    with open_release(active.lake) as release:
        assert release.search(query, 2, allowed=["i4", "i8", "unknown"]).item_ids == [["i4", "i8"]]
        assert "i4" not in release.search(query, 3, blocked=["i4"]).item_ids[0]
        with pytest.raises(QueryError, match="NaN or infinite"):
            release.search(np.full((1, 6), np.nan, np.float32), 3)


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_refused(active, k):
    with open_release(active.lake) as release:
        with pytest.raises(QueryError, match=f"search: k must be at least 1, got {k}"):
            release.search(vectors_of(active, 1).queries[[4]], k)
        with pytest.raises(QueryError, match=f"recommend: k must be at least 1, got {k}"):
            release.recommend(HISTORIES, k)


@pytest.mark.parametrize(("ids", "said"), [("i3", "got the text 'i3'"), ([3, 4], "which are texts"), (7, "which are")])
def test_ids_that_are_no_list_of_ids_are_refused(active, ids, said):
    query = vectors_of(active, 1).queries[[4]]
    with open_release(active.lake) as release:
        for name in ("allowed", "blocked"):
            with pytest.raises(QueryError, match=f"search: {name}: takes a list of item ids, {said}"):
                release.search(query, 3, **{name: ids})
        with pytest.raises(QueryError, match=f"recommend: allowed: takes a list of item ids, {said}"):
            release.recommend(HISTORIES, 3, allowed=ids)


def test_recommend_leaves_out_what_was_seen(active):
    with open_release(active.lake) as release:
        found = release.recommend(HISTORIES, 4).item_ids
        seen = release.recommend(HISTORIES, 4, mask_seen=False).item_ids
        only = release.recommend(HISTORIES[:1], 4, allowed=["i3", "i8", "i9"]).item_ids
        with pytest.raises(QueryError, match="takes a list of histories, each a list of item ids; got a text"):
            release.recommend(["i3"], 4)
        with pytest.raises(QueryError, match="weights need a number for each event of each history"):
            release.recommend([["i3", "i7"]], 4, weights=[[1.0]])
        with pytest.raises(QueryError, match="times need a datetime for each event of each history"):
            release.recommend([["i3", "i7"]], 4, times=[[]])
        for wrong in (-1.0, float("nan")):
            with pytest.raises(QueryError, match="weights must be numbers of 0 or more"):
                release.recommend([["i3", "i7"]], 4, weights=[[1.0, wrong]])
    assert [len(row) for row in found] == [4, 4, 4, 4]
    assert not {"i3", "i7"} & {*found[0]}
    assert "i3" in seen[0]
    assert seen[1][0] == "i50"
    assert sorted(only[0]) == ["i8", "i9"]


def test_recommend_is_what_the_batch_command_lists(active):
    """Two rooms, one answer: the service's list for a user's history is that of `recommend` in the retrieval room."""
    from recspark.evaluate.ragged import Ragged
    from recspark.retrieval.recommend import recommend

    history = Ragged.from_rows([[3, 7, 3], [50]])
    wanted = recommend(vectors_of(active, 1), history, history.distinct(), 4)
    with open_release(active.lake) as release:
        found = release.recommend(HISTORIES[:2], 4)
    assert found.item_idx.tolist() == wanted.ids.tolist()
    assert found.scores == pytest.approx(wanted.scores, abs=1e-5)


def test_items_without_direction_are_named_where_bias_lists_them(tmp_path):
    """Under cosine a zero vector is in no index, but a user of whom nothing is known may be given the item."""
    run = build_releasable(plan_releasable(tmp_path, 3, evaluate=None), with_bias=0.1, zero=7)
    row = publish(run)
    activate(run.lake, row.release_id)
    with open_release(run.lake) as release:
        assert len(release) == 59
        (listed,) = release.recommend([[]], 60).item_ids
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
    assert listed == [f"i{i}" for i in np.argsort(-vectors.bias, kind="stable")]


def test_an_open_release_stays_until_it_reloads(active):
    with open_release(active.lake) as release:
        before = release.recommend(HISTORIES[:1], 5)
        assert release.reload() is False
        activate(active.lake, active.second)
        assert release.release_id == active.first
        assert release.recommend(HISTORIES[:1], 5).scores.tolist() == before.scores.tolist()
        assert [lease.release_id for lease in list_leases(active.lake)] == [active.first]
        assert release.reload() is True
        assert release.release_id == active.second
        assert [lease.release_id for lease in list_leases(active.lake)] == [active.second]
        assert release.recommend(HISTORIES[:1], 5).scores.tolist() != before.scores.tolist()
    assert list_leases(active.lake) == []


def test_a_reload_that_fails_keeps_the_old_one(active):
    with open_release(active.lake) as release:
        activate(active.lake, active.second)
        active.file("indexes", active.row(active.second).index_id, "shard-00000.faiss").unlink()
        with pytest.raises(IndexReadError, match=r"shard-00000\.faiss: missing"):
            release.reload()
        assert release.release_id == active.first
        assert release.recommend(HISTORIES, 3).item_ids
        assert [lease.release_id for lease in list_leases(active.lake)] == [active.first]


def test_a_lake_without_an_active_release_is_told_what_to_do(released):
    with pytest.raises(ReleaseError, match="no release is active; run `recspark release activate CONF` first"):
        open_release(released.lake)
    with open_release(released.lake, released.first[:5]) as release:
        assert release.release_id == released.first


@pytest.mark.parametrize("lease_hours", [24.0, None])
def test_a_read_only_lake_is_opened_without_a_lease(active, monkeypatch, lease_hours):
    def refuse(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr("recspark.releases.leases.write_bytes", refuse)
    if lease_hours is None:
        assert open_release(active.lake, lease_hours=None).recommend(HISTORIES, 3).item_ids
    else:
        with pytest.raises(ReleaseError, match=r"read-only file system.*open the release with lease_hours=None"):
            open_release(active.lake, lease_hours=lease_hours)


def test_a_lease_is_renewed_by_use(active, monkeypatch):
    import datetime as dt

    with open_release(active.lake, lease_hours=2) as release:
        (before,) = list_leases(active.lake)
        release.recommend(HISTORIES, 3)
        assert list_leases(active.lake) == [before]
        late = before.expires_at - dt.timedelta(minutes=50)
        monkeypatch.setattr(module, "now", lambda: late)
        monkeypatch.setattr("recspark.releases.leases.now", lambda: late)
        release.recommend(HISTORIES, 3)
        (after,) = list_leases(active.lake)
    assert after.reader_id == before.reader_id
    assert after.expires_at - before.expires_at == dt.timedelta(minutes=70)


def test_swapped_vectors_are_refused_by_name(active, monkeypatch):
    other = vectors_of(active, 2)
    monkeypatch.setattr(opened, "read_item_vectors", lambda *_, **__: other)
    with open_release(active.lake) as release:
        assert release.search(other.queries[:1], 3).item_ids  # the index needs none of them
        with pytest.raises(ReleaseError, match=rf"holds other vectors or ids than release {active.first} "):
            release.recommend(HISTORIES, 3)


def test_an_index_built_anew_is_refused_by_name(active):
    path = active.file("indexes", active.row(active.first).index_id, "manifest.json")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ReleaseError, match=rf"release {active.first}: .*manifest\.json: SHA-256 .* built anew"):
        open_release(active.lake)


def test_another_sound_model_under_the_id_is_refused_by_name(active):
    """Whole in itself, and not what the release was made with: neither a reader nor a batch takes it."""
    row = active.row(active.first)
    active.file("models", row.model_id, "vectors.safetensors").write_bytes(b"another training")
    publish_folder(
        active.lake, "models", row.model_id, ["vectors.safetensors"], counts={}, config={}, inputs={}, facts={},
        run_id="x",
    )  # fmt: skip
    for open_it in (open_release, pin_active):
        with pytest.raises(ReleaseError, match=rf"release {active.first}: .*models/{row.model_id}/.* built anew"):
            open_it(active.lake)


def test_tower_and_head_are_read_when_the_release_is_opened(tmp_path):
    run = build_releasable(plan_releasable(tmp_path, 3, evaluate=None), has_tower=True)
    activate(run.lake, publish(run).release_id)
    with open_release(run.lake) as release:
        wanted = release.recommend(HISTORIES, 4)
    with open_release(run.lake) as release:
        shutil.rmtree(tmp_path / "lake" / "models")
        found = release.recommend(HISTORIES, 4)
    assert found.item_ids == wanted.item_ids
    assert found.scores.tolist() == wanted.scores.tolist()


def test_a_release_taken_away_while_it_was_opened_is_left_for_the_active_one(active, monkeypatch):
    real = opened.read_release_manifest

    def gone(lake, row):
        monkeypatch.setattr(opened, "read_release_manifest", real)
        activate(lake, active.second)
        raise ReleaseError("collected")

    monkeypatch.setattr(opened, "read_release_manifest", gone)
    with open_release(active.lake) as release:
        assert release.release_id == active.second
        assert len(list_leases(active.lake)) == 1


def test_a_reader_never_sees_half_a_release(active):
    """A reader opens and asks all the time while 50 activations go on and a publisher is killed among them."""
    answers = {}
    for release_id in (active.first, active.second):
        with open_release(active.lake, release_id) as release:
            answers[release_id] = release.recommend(HISTORIES, 5).scores.tolist()
    done, problems, seen = threading.Event(), [], []

    def read():
        kept = open_release(active.lake)
        while not done.is_set():
            try:
                with open_release(active.lake) as release:
                    assert release.recommend(HISTORIES, 5).scores.tolist() == answers[release.release_id]
                kept.reload()
                assert kept.recommend(HISTORIES, 5).scores.tolist() == answers[kept.release_id]
                seen.append(kept.release_id)
                time.sleep(0.1)
            except BaseException as error:
                problems.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(50):
            if number == 25:
                assert publish_and_die(active.folder, 1, "release.before_manifest", num_canaries=9) == -9
            activate(active.lake, (active.second, active.first)[number % 2])
    finally:
        done.set()
        reader.join(timeout=60)
    assert problems == []
    assert {*seen} == {active.first, active.second}
    assert sorted(active.states().values()) == ["ACTIVE", "BUILDING", "RETIRED"]


ONLY_WHAT_A_READER_NEEDS = """
import sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "pydantic", "yaml", "numba", "scipy", "pandas", "sklearn", "torch", "pyspark", "typer", "rich"
        }:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Barred())
from recspark.releases.reader import open_release
with open_release(sys.argv[1]) as release:
    print(release.recommend([["i3", "i7"], []], 3).item_ids)
    release.reload()
"""


def test_a_reader_needs_numpy_pyarrow_deltalake_and_faiss_alone(active):
    command = [sys.executable, "-c", ONLY_WHAT_A_READER_NEEDS, active.lake]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with open_release(active.lake) as release:
        assert done.stdout.strip() == str(release.recommend([["i3", "i7"], []], 3).item_ids)
