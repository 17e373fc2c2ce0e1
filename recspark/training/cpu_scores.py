"""What a block of sentences costs and which way it pulls: the objectives of the CPU kernel, one block at a time.

All take a `Block` with hidden vectors, add minus the loss's derivatives to its ``ascent`` and return the loss. Shapes:
T = tokens of the block, D = embedding_dim, N = shared negatives, P = sentences.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.training.cpu_rows import (
    FAST,
    FLOOR,
    LINEAR,
    add_cost,
    close_costs,
    gather_rows,
    sigmoid,
    softplus,
    step_rows,
)
from recspark.training.pairing import OWN, find_hidden, find_window

_EXACT = np.float32(1e-3)  # a chance below has lost too many digits to take its log


class Block(NamedTuple):
    """One or a few sentences: ``borders`` int64 [P + 1] from 0, ``reach`` float32 [T] as of `pairing.sum_weights`.

    ``hidden`` and ``ascent`` float32 [T, D].
    """

    tokens: NDArray[np.int32]
    windows: NDArray[np.int32]
    borders: NDArray[np.int64]
    reach: NDArray[np.float32]
    hidden: NDArray[np.float32]
    ascent: NDArray[np.float32]


class NoiseScratch(NamedTuple):
    """Of `score_noise`: output vectors and their ascent, those of the negatives, and the scores."""

    y_TD: NDArray[np.float32]
    dy_TD: NDArray[np.float32]
    noise_ND: NDArray[np.float32]
    dnoise_ND: NDArray[np.float32]
    g_TN: NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def mean_windows(pairing, block, x_TD):  # type: ignore[no-untyped-def]
    """Fills ``block.hidden`` with the weighted means of ``x_TD`` over the windows (CBOW)."""
    dim = x_TD.shape[1]
    block.hidden[:] = 0
    for sentence in range(len(block.borders) - 1):
        low, high = block.borders[sentence], block.borders[sentence + 1]
        for center in range(low, high):
            first, last, row, _ = find_window(pairing, block.windows, center, low, high)
            total = _sum_row(pairing.weights[row], center, first, last)
            for token in range(first, last):
                share = pairing.weights[row, abs(token - center)] / total
                for d in range(dim):
                    block.hidden[center, d] += share * x_TD[token, d]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def spread_windows(pairing, block, dx_TD):  # type: ignore[no-untyped-def]
    """Fills ``dx_TD`` with what ``block.ascent`` of the means is to the vectors they were made of."""
    dim = dx_TD.shape[1]
    dx_TD[:] = 0
    for sentence in range(len(block.borders) - 1):
        low, high = block.borders[sentence], block.borders[sentence + 1]
        for center in range(low, high):
            first, last, row, _ = find_window(pairing, block.windows, center, low, high)
            total = _sum_row(pairing.weights[row], center, first, last)
            for token in range(first, last):
                share = pairing.weights[row, abs(token - center)] / total
                for d in range(dim):
                    dx_TD[token, d] += share * block.ascent[center, d]


@njit(cache=True, nogil=True, forceinline=True)
def _sum_row(weights, center, first, last):  # type: ignore[no-untyped-def]
    """The weights of a window; never 0, so that an empty one can be divided by it."""
    total = np.float32(0)
    for token in range(first, last):
        total += weights[abs(token - center)]
    return total if total > 0 else np.float32(1)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def score_noise(pairing, block, state, negatives, settings, scratch):  # type: ignore[no-untyped-def]
    """Negative sampling: positives by their output vectors, shared ``negatives`` by GEMMs; steps the output rows."""
    y_TD, dy_TD, noise_ND, dnoise_ND, g_TN = scratch
    weight = np.float32(settings.num_negatives) / np.float32(len(negatives))
    gather_rows(state.output_vectors, block.tokens, y_TD)
    gather_rows(state.output_vectors, negatives, noise_ND)
    np.dot(block.hidden, noise_ND.T, g_TN)
    loss = _score_negatives(g_TN, block.reach, weight)
    if settings.is_masked:
        loss -= _mask_positives(pairing, block, negatives, weight, noise_ND, g_TN)
    np.dot(g_TN, noise_ND, block.ascent)
    np.dot(g_TN.T, block.hidden, dnoise_ND)
    dy_TD[:] = 0
    loss += _score_positives(pairing, block, y_TD, dy_TD)
    step_rows(state.output_vectors, state.output_squares, block.tokens, dy_TD, settings.learning_rate)
    step_rows(state.output_vectors, state.output_squares, negatives, dnoise_ND, settings.learning_rate)
    return loss


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _score_negatives(g_TN, reach, weight):  # type: ignore[no-untyped-def]
    """Turns scores into minus the loss's derivatives, in place; the loss.

    Logs are dear: 1 - sigmoid is multiplied up over 64 negatives before one is taken. Up to a score of 9 that is the
    loss; what lies beyond counts as it is, so no product of 64 underflows.
    """
    loss = 0.0
    for t in range(g_TN.shape[0]):
        factor = -weight * reach[t]
        logs, beyond = 0.0, np.float32(0)
        for low in range(0, g_TN.shape[1], 64):
            part = g_TN[t, low : low + 64]
            product = 1.0
            for n in range(len(part)):
                x = part[n]
                s = sigmoid(x)
                rest = np.float32(1) - s
                product *= np.float64(rest if rest > FLOOR else FLOOR)
                beyond += np.float32(0) if x <= LINEAR else x - LINEAR
                part[n] = factor * s
            logs += np.log(product)
        loss += np.float64(factor) * (logs - np.float64(beyond))
    return loss


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _mask_positives(pairing, block, negatives, weight, noise_ND, g_TN):  # type: ignore[no-untyped-def]
    """Sets the derivatives of negatives that the same hidden vector predicts to 0; the loss they stood for."""
    loss = 0.0
    for sentence in range(len(block.borders) - 1):
        low, high = block.borders[sentence], block.borders[sentence + 1]
        for center in range(low, high):
            item, hits = block.tokens[center], 0
            for n in range(len(negatives)):  # no branch: vector code
                hits += negatives[n] == item
            for n in range(len(negatives) if hits else 0):
                if negatives[n] != item:
                    continue
                first, last, row, _ = find_hidden(pairing, block.windows, center, low, high)
                for t in range(first, last):
                    if pairing.weights[row, abs(t - center)] != 0 and g_TN[t, n] != 0:
                        reach = weight * block.reach[t]
                        rest = np.float32(1) + g_TN[t, n] / reach  # 1 - sigmoid, as it was
                        cost = -np.log(rest) if rest > _EXACT else softplus(np.dot(block.hidden[t], noise_ND[n]))
                        loss += np.float64(reach * cost)
                        g_TN[t, n] = 0
    return loss


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _score_positives(pairing, block, y_TD, dy_TD):  # type: ignore[no-untyped-def]
    """Adds minus the derivatives of the block's pairs to both gradients; the loss."""
    # Indexed in full and one array a loop: row views cost half as much again, two targets keep a loop from vector code.
    hidden, ascent = block.hidden, block.ascent
    dim = hidden.shape[1]
    loss, product, product_weight = 0.0, 1.0, np.float32(0)
    for sentence in range(len(block.borders) - 1):
        low, high = block.borders[sentence], block.borders[sentence + 1]
        for center in range(low, high):
            first, last, row, share = find_hidden(pairing, block.windows, center, low, high)
            for t in range(first, last):
                weight = share * pairing.weights[row, abs(t - center)]
                if weight == 0:
                    continue
                score = np.float32(0)
                for d in range(dim):
                    score += hidden[t, d] * y_TD[center, d]
                s = sigmoid(score)
                loss, product, product_weight = add_cost(loss, product, product_weight, weight, score, s)
                g = weight * (np.float32(1) - s)
                for d in range(dim):
                    ascent[t, d] += g * y_TD[center, d]
                for d in range(dim):
                    dy_TD[center, d] += g * hidden[t, d]
    return close_costs(loss, product, product_weight)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def score_paths(pairing, block, state, tree, learning_rate, scratch):  # type: ignore[no-untyped-def]
    """Hierarchical softmax: the inner nodes above each centre, read and stepped one after the other."""
    num_items = state.output_vectors.shape[0]
    loss = 0.0
    for sentence in range(len(block.borders) - 1):
        low, high = block.borders[sentence], block.borders[sentence + 1]
        for center in range(low, high if high - low > 1 else low):
            first, last, row, share = find_hidden(pairing, block.windows, center, low, high)
            weights = share * pairing.weights[row]
            node = np.int64(block.tokens[center])
            while tree.parent[node] >= 0:
                sign = np.float32(-1) if tree.is_right[node] else np.float32(1)
                node = np.int64(tree.parent[node])
                output = node - num_items
                loss += _score_row(block, state, output, center, first, last, weights, sign, learning_rate, scratch)
    return loss


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def score_groups(pairing, block, state, group_negatives, learning_rate, scratch):  # type: ignore[no-untyped-def]
    """Each token's own negatives (int32 [T, G], -1: none), weighed as all of its pairs together."""
    loss, sign = 0.0, np.float32(-1)
    for t in range(len(block.tokens) if group_negatives.shape[1] else 0):
        weights = block.reach[t] * pairing.weights[OWN]
        for output in group_negatives[t]:
            if output >= 0 and block.reach[t] > 0:
                loss += _score_row(block, state, output, t, t, t + 1, weights, sign, learning_rate, scratch)
    return loss


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _score_row(block, state, output, center, first, last, weights, sign, learning_rate, scratch):  # type: ignore[no-untyped-def]
    """The loss of hidden vectors first..last-1 by one output row, -log sigmoid(sign x score) each; steps the row.

    ``weights`` are by distance from ``center``; ``scratch`` is int64 [1] and two float32 [1, D].
    """
    hidden, ascent = block.hidden, block.ascent
    rows, y_1D, dy_1D = scratch
    dim = hidden.shape[1]
    rows[0] = output
    gather_rows(state.output_vectors, rows, y_1D)
    dy_1D[:] = 0
    loss, product, product_weight = 0.0, 1.0, np.float32(0)
    for t in range(first, last):
        weight = weights[abs(t - center)]
        if weight == 0:
            continue
        score = np.float32(0)
        for d in range(dim):
            score += hidden[t, d] * y_1D[0, d]
        score *= sign
        s = sigmoid(score)
        loss, product, product_weight = add_cost(loss, product, product_weight, weight, score, s)
        g = sign * weight * (np.float32(1) - s)
        for d in range(dim):
            ascent[t, d] += g * y_1D[0, d]
        for d in range(dim):
            dy_1D[0, d] += g * hidden[t, d]
    step_rows(state.output_vectors, state.output_squares, rows, dy_1D, learning_rate)
    return close_costs(loss, product, product_weight)
