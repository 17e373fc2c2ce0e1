"""item_embeddings read back as matrices."""

import numpy as np
import pytest

from recspark.errors import LakeError
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table
from tests.helpers.tiny_lake import plan_tiny, write_embeddings


def read(run, **how):
    return read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"), **how)


def test_rows_come_by_item_idx_with_the_query_side_where_it_differs(tmp_path):
    run = plan_tiny(tmp_path)
    write_embeddings(run, {7: [1, 2], 2: [3, 4], 4: [5, 6]}, {2: [9, 8]}, {7: 0.5}, "ip")
    found = read(run)
    assert found.item_idx.tolist() == [2, 4, 7]
    assert found.vectors.tolist() == [[3, 4], [5, 6], [1, 2]]
    assert found.queries.tolist() == [[9, 8], [5, 6], [1, 2]]
    assert found.bias.tolist() == [0, 0, 0.5]
    assert (found.metric, found.model_id) == ("ip", run.stages["train"].id)


def test_one_sided_models_keep_one_matrix(tmp_path):
    run = plan_tiny(tmp_path)
    write_embeddings(run, {0: [1, 2]})
    found = read(run)
    assert found.queries is found.vectors
    assert found.unit_queries is found.candidates


def test_only_the_models_own_rows_are_read(tmp_path):
    one, other = plan_tiny(tmp_path), plan_tiny(tmp_path, training={"epochs": 9})
    write_embeddings(one, {0: [1, 2]})
    write_embeddings(other, {0: [3, 4], 1: [5, 6]})
    assert read(one).vectors.tolist() == [[1, 2]]
    assert read(other).vectors.tolist() == [[3, 4], [5, 6]]


def test_a_part_is_read_as_if_there_were_no_others(tmp_path):
    run = plan_tiny(tmp_path)
    write_embeddings(run, {7: [1, 2], 2: [3, 4], 4: [5, 6]}, {2: [9, 8]}, {7: 0.5}, "ip")
    found = read(run, part=lambda item_idx: np.isin(item_idx, [2, 7, 9]))
    assert found.item_idx.tolist() == [2, 7]
    assert found.queries.tolist() == [[9, 8], [1, 2]]
    assert found.bias.tolist() == [0, 0.5]
    assert len(read(run, with_ids=True, part=lambda item_idx: item_idx < 0)) == 0


def test_l2_is_a_product_of_longer_vectors(tmp_path):
    """-|q - v|^2 of (1, 2) and (3, 4), (5, 6)."""
    run = plan_tiny(tmp_path)
    write_embeddings(run, {0: [3, 4], 1: [5, 6]}, metric="l2")
    found = read(run)
    assert (found.prepare_queries(np.array([[1, 2]], np.float32)) @ found.candidates.T).tolist() == [[-8, -32]]
    assert found.user_parts is found.queries


def test_an_unknown_metric_is_refused(tmp_path):
    run = plan_tiny(tmp_path)
    write_embeddings(run, {0: [3, 4]}, metric="hamming")
    with pytest.raises(LakeError, match="is compared by 'hamming'; known are cosine, ip, l2"):
        read(run)


def test_no_rows_and_ragged_rows_are_refused(tmp_path):
    run = plan_tiny(tmp_path)
    write_embeddings(run, {0: [1, 2], 1: [1, 2, 3]})
    with pytest.raises(LakeError, match=r"version 0 holds a vector of 3 floats, its record says embedding_dim 2"):
        read(run)
    write_embeddings(run, {})
    with pytest.raises(LakeError, match=f"no vectors of model {run.stages['train'].id}; run the train stage again"):
        read(run)
