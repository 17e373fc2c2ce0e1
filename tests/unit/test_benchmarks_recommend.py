"""`recommend`: both sides list the same users from the same lake, and the line says what it took."""

import numpy as np
import pytest

from benchmarks import recommend_worker as worker
from benchmarks.lines import check_line
from benchmarks.recommend import _QUICK, compare
from benchmarks.recommend_lake import plan_lake, write_lake
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import TableAt, find_table, read_record, read_table
from recspark.pipeline.recommend import plan_batch, write_batch
from recspark.retrieval.recommend import recommend

NUM_USERS, NUM_ITEMS, K = 40, 300, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend")
    write_lake(plan_lake(folder, K, "auto"), NUM_USERS, NUM_ITEMS)
    return folder


def test_both_sides_find_the_exact_lists(folder, monkeypatch):
    written = []
    monkeypatch.setattr(worker.pq, "write_table", lambda rows, _: written.append(rows))
    monkeypatch.setattr(worker, "_BLOCK", 16)
    worker.load(str(folder), K, "peer")
    assert worker.run()["lists"] == NUM_USERS
    peer = {row["user_id"]: row["item_ids"] for rows in written for row in rows.to_pylist()}
    run = plan_lake(folder, K, "exact")
    version = write_batch(plan_batch(run))
    record = read_record(run.lake, "recommendations", version)
    rows = read_table(TableAt(run.lake, "recommendations", version, record)).to_pylist()
    assert {row["user_id"]: row["item_ids"] for row in rows} == peer
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
    found = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    history = Ragged.from_arrow(found["item_idx"])
    wanted = recommend(vectors, history, history.distinct(), K).ids
    assert peer["u000000007"] == [f"i{i:07}" for i in wanted[7]]
    assert np.all(wanted >= 0)


def test_a_line_holds_users_a_second_and_memory_of_both(folder):
    shape = _QUICK | {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "k": K, "runs": 1}
    line = compare(str(folder), shape, "index", "python -m benchmarks recommend")
    check_line(line)
    assert (line["bench"], line["work"]["search"], line["work"]["num_users"]) == ("recommend", "index", NUM_USERS)
    assert set(line["peak_memory_mb"]) == {"project", "peer"}
    assert line["users_per_second"] > 0
