"""Queries on a tiny lake: answers by hand, names, reasons, and what a wrong id is told."""

import difflib
import hmac

import numpy as np
import pyarrow as pa
import pytest

from recspark.errors import QueryError
from recspark.pipeline.closing import describe_item_query, describe_user_query
from recspark.retrieval import query
from recspark.retrieval.close_matches import find_close_matches
from recspark.retrieval.query import Neighbour, recommend_for_user, similar_items
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_sessions

VECTORS = {0: [1.0, 0.0], 1: [0.8, 0.6], 2: [0.0, 2.0], 3: [-1.0, 0.0]}
USERS = [([0], [], [], [2]), ([2, 2, 0], [], [], []), ([4], [], [], []), ([], [], [], [])]


@pytest.fixture
def run(tmp_path):
    run = plan_tiny(tmp_path)
    names = ["north", None, "east", "south", "new"]
    write_sessions(run, [5, 4, 3, 2, 0], USERS, f_genre=["x"] * 5, f_title=names)
    write_embeddings(run, VECTORS)
    return run


def test_items_near_an_item_leave_itself_out(run):
    assert similar_items(run, "i0", 2) == [
        Neighbour(1, "i1", None, pytest.approx(0.8)),
        Neighbour(2, "i2", "east", pytest.approx(0.0)),
    ]
    assert [n.item_id for n in similar_items(run, "i2", 9)] == ["i1", "i0", "i3"]


def test_items_near_an_item_are_asked_by_its_query_side(tmp_path):
    run = plan_tiny(tmp_path)
    write_sessions(run, [1] * 4, USERS[:2])
    write_embeddings(run, VECTORS, query_vectors={0: [-1.0, 0.1]}, bias={2: 0.5})
    assert [n.item_id for n in similar_items(run, "i0", 3)] == ["i3", "i2", "i1"]


def test_a_user_gets_unseen_items_and_the_reason(run):
    # history 2, 2, 0: (0, 1) twice and (1, 0) once, mean (1/3, 2/3)
    found = recommend_for_user(run, "u1", 5)
    assert [n.item_id for n in found] == ["i1", "i3"]
    assert found[0].score == pytest.approx((0.8 / 3 + 0.6 * 2 / 3) / (5**0.5 / 3), abs=1e-6)
    assert found[0].because == ("north", "east")  # .8 against .6
    assert found[1].because == ("east", "north")  # 0 against -1
    # all events count as history, those of test too
    assert [n.item_id for n in recommend_for_user(run, "u0", 5)] == ["i1", "i3"]


def test_a_user_is_the_weighted_mean_that_the_model_was_exported_with(tmp_path):
    run = plan_tiny(tmp_path, evaluate={"mask_seen": False})
    write_sessions(run, [5, 4, 3, 2, 0], [([0, 2], [1], [], [4])], days=[[1, 5, 3, 9]])
    write_embeddings(run, VECTORS, metric="ip", history_decay=0.5, history_items=2)
    found = recommend_for_user(run, "u0", 2)
    # by time 0, 1, 2, 4, of which 4 has no vector: (0, 1) with weight 1 and (.8, .6) with 1/2
    assert [(n.item_id, n.score) for n in found] == [("i2", pytest.approx(5.2 / 3)), ("i1", pytest.approx(1.1 / 1.5))]
    assert found[1].because == ("i1", "i2")  # the nearest of those that count; i0 does not


def test_seen_items_are_listed_where_the_config_wants_them(tmp_path):
    run = plan_tiny(tmp_path, evaluate={"mask_seen": False})
    write_sessions(run, [5, 4, 3, 2, 0], USERS)
    write_embeddings(run, VECTORS)
    found = recommend_for_user(run, "u1", 2)
    assert [n.item_id for n in found] == ["i1", "i2"]
    assert found[0].because == ("i0", "i2")  # ids, where nothing has a name


def test_a_text_feature_of_the_config_gives_names(tmp_path):
    feature = {"name": "label", "path": "items.csv", "key": "id", "column": "label", "kind": "text"}
    run = plan_tiny(tmp_path, features=[{**feature, "name": "kind", "kind": "categorical"}, feature])
    write_sessions(run, [1] * 4, USERS[:2], f_kind=["k"] * 4, f_label=["a", "b", "c", "d"])
    write_embeddings(run, VECTORS)
    assert similar_items(run, "i0", 1)[0].name == "b"


