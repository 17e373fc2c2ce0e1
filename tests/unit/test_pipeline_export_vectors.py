"""Vectors for other engines: fixed-size lists whose plain inner product gives our scores."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recspark.cli import app
from recspark.errors import DataError
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table
from recspark.pipeline.export_vectors import to_fixed_lists, write_vectors
from recspark.retrieval.recommend import recommend
from tests.helpers.tiny_lake import plan_tiny, random_vectors, rows_of, write_embeddings, write_stage

DIM = 4


def build(folder, metric="cosine", two_sided=False):
    run = plan_tiny(folder, model={"embedding_dim": DIM, "metric": metric}, evaluate=None)
    vectors, queries = random_vectors(1, 12, DIM), random_vectors(2, 12, DIM)
    bias = {i: 0.1 * i for i in range(12)}
    queried = {i: v.tolist() for i, v in enumerate(queries)} if two_sided else None
    write_embeddings(run, {i: v.tolist() for i, v in enumerate(vectors)}, queried, bias, metric)
    return run


def matrix(table, column="vector"):
    return np.array(table[column].to_pylist(), np.float32)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("two_sided", [False, True])
def test_an_inner_product_and_the_bias_are_the_score(tmp_path, metric, two_sided):
    run = build(tmp_path, metric, two_sided)
    for fold in (False, True):
        folder = tmp_path / f"out-{fold}"
        assert list(write_vectors(run, folder, fold)) == [(folder / "items.parquet", 12)]
        items = pq.read_table(folder / "items.parquet")
        assert items.schema.field("vector").type == pa.list_(pa.float32(), DIM + fold)
        assert items["id"].to_pylist() == [f"i{i}" for i in range(12)]
        query = matrix(items, "query_vector" if two_sided else "vector")[3]
        if fold:
            query[-1] = 1  # a query's last float is 1 where the items' is the bias
            scores = matrix(items) @ query
        else:
            scores = matrix(items) @ query + items["bias"].to_numpy()
        vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
        own = Ragged.from_rows([[3]])
        exact = recommend(vectors, own, Ragged.empty(1), 12)
        scale = 1.0 if metric == "cosine" else float(np.linalg.norm(vectors.queries[3]))
        # the mean of one item is its unit query vector: under ip the export keeps the length
        plain = scores - vectors.bias
        wanted = np.empty(12, np.float32)
        wanted[exact.ids[0]] = exact.scores[0]
        assert plain == pytest.approx((wanted - vectors.bias) * scale, abs=1e-4)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("fold", [False, True])
def test_distances_are_exported_as_they_are_and_with_the_bias_folded_in_as_a_product(tmp_path, two_sided, fold):
    run = build(tmp_path, "l2", two_sided)
    list(write_vectors(run, tmp_path / "out", fold))
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"))
    wanted = -np.square(vectors.vectors - vectors.queries[3]).sum(axis=1)
    assert items.schema.metadata[b"recspark.dim"] == str(DIM + 3 if fold else DIM).encode()
    assert items.schema.metadata[b"recspark.metric"] == (b"ip" if fold else b"l2")
    if not two_sided:
        query = vectors.queries[3]
        query = np.concatenate([2 * query, [-(query @ query), 1, 1]]) if fold else query
    else:
        query = matrix(items, "query_vector")[3]
    found = matrix(items) @ query - vectors.bias if fold else -np.square(matrix(items) - query).sum(axis=1)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_the_files_say_metric_dimension_and_model(tmp_path):
    run = build(tmp_path)
    list(write_vectors(run, tmp_path / "out", True))
    said = pq.read_schema(tmp_path / "out" / "items.parquet").metadata
    found = {key.decode(): value.decode() for key, value in said.items() if key.startswith(b"recspark.")}
    assert found == {
        "recspark.metric": "ip", "recspark.dim": str(DIM + 1), "recspark.model_id": run.stages["train"].id,
    }  # fmt: skip


def test_users_are_written_where_the_model_has_some(tmp_path):
    run = build(tmp_path)
    model_id = run.stages["train"].id
    users = [{"idx": i, "id": f"u{i}", "vector": [3.0, 4.0, 0.0, 0.0], "model_id": model_id} for i in range(3)]
    items = [{"idx": 0, "id": "i0", "vector": [1.0] * DIM, "bias": 0.0, "model_id": model_id}]
    facts = {"metric": "cosine", "model_id": model_id, "embedding_dim": DIM}
    tables = {
        "user_embeddings": rows_of("user_embeddings", users),
        "item_embeddings": rows_of("item_embeddings", items),
    }
    write_stage(run, "train", tables, facts=facts)
    written = dict(write_vectors(run, tmp_path / "out", True))
    assert written[tmp_path / "out" / "users.parquet"] == 3
    found = matrix(pq.read_table(tmp_path / "out" / "users.parquet"))
    assert found == pytest.approx(np.tile([0.6, 0.8, 0, 0, 1], (3, 1)))


def test_values_that_engines_refuse_are_refused_here():
    with pytest.raises(DataError, match="vectors hold NaN or infinite values; look at the training log"):
        to_fixed_lists(np.array([[np.inf]], np.float32))


def test_the_command_names_files_and_rows(tmp_path, monkeypatch):
    run = build(tmp_path)
    monkeypatch.setattr("recspark.pipeline.open_run.open_finished_run", lambda *_: run)
    result = CliRunner().invoke(app, ["export", "run.yaml", "--vectors", "--to", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f"12 rows in {tmp_path / 'out' / 'items.parquet'}"
