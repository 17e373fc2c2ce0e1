"""Blocks of users: whole, in order, and the same however rows come in batches."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from recspark.lake.arrow import find_table
from recspark.retrieval import serving as module
from recspark.retrieval.rules import ListRules
from recspark.retrieval.serving import Pinned, Recommender, cut_blocks, open_once, read_blocks
from tests.helpers.tiny_lake import plan_tiny, random_vectors, write_embeddings, write_sessions

HISTORIES = [[0, 1], [], [2, 3, 4], [5], [1, 1, 6], [7, 0], [3]]


@pytest.fixture(scope="module")
def pinned(tmp_path_factory):
    run = plan_tiny(tmp_path_factory.mktemp("serving"), model={"embedding_dim": 4}, evaluate=None)
    write_sessions(run, list(range(9, 0, -1)), [(items, [], [], []) for items in HISTORIES])
    write_embeddings(run, {i: v.tolist() for i, v in enumerate(random_vectors(4, 9, 4))})
    tables = {
        name: find_table(run.lake, run.producer(name), name)
        for name in ("items", "users", "user_histories", "item_embeddings")
    }
    return Pinned(run.lake, **tables)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_USERS", 2)
    monkeypatch.setattr(module, "RANGE_USERS", 4)


def blocks_of(pinned, listed=None):
    return [block["user_id"].to_pylist() for block in read_blocks(pinned, listed)]


def test_users_with_events_come_in_whole_blocks(pinned):
    assert blocks_of(pinned) == [["u0"], ["u2", "u3"], ["u4", "u5"], ["u6"]]
    for block in read_blocks(pinned):
        assert [HISTORIES[idx] for idx in block["user_idx"].to_pylist()] == block["item_idx"].to_pylist()


def test_listed_users_stay_in_the_blocks_they_have_among_all(pinned):
    assert blocks_of(pinned, pa.array(["u6", "u3", "u1", "u2", "nobody"])) == [["u2", "u3"], ["u6"]]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 0, 4, 3], [0, 9, 1]])
def test_batches_do_not_change_blocks(sizes):
    user_idx = np.array([0, 1, 3, 4, 5, 6, 7, 10, 11, 12], np.int32)
    ends = np.cumsum([0, *sizes])
    batches = [
        pa.RecordBatch.from_pydict({"user_idx": pa.array(user_idx[start:end])})
        for start, end in itertools.pairwise(ends)
    ]
    found = [block["user_idx"].to_pylist() for block in cut_blocks(batches)]
    assert found == [[0, 1], [3], [4, 5], [6, 7], [10, 11], [12]]


def test_lists_hold_ids_best_first_without_what_was_seen(pinned):
    recommender = Recommender(pinned, ListRules(k=3, depth=3, mask_seen=True))
    rows = [row for block in read_blocks(pinned) for row in _rows(recommender, block)]
    assert [row["user_id"] for row in rows] == ["u0", "u2", "u3", "u4", "u5", "u6"]
    for row in rows:
        assert len(row["item_ids"]) == 3
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert not {f"i{i}" for i in HISTORIES[int(row["user_id"][1:])]} & {*row["item_ids"]}
        assert row["purpose"] == "serve"


def test_only_allowed_items_are_listed(pinned):
    rules = ListRules(k=3, depth=3, mask_seen=False, allowed=np.array([2, 8]))
    rows = [row for block in read_blocks(pinned) for row in _rows(Recommender(pinned, rules), block)]
    assert {frozenset(row["item_ids"]) for row in rows} == {frozenset({"i2", "i8"})}


def test_a_process_opens_a_model_once(pinned):
    rules = ListRules(k=3, depth=3, mask_seen=True)
    assert open_once("a", pinned, rules) is open_once("a", pinned, rules)
    assert open_once("b", pinned, rules) is not open_once("a", pinned, rules)


def _rows(recommender, block):
    return recommender.list_users(block["user_id"], block).to_pylist()
