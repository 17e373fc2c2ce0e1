"""Queries and the evaluation through a real sharded index, against exact search."""

from pathlib import Path

import numpy as np
import pytest

from recspark.errors import IndexReadError, LakeError
from recspark.index.job import build_index
from recspark.index.store import open_index
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.pipeline.evaluate_stage import evaluate
from recspark.retrieval import query
from recspark.retrieval.query import recommend_for_user, similar_items
from tests.helpers.tiny_lake import plan_tiny, random_vectors, write_embeddings, write_graph, write_sessions


def fill(run, metric, with_bias):
    random = np.random.default_rng(1)
    users = [
        (random.integers(0, 60, n).tolist(), [], [], random.integers(0, 60, 4).tolist())
        for n in random.integers(1, 30, 25)
    ]
    write_sessions(run, list(range(60, 0, -1)), users)
    vectors, bias = random_vectors(2, 60, 6), random.normal(size=60) * with_bias
    write_embeddings(
        run,
        {i: v.tolist() for i, v in enumerate(vectors)},
        {i: v.tolist() for i, v in enumerate(random_vectors(3, 60, 6))},
        {i: float(b) for i, b in enumerate(bias)},
        metric,
    )
    write_graph(run, "item_knn_graph", {0: [(1, 0.5)]})


def lists_of(run):
    table = find_table(run.lake, run.stages["evaluate"], "recommendations")
    rows = read_table(table, filters=[("model_id", "=", run.stages["train"].id)]).to_pylist()
    return {row["user_id"]: row["item_ids"] for row in rows}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_flat_index_of_several_shards_gives_the_exact_lists(tmp_path, metric, with_bias):
    model = {"embedding_dim": 6}  # the table's record names the metric
    index = {"kind": "flat", "num_shards": 3, "num_queries": 10}
    exact = plan_tiny(tmp_path, model=model, evaluate={"ks": [5]})
    indexed = plan_tiny(tmp_path, model=model, index=index, evaluate={"ks": [5], "search": "index"})
    fill(exact, metric, with_bias)
    build_index(indexed)
    for run in (exact, indexed):
        evaluate(run)
    assert lists_of(indexed) == lists_of(exact)
    records = [find_done(run.lake, run.stages["evaluate"])[1] for run in (exact, indexed)]
    assert records[0].facts["metrics"] == records[1].facts["metrics"]
    assert records[1].inputs["index"] == indexed.stages["index"].id
    for ask, wanted in ((similar_items, "i7"), (recommend_for_user, "u3")):
        plain, through_index = ask(exact, wanted, 6), ask(indexed, wanted, 6)
        assert [n.item_id for n in plain] == [n.item_id for n in through_index]
        assert [n.score for n in plain] == pytest.approx([n.score for n in through_index], abs=1e-4)
        assert [n.because for n in plain] == [n.because for n in through_index]


def test_an_item_without_a_vector_is_found_by_its_neighbours(tmp_path, capfd):
    """Item 60 has edges, no vector: the index holds the mean of its neighbours', nobody else does."""
    index = {"kind": "flat", "num_queries": 10, "fill": ["neighbours"]}
    run = plan_tiny(tmp_path, model={"embedding_dim": 6}, index=index)
    vectors = random_vectors(2, 60, 6)
    write_sessions(run, [9] * 60 + [1], [([3, 5, 3], [], [], [7])])
    write_embeddings(run, {i: v.tolist() for i, v in enumerate(vectors)})
    write_graph(run, "graph", {60: [(3, 0.6), (5, 0.2), (99, 0.7)]})
    build_index(run)
    assert '"neighbours": 1, "unfilled": 0' in capfd.readouterr().err
    opened = open_index(run.lake, run.stages["index"].id)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, scores = opened.search((0.75 * units[3] + 0.25 * units[5])[None], 1)
    assert (ids[0, 0], scores[0, 0]) == (60, pytest.approx(1, abs=1e-5))
    assert opened.item_ids[60] == "i60"
    listed = recommend_for_user(run, "u0", 58)
    assert [n.because for n in listed if n.item_id == "i60"] == [()]
    assert all(n.because for n in listed if n.item_id != "i60")


@pytest.fixture
def indexed(tmp_path):
    """A run with a flat index that `evaluate` searches, and the index's folder."""
    index = {"kind": "flat", "num_shards": 3, "num_queries": 10}
    run = plan_tiny(tmp_path, model={"embedding_dim": 6}, index=index, evaluate={"ks": [5], "search": "index"})
    fill(run, "cosine", False)
    query._say_exact.cache_clear()
    return run, Path(run.lake, "indexes", run.stages["index"].id)


def lose_manifest(run, folder):
    build_index(run)
    (folder / "manifest.json").unlink()
    return f"indexes/{folder.name} has no manifest.json: its build was stopped, or the manifest is lost"


def train_again(run, folder):
    build_index(run)
    write_embeddings(run, {i: v.tolist() for i, v in enumerate(random_vectors(9, 60, 6))})
    return f"indexes/{folder.name} is made of item_embeddings at version 0, which is now at 1"


@pytest.mark.parametrize("undo", [lambda run, folder: f"no indexes/{folder.name}", lose_manifest, train_again])
def test_exact_search_in_place_of_the_index_is_said_once_with_its_reason(indexed, capfd, undo):
    run, folder = indexed
    reason = undo(run, folder)
    capfd.readouterr()
    found = [similar_items(run, "i7", 6) for _ in range(2)][1]
    said = capfd.readouterr().err
    assert said.count(f"answers by exact search: {reason}; the index stage builds it") == 1
    assert said.count("\n") == 1
    with pytest.raises(LakeError, match=f"evaluate.search is index, but {reason}; run `recspark run CONF --to index`"):
        evaluate(run)
    build_index(run)
    assert [n.item_id for n in similar_items(run, "i7", 6)] == [n.item_id for n in found]
    assert "exact" not in capfd.readouterr().err
    evaluate(run)


def test_a_query_refuses_an_index_that_lost_a_file_or_has_a_junk_manifest(indexed):
    run, folder = indexed
    build_index(run)
    (folder / "shard-00001.faiss").unlink()
    with pytest.raises(IndexReadError, match=r"shard-00001\.faiss: missing"):
        similar_items(run, "i7", 6)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(LakeError, match=r"manifest\.json: not a recspark manifest"):
        similar_items(run, "i7", 6)
    build_index(run)
    assert len(similar_items(run, "i7", 6)) == 6
