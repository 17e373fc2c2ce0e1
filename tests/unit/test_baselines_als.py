"""ALS: users solved for against the minimum of the written-out cost, lists against their order, also by hand."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import minimize

from recspark.baselines.als import rank_by_als, read_factors, solve_users
from recspark.config.baselines import AlsConfig
from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import ALS_FACTORS
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import TableAt, write_table

CONFIG = AlsConfig(alpha=3.0, regularisation=0.2)


def cost(user, factors, items, config):
    """Hu, Koren & Volinsky 2008, eq. 3, of one user; the penalty counts each of his ratings."""
    wanted = np.isin(np.arange(len(factors)), items).astype(float)
    confidence = 1 + config.alpha * wanted
    errors = wanted - factors @ user
    return float(confidence @ errors**2) + config.regularisation * len(set(items)) * float(user @ user)


@pytest.mark.parametrize("items", [[2], [0, 3, 7], [5, 5, 1, 5]])
def test_a_user_is_the_minimum_of_the_cost(items):
    factors = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    found = solve_users(factors, Ragged.from_rows([items]), CONFIG)[0]
    best = minimize(cost, np.zeros(4), (factors.astype(np.float64), items, CONFIG), tol=1e-12)
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_by_hand_with_one_factor():
    """y = (1, 2), history {0}: x = (1 + 1) 1 / (5 + 1 + .5) = 4 / 13."""
    factors = np.array([[1.0], [2.0]], np.float32)
    found = solve_users(factors, Ragged.from_rows([[0], []]), AlsConfig(alpha=1.0, regularisation=0.5))
    np.testing.assert_allclose(found, [[4 / 13], [0]])


def test_lists_leave_out_what_is_masked_and_items_without_factors():
    factors = np.array([[1.0], [3.0], [0.0], [2.0], [-1.0]], np.float32)
    known = np.array([True, True, False, True, True])
    history = Ragged.from_rows([[0, 2], [0]])
    ranked = rank_by_als(factors, known, history, Ragged.from_rows([[0], [1]]), 5, CONFIG)
    assert ranked.ids.tolist() == [[1, 3, 4, -1, -1], [3, 0, 4, -1, -1]]
    alone = rank_by_als(factors, known, Ragged.from_rows([[0]]), Ragged.empty(1), 4, CONFIG)
    np.testing.assert_array_equal(ranked.scores[0, :2], alone.scores[0, :2])  # item 2 took no place in the history


def test_factors_are_read_into_the_order_of_items(tmp_path):
    rows = pa.table({"item_idx": pa.array([3, 1], pa.int32()), "vector": [[1.0, 2.0], [3.0, 4.0]]})
    record = CommitRecord(stage="als", key="k", run_id="r", is_marker=True, code_version="0")
    version = write_table(str(tmp_path), ALS_FACTORS, rows, record)
    factors, known = read_factors(TableAt(str(tmp_path), "als_factors", version, record), 4)
    assert factors.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert known.tolist() == [False, True, False, True]
