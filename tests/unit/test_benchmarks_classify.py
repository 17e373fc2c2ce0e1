"""The F1 protocol: against scikit-learn, by hand, and on a planted graph."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from benchmarks.classify import choose_labels, fit_one_vs_rest, measure_f1, score_labels, unit_rows


def test_all_labels_at_once_are_each_label_alone():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(120, 6)).astype(np.float32)
    labels = random.random((120, 3)) < 1 / (1 + np.exp(-vectors[:, :3]))
    weights, bias = fit_one_vs_rest(vectors, labels)
    for label in range(3):
        alone = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(vectors, labels[:, label])
        np.testing.assert_allclose(weights[:, label], alone.coef_[0], atol=2e-3)
        assert bias[label] == pytest.approx(alone.intercept_[0], abs=2e-3)


def test_vectors_far_from_unit_length_are_fitted_as_well():
    random = np.random.default_rng(3)
    vectors = (random.normal(size=(200, 5)) * [9, 3, 1, 0.1, 0.01] + [5, -7, 0, 2, 0]).astype(np.float32)
    labels = random.random((200, 2)) < 1 / (1 + np.exp(-vectors[:, [1, 2]]))
    weights, bias = fit_one_vs_rest(vectors, labels)
    for label in range(2):
        alone = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(vectors, labels[:, label])
        np.testing.assert_allclose(weights[:, label], alone.coef_[0], atol=2e-3)
        assert bias[label] == pytest.approx(alone.intercept_[0], abs=2e-2)


def test_each_node_gets_as_many_labels_as_it_has():
    scores = np.array([[0.1, 0.9, 0.5], [0.7, 0.7, 0.2]])
    assert choose_labels(scores, np.array([2, 1])).tolist() == [[False, True, True], [True, False, False]]


def test_f1_is_scikit_learns():
    random = np.random.default_rng(1)
    given, wanted = random.random((2, 50, 6)) < 0.3
    given[:, 5] = wanted[:, 5] = False  # a label nobody has counts 0
    found = measure_f1(given, wanted)
    assert found.micro == pytest.approx(f1_score(wanted, given, average="micro"))
    assert found.macro == pytest.approx(f1_score(wanted, given, average="macro", zero_division=0))


def test_planted_groups_are_told_apart_and_chance_is_not():
    random = np.random.default_rng(2)
    group = random.integers(0, 4, 300)
    labels = sp.csr_array((np.ones(300, bool), (np.arange(300), group)), shape=(300, 4))
    planted = (np.eye(4)[group] + 0.2 * random.normal(size=(300, 4))).astype(np.float32)
    found = score_labels(planted, labels, 50)
    assert found.micro > 0.95
    assert found.macro > 0.95
    assert score_labels(random.normal(size=(300, 4)).astype(np.float32), labels, 50).micro < 0.4
    assert score_labels(planted, labels, 50) == found  # seeded
    assert score_labels(planted, labels, 1).micro < found.micro


def test_zero_vectors_stay_zero():
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
