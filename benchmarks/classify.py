"""Node classification: how well do fixed vectors tell a node's labels?

One-vs-rest logistic regression (L2, C = 1) on a share of the nodes; each other node is given as many labels as it has,
the likeliest ones. Mean over random splits. Source: Perozzi et al. 2014 (DeepWalk), section 5.3.

All labels are fitted at once: their losses do not meet, so the sum's minimum is each one's, and a step is two GEMMs.
In coordinates where all directions bend alike, steps are a fifth of those on a walk model's raw vectors.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import minimize

NUM_SPLITS = 10
_C = 1.0


@dataclass(frozen=True)
class F1:
    """Micro: over all (node, label) decisions. Macro: mean over labels."""

    micro: float
    macro: float


def score_labels(
    vectors: NDArray[np.float32], labels: sp.csr_array, percent: int, num_splits: int = NUM_SPLITS, seed: int = 0
) -> F1:
    """Mean F1 over random splits with ``percent`` of the nodes labelled; vectors [N, D], labels bool [N, L]."""
    random, dense = np.random.default_rng(seed), labels.toarray()
    scores = []
    for _ in range(num_splits):
        order = random.permutation(len(dense))
        train, test = np.split(order, [max(1, len(order) * percent // 100)])
        weights, bias = fit_one_vs_rest(vectors[train], dense[train])
        given = choose_labels(vectors[test] @ weights + bias, dense[test].sum(axis=1))
        scores.append(measure_f1(given, dense[test]))
    return F1(float(np.mean([s.micro for s in scores])), float(np.mean([s.macro for s in scores])))


def fit_one_vs_rest(
    vectors: NDArray[np.float32], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(weights [D, L], bias [L]) at the minimum of |w|^2 / 2 + C sum of log(1 + exp(-y f)); the bias is free."""
    sign, num_labels, share = np.where(labels, 1.0, -1.0), labels.shape[1], labels.mean(axis=0)
    mean = vectors.mean(axis=0, dtype=np.float64)
    x = vectors - mean  # the bias is free: weights are the same for vectors moved as one
    to_weights = _flatten_curvature(x, float((share * (1 - share)).mean()))
    steep = x @ to_weights

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        v, bias = flat[:-num_labels].reshape(-1, num_labels), flat[-num_labels:]
        weights = to_weights @ v
        margin = sign * (steep @ v + bias)
        slope = -_C * sign / (1 + np.exp(np.minimum(margin, 500)))
        value = 0.5 * (weights**2).sum() + _C * np.logaddexp(0, -margin).sum()
        return value, np.concatenate([(to_weights.T @ weights + steep.T @ slope).ravel(), slope.sum(axis=0)])

    start = np.zeros((x.shape[1] + 1) * num_labels)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-3, "maxcor": 20})
    weights = to_weights @ found.x[:-num_labels].reshape(-1, num_labels)
    return weights, found.x[-num_labels:] - mean @ weights


def _flatten_curvature(x: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """A map [D, D] to weights under which the loss bends alike in all directions: H^-1/2 of H = I + C slope x^T x."""
    values, directions = np.linalg.eigh(x.T @ x)
    return directions / np.sqrt(1 + _C * slope * np.maximum(values, 0))


def choose_labels(scores: NDArray[np.float64], num_given: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Each row's ``num_given`` best labels; ties go to the smaller label."""
    rank = np.empty(scores.shape, np.int64)
    np.put_along_axis(rank, np.argsort(-scores, axis=1, kind="stable"), np.arange(scores.shape[1])[None], axis=1)
    return rank < num_given[:, None]


def measure_f1(given: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> F1:
    """F1 = 2 TP / (given + wanted); a label that is neither given nor wanted counts 0, as in scikit-learn."""
    hits = (given & wanted).sum(axis=0)
    total = given.sum(axis=0) + wanted.sum(axis=0)
    by_label = 2 * hits / np.maximum(total, 1)
    return F1(float(2 * hits.sum() / max(total.sum(), 1)), float(by_label.mean()))


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a zero row stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
