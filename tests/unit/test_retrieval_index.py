"""Queries and the evaluation through a real sharded index, against exact search."""

import numpy as np
import pytest

from recspark.index.job import build_index
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.pipeline.evaluate_stage import evaluate
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


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_flat_index_of_several_shards_gives_the_exact_lists(tmp_path, metric, with_bias):
    model = {"embedding_dim": 6, "metric": metric}
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
