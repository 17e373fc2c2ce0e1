"""The Spark job's lists are those of the command, to the bit, in blocks of users spread over several tasks."""

import pyarrow as pa
import pytest

from recspark.contracts import columns as c
from recspark.lake.arrow import TableAt, read_record, read_table
from recspark.pipeline import recommend as module
from recspark.pipeline.recommend import find_lists, plan_batch, recommend_users
from recspark.pipeline.recommend_spark import write_lists
from tests.helpers.release_lake import NUM_ITEMS, build_releasable, plan_releasable
from tests.helpers.tiny_lake import build_histories, rows_of, write_stage

pytestmark = pytest.mark.spark

FEATURES = [{"name": "category", "path": "items.csv", "key": "sku", "column": "kind", "kind": "categorical"}]
CATEGORIES = ["a", "b", "c", None] * (NUM_ITEMS // 4)
GAP = 5_000
"""Between users: of 30 hardly two stand in one block."""
RULES = {
    "k": 8,
    "quotas": [{"feature": "category", "max_items": 2}],
    "filters": [{"feature": "category", "drop": ["c"]}],
    "search": "index",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lake whose users' idx lie far apart."""
    folder = tmp_path_factory.mktemp("lists")
    run = plan(folder)
    users = [([(u * 7 + n) % NUM_ITEMS for n in range(u % 5)], [], [], [u % NUM_ITEMS]) for u in range(30)]
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": 1, "active": i != 5} for i in range(NUM_ITEMS)]
    spread = pa.array([u * GAP for u in range(30)], pa.int32())
    people = rows_of("users", [{"user_idx": u, "user_id": f"u{u:02}", "num_events": 1} for u in range(30)])
    tables = {
        "items": rows_of("items", items, f_category=CATEGORIES),
        "users": people.set_column(0, c.USER_IDX, spread),
        "user_histories": build_histories(users).set_column(0, c.USER_IDX, spread),
    }
    write_stage(run, "sessions", tables)
    build_releasable(run, with_bias=0.1)
    return folder


def plan(folder, **recommend):
    return plan_releasable(folder, 1, features=FEATURES, evaluate=None, recommend=RULES | recommend)


def rows_at(run, version):
    table = TableAt(run.lake, "recommendations", version, read_record(run.lake, "recommendations", version))
    return sorted(read_table(table, filters=[("purpose", "=", "serve")]).to_pylist(), key=lambda row: row["user_id"])


@pytest.mark.parametrize("search", ["index", "exact"])
def test_both_ways_list_the_same(spark, folder, monkeypatch, search):
    run = plan(folder, search=search)
    monkeypatch.setattr(module, "open_finished_run", lambda *_: run)
    wanted = rows_at(run, recommend_users("run.yaml", [])[0])
    batch = plan_batch(run)
    version = write_lists(spark, batch)
    assert rows_at(run, version) == wanted
    assert len(wanted) == 30
    assert all("i5" not in row["item_ids"] for row in wanted)
    assert find_lists(batch) == version  # the command finds them done
    record = read_record(run.lake, "recommendations", version)
    assert (record.stage, record.inputs["index"]) == ("recommend", batch.pinned.index_id)


def test_listed_users_are_listed_alone(spark, folder, monkeypatch, tmp_path):
    path = tmp_path / "users.txt"
    path.write_text("u03\nu29\nnobody\n")
    run = plan(folder, users=str(path))
    monkeypatch.setattr(module, "open_finished_run", lambda *_: run)
    wanted = rows_at(run, recommend_users("run.yaml", [])[0])
    found = rows_at(run, write_lists(spark, plan_batch(run)))
    assert [row["user_id"] for row in found] == ["u03", "u29"]
    assert found == wanted