def test_an_unknown_item_is_told_what_is_close(run):
    with pytest.raises(QueryError) as error:
        similar_items(run, "I1", 3)
    assert str(error.value) == "query: no item 'I1' among the 5 items of this run; close: i1"
    with pytest.raises(QueryError) as error:
        similar_items(run, "zebra", 3)
    assert str(error.value) == "query: no item 'zebra' among the 5 items of this run; they look like i0, i1, i2"


def test_an_unknown_user_is_told_what_is_close(run):
    with pytest.raises(QueryError, match=r"no user 'u00' among the 4 users of this run; close: u0"):
        recommend_for_user(run, "u00", 3)


def test_what_the_model_does_not_know_is_said(run):
    with pytest.raises(QueryError, match=r"item 'i4' has no vector in model .*no event to learn from"):
        similar_items(run, "i4", 3)
    with pytest.raises(QueryError, match=r"user 'u2' has 1 events, none on an item that model .* has a vector for"):
        recommend_for_user(run, "u2", 3)
    with pytest.raises(QueryError, match="user 'u3' has 0 events"):
        recommend_for_user(run, "u3", 3)
    with pytest.raises(QueryError, match="k must be at least 1, got 0"):
        similar_items(run, "i0", 0)


def test_an_item_that_was_never_trained_is_near_nothing(run):
    write_embeddings(run, VECTORS | {4: [0.0, 0.0]})
    with pytest.raises(QueryError, match=r"item 'i4' was never trained: its vector in model \w+ is zero"):
        similar_items(run, "i4", 3)


def test_an_edge_list_has_no_users(tmp_path):
    source = {"kind": "edges", "path": "e.csv", "format": "csv", "directed": True}
    run = plan_tiny(tmp_path, source=source, split={"kind": "leave_last_out"}, evaluate=None)
    with pytest.raises(QueryError, match=r"source\.kind edges has no users; ask for an item"):
        recommend_for_user(run, "u0", 3)


def test_hidden_ids_are_asked_for_by_those_of_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", "k" * 32)
    privacy = {"key": "${env:ID_KEY}", "item_ids": "hmac"}
    source = {"kind": "files", "path": "x", "format": "csv", "columns": {"ts": "ts"}, "privacy": privacy}
    run = plan_tiny(tmp_path, source=source)
    items, users = (
        [hmac.new(b"k" * 32, f"{letter}{n}".encode(), "sha256").hexdigest() for n in range(number)]
        for letter, number in (("i", 5), ("u", 4))
    )
    write_sessions(run, [5, 4, 3, 2, 0], USERS, ids=(items, users))
    write_embeddings(run, VECTORS)
    found = recommend_for_user(run, "u1", 5)
    assert [n.item_id for n in found] == [items[1], items[3]]
    assert recommend_for_user(run, users[1], 5) == found  # as tables hold it
    assert [n.item_id for n in similar_items(run, "i0", 2)] == [items[1], items[2]]
    assert describe_user_query(run, "u1", 1).splitlines()[0] == "for the user asked for:"
    assert describe_item_query(run, "i0", 1).splitlines()[0] == "items near the item asked for:"
    for ask, wanted in ((recommend_for_user, "anna@example.org"), (recommend_for_user, "u2"), (similar_items, "i4")):
        with pytest.raises(QueryError) as caught:
            ask(run, wanted, 3)
        assert wanted not in str(caught.value)
    with pytest.raises(
        QueryError, match=r"^query: no user of this id among the 4 users of this run, whose ids are hid"
    ):
        recommend_for_user(run, "anna@example.org", 3)


def test_a_built_index_is_used(run, monkeypatch):
    asked = []

    class Index:
        def search(self, queries, k):
            asked.append(k)
            return np.array([[3, 0, 2][:k]]), np.array([[3, 2, 1][:k]], dtype=np.float32)

    monkeypatch.setattr(query, "_open_built_index", lambda run, embeddings: Index())
    assert [n.item_id for n in similar_items(run, "i0", 2)] == ["i3", "i2"]
    assert asked == [3]


def test_close_matches_find_a_typo_among_many_ids():
    ids = pa.array([f"item-{n:06d}" for n in range(100_000)])
    assert find_close_matches(ids, "ITEM-004711")[0] == "item-004711"
    close = find_close_matches(ids, "item-0471a1")
    assert len(close) == 3
    assert all(difflib.SequenceMatcher(None, i, "item-0471a1").ratio() > 0.9 for i in close)
    assert find_close_matches(pa.array(["apple", "pear", "grape"]), "aple") == ["apple", "grape"]
    assert find_close_matches(pa.array(["apple", "pear"]), "") == []
