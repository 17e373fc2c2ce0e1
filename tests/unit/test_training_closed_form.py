"""Models without a corpus: vectors of the factors, published and committed as a trained model's are."""

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file

from recspark.baselines.ppmi_svd import build_ppmi_svd
from recspark.baselines.spectral import build_spectral_from_users
from recspark.config.baselines import PpmiSvdConfig, SpectralConfig
from recspark.errors import DataError
from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.folders import folder_uri
from recspark.retrieval.user_vectors import build_user_vectors
from recspark.training.job import train
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_sessions, write_stage

BUILDERS = {"ppmi_svd": (build_ppmi_svd, PpmiSvdConfig()), "spectral": (build_spectral_from_users, SpectralConfig())}
NUM_ITEMS = 14


def draw_users():
    """40 users of two tastes over 12 items; item 12 is in validation only, item 13 in no history; one has nothing."""
    random = np.random.default_rng(3)
    users = [(random.choice(np.arange(u % 2, 12, 2), 4).tolist(), [12], [], [0]) for u in range(40)]
    return [*users, ([], [], [], [1])]


USERS = draw_users()
READOUTS = [("ppmi_svd", "input_output"), ("spectral", "input")]
"""Of two factors that differ, and of one."""


def matrix():
    dense = np.zeros((len(USERS), NUM_ITEMS))
    for row, parts in enumerate(USERS):
        dense[row, parts[0]] = 1
    return sp.csr_array(dense)


def plan(folder, kind, **sections):
    return plan_tiny(folder, model={"kind": kind, "embedding_dim": 5, **sections.pop("model", {})}, run={"seed": 4},
                     evaluate=None, **sections)  # fmt: skip


def fill(run):
    write_sessions(run, np.bincount([i for p in USERS for i in p[0]], minlength=NUM_ITEMS).tolist(), USERS)


def rows(run, table):
    return read_table(find_table(run.lake, run.stages["train"], table)).sort_by("idx")


def queries_of(items):
    """The vectors that users are made of: a column of their own where they differ."""
    found = pc.coalesce(items["query_vector"], items["vector"])
    return np.array(found.to_pylist(), np.float32)


@pytest.mark.parametrize(("kind", "readout"), READOUTS)
def test_item_and_user_vectors_are_those_of_the_factors(tmp_path, kind, readout):
    run = plan(tmp_path, kind, model={"readout": readout})
    fill(run)
    train(run)
    build, config = BUILDERS[kind]
    factors = build(matrix(), 5, config, 4)
    items, users = rows(run, "item_embeddings"), rows(run, "user_embeddings")
    assert items["idx"].to_pylist() == list(range(12))  # nothing is known of the other two
    np.testing.assert_array_equal(np.array(items["vector"].to_pylist(), np.float32), factors.output[:12])
    np.testing.assert_array_equal(queries_of(items), factors.input[:12])
    unit = factors.input[:12] / np.linalg.norm(factors.input[:12], axis=1, keepdims=True)
    np.testing.assert_allclose(users["vector"][0].as_py(), unit[USERS[0][0]].mean(axis=0), atol=1e-6)
    assert len(users) == 40
    stored = load_file(f"{folder_uri(run.lake, 'models', run.stages['train'].id)}/vectors.safetensors")
    np.testing.assert_array_equal(stored["input"], factors.input)


@pytest.mark.parametrize(("kind", "readout"), READOUTS)
def test_users_are_exported_as_they_are_queried(tmp_path, kind, readout):
    """One weighting: `user_embeddings` by a slow reading, by retrieval from the table, and what the record says."""
    run = plan(tmp_path, kind, model={"readout": readout, "history_decay": 0.6, "history_items": 3})
    fill(run)
    train(run)
    items, users = rows(run, "item_embeddings"), rows(run, "user_embeddings")
    queries = queries_of(items)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = [np.average(unit[parts[0][:0:-1]], axis=0, weights=[1, 0.6, 0.36]) for parts in USERS[:40]]
    found = np.array(users["vector"].to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
    assert vectors.history_weights == HistoryWeights(0.6, 3)
    assert vectors.take(np.arange(3)).history_weights == vectors.history_weights
    np.testing.assert_allclose(
        build_user_vectors(vectors, Ragged.from_rows([p[0] for p in USERS[:40]])), found, atol=1e-6
    )


def test_the_record_says_what_it_is(tmp_path):
    run = plan(tmp_path, "ppmi_svd")
    fill(run)
    train(run)
    _, record = find_done(run.lake, run.stages["train"])
    assert record.facts["model_kind"] == "ppmi_svd"
    assert record.facts["backend"] == "closed form"
    assert record.counts["num_pairs"] >= record.counts["num_pairs_above_chance"] > 0
    assert record.inputs == {"user_histories": 0, "items": 0, "users": 0}
    assert (record.counts["items_trained"], record.counts["users"], record.counts["users_without_history"]) == (
        12,
        40,
        1,
    )


def test_it_is_done_once_and_only_by_the_first_rank(tmp_path, monkeypatch, capsys):
    run = plan(tmp_path, "spectral")
    fill(run)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    train(run)
    assert find_done(run.lake, run.stages["train"]) is None
    monkeypatch.setenv("RANK", "0")
    train(run)
    train(run)
    assert "already done at version 0" in capsys.readouterr().err


def write_edges(run, edges, num_nodes):
    """An undirected edge list's tables."""
    near = [sorted({b for a, b in edges if a == n} | {a for a, b in edges if b == n}) for n in range(num_nodes)]
    nodes = [{"item_idx": n, "item_id": f"n{n}", "num_events": len(near[n])} for n in range(num_nodes)]
    graph = [{"src_idx": n, "dst_idx": out, "score": [1.0] * len(out), "count": [1] * len(out)}
             for n, out in enumerate(near) if out]  # fmt: skip
    write_stage(run, "ingest", {"items": rows_of("items", nodes), "item_graph": rows_of("item_graph", graph)})


def test_an_edge_list_gives_every_node_a_vector_and_counts_the_isolated(tmp_path):
    source = {"kind": "edges", "path": "e.csv", "format": "csv", "directed": False}
    run = plan(tmp_path, "spectral", source=source, index={"kind": "flat"}, walks=None)
    assert list(run.stages) == ["ingest", "train", "index"]
    cliques = [(a, b) for part in (range(0, 5), range(5, 11)) for a in part for b in part if a < b]
    write_edges(run, [*cliques, (4, 5)], 12)
    train(run)
    items = rows(run, "item_embeddings")
    vectors = np.array(items["vector"].to_pylist())
    assert items["id"].to_pylist() == [f"n{n}" for n in range(12)]
    assert np.flatnonzero(~vectors.any(axis=1)).tolist() == [11]
    assert np.unique(np.sign(vectors[:5, 1])) != np.unique(np.sign(vectors[5:11, 1]))  # the cut between the cliques
    _, record = find_done(run.lake, run.stages["train"])
    assert record.counts["isolated"] == 1
    assert record.inputs == {"item_graph": 0, "items": 0}


def test_histories_without_a_pair_are_refused(tmp_path):
    run = plan(tmp_path, "ppmi_svd")
    write_sessions(run, [1, 1], [([0], [], [], []), ([1], [], [], [])])
    with pytest.raises(DataError, match="check that train histories hold two items"):
        train(run)
    assert find_done(run.lake, run.stages["train"]) is None
