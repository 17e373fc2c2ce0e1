"""`recspark recommend`: lists of all or listed users in one commit, streamed, done once."""

import numpy as np
import pytest
from typer.testing import CliRunner

from recspark.cli import app
from recspark.contracts.hidden_ids import hide_id
from recspark.errors import LakeError, QueryError, ReleaseError
from recspark.evaluate.ragged import Ragged
from recspark.faults import FAULT_VARIABLE
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import TableAt, find_commit, find_table, read_record, read_table
from recspark.pipeline import recommend as module
from recspark.pipeline.recommend import plan_batch, recommend_users
from recspark.releases.activate import activate
from recspark.releases.leases import list_leases
from recspark.retrieval import serving
from recspark.retrieval.recommend import recommend
from tests.helpers.release_lake import NUM_ITEMS, plan_releasable

FEATURES = [{"name": "category", "path": "items.csv", "key": "sku", "column": "kind", "kind": "categorical"}]
CATEGORIES = ["a", "b", "c"] * (NUM_ITEMS // 3)


@pytest.fixture
def ask(released, monkeypatch):
    """`recommend_users` of the first release's run, with a section `recommend`; the version it wrote."""

    def plan(conf, overrides, stage):
        return plan_releasable(released.folder, 1, recommend=conf)

    monkeypatch.setattr(module, "open_finished_run", plan)
    return lambda **section: recommend_users(section, [])[0]


def lists_of(released, version):
    table = TableAt(released.lake, "recommendations", version, read_record(released.lake, "recommendations", version))
    rows = read_table(table, filters=[("purpose", "=", "serve")]).to_pylist()
    return {row["user_id"]: (row["item_ids"], row["scores"]) for row in rows}


def histories_of(released):
    run = released.run(1)
    found = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    return Ragged.from_arrow(found["item_idx"])


@pytest.mark.parametrize("search", ["exact", "index", "auto"])
def test_every_user_gets_the_best_items_he_has_not_seen(released, ask, search):
    found = lists_of(released, ask(k=7, search=search))
    run, history = released.run(1), histories_of(released)
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
    wanted = recommend(vectors, history, history.distinct(), 7)
    assert len(found) == 25
    for user, (ids, scores) in found.items():
        row = int(user[1:])
        assert ids == [f"i{i}" for i in wanted.ids[row]]
        assert scores == pytest.approx(wanted.scores[row].tolist(), abs=1e-5)


@pytest.mark.parametrize("block", [1, 3, 8])
def test_lists_do_not_hang_on_files_or_ranges(released, ask, monkeypatch, block):
    whole = lists_of(released, ask(k=5))
    monkeypatch.setattr(serving, "BLOCK_USERS", block)
    monkeypatch.setattr(serving, "RANGE_USERS", 2 * block)
    monkeypatch.setattr(module, "RANGE_USERS", 2 * block)
    parts = lists_of(released, ask(k=5, quota_depth=7))  # another key, the same lists
    assert {user: ids for user, (ids, _) in parts.items()} == {user: ids for user, (ids, _) in whole.items()}


def test_a_second_time_nothing_is_done_unless_other_lists_were_written(released, ask):
    first = ask(k=4)
    assert ask(k=4) == first
    second = ask(k=3)
    assert second == first + 1
    assert ask(k=4) == second + 1
    assert {len(ids) for ids, _ in lists_of(released, second + 1).values()} == {4}


def test_only_the_slice_of_the_model_is_replaced(released, ask):
    evaluated = find_table(released.lake, released.run(1).stages["evaluate"], "recommendations")
    test_rows = read_table(evaluated, filters=[("purpose", "=", "test")]).num_rows
    version = ask(k=4)
    record = read_record(released.lake, "recommendations", version)
    table = TableAt(released.lake, "recommendations", version, record)
    assert read_table(table, filters=[("purpose", "=", "test")]).num_rows >= test_rows
    assert record.counts == {"users": 25, "users_without_events": 0, "short_lists": 0}
    assert record.inputs["index"] == released.run(1).stages["index"].id
    assert record.facts["model_id"] == released.run(1).stages["train"].id


def test_listed_users_alone(released, ask, tmp_path, capfd):
    everyone = lists_of(released, ask(k=4))
    path = tmp_path / "users.txt"
    path.write_text("u3\n\nu17 \nu3\nnobody\n")
    version = ask(k=4, users=str(path))
    assert lists_of(released, version) == {user: everyone[user] for user in ("u3", "u17")}
    counts = read_record(released.lake, "recommendations", version).counts
    assert (counts["users"], counts["users_asked"], counts["users_unknown"]) == (2, 3, 1)
    assert "ids without a user are left out" in capfd.readouterr().err
    path.write_text("nobody")
    with pytest.raises(QueryError, match=r"none of its 1 ids is a user of this run; users look like u0, u1, u2"):
        ask(k=4, users=str(path))
    with pytest.raises(QueryError, match=r"recommend\.users .*gone\.txt: "):
        ask(k=4, users=str(tmp_path / "gone.txt"))


def test_users_are_asked_for_by_the_ids_of_the_source(monkeypatch):
    class Privacy:
        def hides(self, owner):
            return owner == "user"

        def read_key(self):
            return b"k" * 16

    class HiddenRun:
        class config:
            class source:
                privacy = Privacy()

    assert module._hidden(HiddenRun, ["anna"]) == [hide_id(b"k" * 16, b"anna")]


def test_filters_and_quotas_hold_in_every_list(tmp_path, monkeypatch):
    from tests.helpers.release_lake import build_releasable

    rules = {
        "k": 9,
        "filters": [{"feature": "category", "drop": ["b"]}],
        "quotas": [{"feature": "category", "max_items": 4}],
    }
    more = {"features": FEATURES, "recommend": rules, "evaluate": None}
    run = build_releasable(plan_releasable(tmp_path, 1, **more), f_category=CATEGORIES)
    monkeypatch.setattr(module, "open_finished_run", lambda *_: run)
    version, _ = recommend_users("run.yaml", [])
    record = read_record(run.lake, "recommendations", version)
    rows = read_table(TableAt(run.lake, "recommendations", version, record)).to_pylist()
    for row in rows:
        values = [CATEGORIES[int(item[1:])] for item in row["item_ids"]]
        assert (values.count("a"), values.count("b"), values.count("c")) == (4, 0, 4)
    assert record.counts["short_lists"] == 25


def test_from_the_active_release(released, ask):
    with pytest.raises(ReleaseError, match="no release is active; run `recspark release activate CONF` first"):
        ask(k=4, release=True)
    activate(released.lake, released.second)
    version = ask(k=4, release=True)
    record = read_record(released.lake, "recommendations", version)
    assert record.facts["model_id"] == released.row(released.second).model_id
    assert record.inputs["index"] == released.row(released.second).index_id


def test_a_batch_holds_a_lease_on_its_release_until_it_is_done(released, ask, monkeypatch):
    activate(released.lake, released.second)
    real, held = module.commit_parts, []

    def commit(*arguments):
        held.extend(lease.release_id for lease in list_leases(released.lake))
        return real(*arguments)

    monkeypatch.setattr(module, "commit_parts", commit)
    ask(k=4, release=True)
    assert held == [released.second]
    assert list_leases(released.lake) == []
    ask(k=4, release=False)
    assert held == [released.second]


def test_a_batch_that_fails_gives_its_lease_back(released, ask, monkeypatch):
    activate(released.lake, released.second)
    with pytest.raises(QueryError, match="no text file with a user_id a line"):
        ask(k=4, release=True, users="no such file")
    monkeypatch.setattr(module, "commit_parts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(k=4, release=True)
    released.file("indexes", released.row(released.second).index_id, "manifest.json").unlink()
    with pytest.raises(ReleaseError, match="activate another release"):
        ask(k=4, release=True)
    assert list_leases(released.lake) == []


def test_an_index_that_is_not_there_is_told_or_done_without(released, ask, capfd):
    released.file("indexes", released.run(1).stages["index"].id, "manifest.json").unlink()
    with pytest.raises(LakeError, match=r"recommend.search is index, but .*has no manifest.json.*--to index"):
        ask(k=4, search="index")
    assert ask(k=4)
    assert "by exact search: " in capfd.readouterr().err


def test_killed_before_the_commit_nothing_is_there(released, ask, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    monkeypatch.setenv(FAULT_VARIABLE, "recommend.before_commit")
    monkeypatch.setattr("os.kill", die)
    with pytest.raises(Killed):
        ask(k=4)
    batch = plan_batch(module.open_finished_run({"k": 4}, [], "train"))
    assert find_commit(released.lake, "recommendations", batch.key) is None
    monkeypatch.delenv(FAULT_VARIABLE)
    assert len(lists_of(released, ask(k=4))) == 25


def test_users_without_events_are_counted_not_listed(tmp_path, monkeypatch):
    from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_sessions

    run = plan_tiny(tmp_path, evaluate=None, recommend={"k": 2})
    write_sessions(run, [3, 2, 1], [([0], [], [], []), ([], [], [], []), ([], [], [], [2])])
    write_embeddings(run, dict(enumerate(np.eye(3, 2).tolist())))
    monkeypatch.setattr(module, "open_finished_run", lambda *_: run)
    version, _ = recommend_users("run.yaml", [])
    record = read_record(run.lake, "recommendations", version)
    assert record.counts == {"users": 2, "users_without_events": 1, "short_lists": 0}


def test_the_command_says_where_the_lists_are(released, ask, monkeypatch):
    real = module.recommend_users
    monkeypatch.setattr(module, "recommend_users", lambda conf, overrides: real({"k": 4}, overrides))
    result = CliRunner().invoke(app, ["recommend", "run.yaml"])
    assert result.exit_code == 0, result.output
    assert f"purpose serve, model_id {released.run(1).stages['train'].id}" in result.output
