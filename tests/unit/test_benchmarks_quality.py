"""`quality`: which rows of `metrics` count, and how a graph's vectors come to its nodes."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from benchmarks.lines import BenchmarkError
from benchmarks.quality import find_conf, pick_metrics, read_node_vectors, score_graph
from recspark.contracts.tables import METRICS
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage


def metric(name, value, *, model_id="m", key="k", segment="all", k=20):
    place = {"stage_key": key, "model_id": model_id, "segment": segment}
    return place | {"name": name, "k": k, "value": value, "num_users": 3}


def test_only_the_runs_own_rows_count():
    rows = [
        metric("recall", 0.5), metric("ndcg", 0.25), metric("recall", 0.9, k=10), metric("recall", 0.1, segment="warm"),
        metric("recall", 0.2, model_id="popularity"), metric("recall", 0.3, key="other"),
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=METRICS.schema)
    assert pick_metrics(table, "k", "m", ("recall@20", "ndcg@20")) == {"recall@20": 0.5, "ndcg@20": 0.25}
    assert pick_metrics(table, "k", "m", ("recall@20:warm",)) == {"recall@20:warm": 0.1}
    with pytest.raises(
        BenchmarkError, match="metrics of m: no hr@5; there is ndcg@20, recall@10, recall@20, recall@20:warm"
    ):
        pick_metrics(table, "k", "m", ("recall@20", "hr@5"))


def test_a_model_without_config_lists_those_there_are():
    with pytest.raises(BenchmarkError, match=r"quality gowalla: no config for 'nothing'; there is .*skip_gram_walks"):
        find_conf("gowalla", "nothing")


def test_vectors_go_to_the_nodes_their_ids_name(tmp_path):
    source = {"kind": "edges", "path": "edges.parquet", "format": "parquet", "directed": False}
    run = plan_tiny(tmp_path, source=source, evaluate=None)
    model_id = run.stages["train"].id
    base = {"bias": 0.0, "model_id": model_id}
    rows = [
        {"idx": 0, "id": "3", "vector": [1.0, 0.0], "query_vector": None, **base},
        {"idx": 1, "id": "0", "vector": [0.0, 1.0], "query_vector": None, **base},
    ]
    facts = {"metric": "cosine", "model_id": model_id, "embedding_dim": 2}
    write_stage(run, "train", {"item_embeddings": rows_of("item_embeddings", rows)}, facts=facts)
    assert read_node_vectors(run, 4).tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]


def test_a_graph_is_scored_at_unit_length_and_raw():
    random = np.random.default_rng(0)
    group = np.arange(80) % 2
    lengths = random.uniform(0.001, 1, 80)[:, None]
    vectors = (np.array([[1, 0.2], [0.2, 1]])[group] * lengths).astype(np.float32)
    labels = sp.csr_array((np.ones(80, bool), (np.arange(80), group)), shape=(80, 2))
    found = score_graph(vectors, labels, ("micro_f1@50", "macro_f1@50"))
    assert list(found) == ["micro_f1@50", "macro_f1@50", "micro_f1_raw@50", "macro_f1_raw@50"]
    assert found["micro_f1@50"] == 1
