"""Skip-gram with negative sampling on a CPU: one gather and one scatter a token, GEMMs for shared negatives.

A block is one sentence or a few short ones. All its tokens' rows are gathered, every positive pair and every (token,
negative) pair is scored against the tables as they were, and the rows are written back with one row-wise Adagrad step
a token. The loss of a block, with j an input token, c a centre whose window reaches j, n a negative of the block:

    sum over pairs (j, c) of [ -log sigmoid(x_j . y_c) - K / N  sum over n of log sigmoid(-x_j . y_n) ]

Source: Mikolov et al. 2013, eq. 4; negatives shared as in Ji et al. 2016 (pWord2Vec), but by a block, not a window.

Threads work on blocks of their own and write to the tables without locks (Recht et al. 2011): with one thread a run
repeats to the bit, with more it does not.

Helpers that compute in float are forced inline. Else a process that compiled the kernel itself calls the helpers' own
code, one that found it in the cache calls the copies in there, and fast math rounds differently in the two.
"""

import functools
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.config.schema import TrainingConfig
from recspark.training.init import init_rows
from recspark.training.negatives import NoiseDistribution
from recspark.training.rng import stream_key
from recspark.training.sentences import check_items, draw_sentences, plan_blocks, plan_pieces
from recspark.training.sequence_files import Sequences
from recspark.walks.alias import draw_alias
from recspark.walks.rng import draw

BLOCK_TOKENS = 48
"""Short sentences share negatives until a block holds so many tokens."""
MAX_SENTENCE = 256
"""Longer sequences are cut into equal parts; the pairs across a cut are lost."""
EPSILON = np.float32(1e-8)
"""Of Adagrad."""
_NOISE_SALT = 0xB10C
_CLAMP = np.float32(13)
_LINEAR = np.float32(9)  # from this score on, a loss is taken as linear
_FLOOR = np.float32(1 / (1 + np.exp(9.0)))
_FAST = {"reassoc", "contract", "arcp", "nsz"}  # not nnan: a loss that is no number has to come out as one


@dataclass(frozen=True)
class KernelState:
    """Both tables, float32 [V, D], and their row-wise Adagrad state, float32 [V]; C-contiguous, changed in place."""

    input_vectors: NDArray[np.float32]
    output_vectors: NDArray[np.float32]
    input_squares: NDArray[np.float32]
    output_squares: NDArray[np.float32]


def init_state(num_items: int, dim: int, init_scale: float, seed: int) -> KernelState:
    """Fresh tables: input rows by `init_rows`, output rows and Adagrad state zero."""
    return KernelState(
        input_vectors=init_rows(np.arange(num_items), dim, init_scale, seed),
        output_vectors=np.zeros((num_items, dim), np.float32),
        input_squares=np.zeros(num_items, np.float32),
        output_squares=np.zeros(num_items, np.float32),
    )


def train_batch(
    state: KernelState,
    batch: Sequences,
    noise: NoiseDistribution,
    keep: NDArray[np.float32],
    config: TrainingConfig,
    learning_rate: float,
    seed: int,
    epoch: int,
    step: int,
    num_threads: int,
) -> tuple[float, int]:
    """(loss sum, pairs) of one global batch; changes ``state`` in place.

    ``keep`` float32 [V] as of `keep_probabilities`; ``step`` counts within the epoch. With one thread the result
    depends on nothing but the arguments.

    Raises: DataError when a sequence holds an item that the tables do not.
    """
    check_items(batch.values, len(keep))
    tokens, sentence, windows = draw_sentences(
        batch.values, batch.offsets, keep, config.window, config.dynamic_window, seed, epoch, step, 0
    )
    borders = plan_pieces(sentence, MAX_SENTENCE)
    blocks = plan_blocks(borders, BLOCK_TOKENS)

    def train(first: int, last: int) -> tuple[float, int]:
        found: tuple[float, int] = _train_blocks(
            tokens, windows, borders, blocks, first, last,
            state.input_vectors, state.output_vectors, state.input_squares, state.output_squares,
            noise.threshold, noise.alias, config.num_negatives, config.shared_negatives, config.mask_positives,
            np.float32(learning_rate), seed, epoch, step,
        )  # fmt: skip
        return found

    # Blocks are dealt by tokens; each thread takes a range of them.
    cuts = np.searchsorted(borders[blocks], np.linspace(0, len(tokens), num_threads + 1)[1:-1])
    bounds = [0, *cuts.tolist(), len(blocks) - 1]
    with _one_blas_thread():
        if num_threads == 1:
            return train(*bounds)
        results = list(_threads(num_threads).map(train, bounds[:-1], bounds[1:]))
    return sum(loss for loss, _ in results), sum(pairs for _, pairs in results)


def _one_blas_thread() -> AbstractContextManager[Any]:
    """Keeps BLAS from starting threads for GEMMs this small, where threadpoolctl (of scikit-learn) is installed.

    Elsewhere set OPENBLAS_NUM_THREADS=1 before the process starts; results are the same, only slower.
    """
    controller = _blas_controller()
    return controller.limit(limits=1, user_api="blas") if controller else nullcontext()


@functools.cache
def _blas_controller() -> Any:
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    # numba's np.dot is scipy's BLAS: loaded first, so that the controller finds it.
    importlib.import_module("scipy.linalg.cython_blas")
    return importlib.import_module("threadpoolctl").ThreadpoolController()


@functools.cache
def _threads(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="recspark-kernel")


@njit(cache=True, nogil=True)
def draw_negatives(seed, epoch, step, block, threshold, alias, out):  # type: ignore[no-untyped-def]
    """Fills ``out`` with the negatives of a block."""
    key = stream_key(seed + _NOISE_SALT, epoch, step, block)
    for n in range(len(out)):
        out[n] = draw_alias(threshold, alias, draw(key, np.uint64(n)))


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", forceinline=True)
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)) in float32 to about 1e-6, without a call, so that loops over it become vector code.

    tanh as a quotient of polynomials in x^2 (the coefficients are those of Eigen's `ptanh`), x clamped to +-13.
    """
    h = x if x < _CLAMP else _CLAMP
    h = np.float32(0.5) * (h if h > -_CLAMP else -_CLAMP)
    q = h * h
    p = np.float32(-2.76076847742355e-16)
    p = p * q + np.float32(2.00018790482477e-13)
    p = p * q + np.float32(-8.60467152213735e-11)
    p = p * q + np.float32(5.12229709037114e-08)
    p = p * q + np.float32(1.48572235717979e-05)
    p = p * q + np.float32(6.37261928875436e-04)
    p = p * q + np.float32(4.89352455891786e-03)
    r = np.float32(1.19825839466702e-06)
    r = r * q + np.float32(1.18534705686654e-04)
    r = r * q + np.float32(2.26843463243900e-03)
    r = r * q + np.float32(4.89352518554385e-03)
    return np.float32(0.5) + np.float32(0.5) * h * p / r


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _train_blocks(  # type: ignore[no-untyped-def]
    tokens, windows, borders, blocks, first, last,
    input_vectors, output_vectors, input_squares, output_squares,
    threshold, alias, num_negatives, shared_negatives, is_masked, learning_rate, seed, epoch, step,
):  # fmt: skip
    """(loss sum, pairs) of blocks first..last-1. T = tokens of a block, N = shared negatives, D = embedding_dim."""
    dim, N = input_vectors.shape[1], shared_negatives
    weight = np.float32(num_negatives) / np.float32(N)
    most = 0
    for block in range(first, last):
        most = max(most, borders[blocks[block + 1]] - borders[blocks[block]])
    # One set of buffers a call: a block uses the front of each.
    flat_x, flat_y = np.empty(most * dim, np.float32), np.empty(most * dim, np.float32)
    flat_dx, flat_dy = np.empty(most * dim, np.float32), np.empty(most * dim, np.float32)
    flat_g = np.empty(most * N, np.float32)
    noise_ND, dnoise_ND = np.empty((N, dim), np.float32), np.empty((N, dim), np.float32)
    negatives = np.empty(N, np.int32)
    reach = np.empty(most, np.float32)  # pairs in which a token is the input
    loss, num_pairs = 0.0, 0
    for block in range(first, last):
        start, stop = borders[blocks[block]], borders[blocks[block + 1]]
        T = stop - start
        x_TD, y_TD = flat_x[: T * dim].reshape(T, dim), flat_y[: T * dim].reshape(T, dim)
        dx_TD, dy_TD = flat_dx[: T * dim].reshape(T, dim), flat_dy[: T * dim].reshape(T, dim)
        g_TN = flat_g[: T * N].reshape(T, N)
        draw_negatives(seed, epoch, step, block, threshold, alias, negatives)
        _gather_rows(input_vectors, tokens[start:stop], x_TD)
        _gather_rows(output_vectors, tokens[start:stop], y_TD)
        _gather_rows(output_vectors, negatives, noise_ND)
        num_pairs += _count_reach(windows, borders, blocks[block], blocks[block + 1], reach)

        np.dot(x_TD, noise_ND.T, g_TN)
        loss += _score_negatives(g_TN, reach, weight)
        if is_masked:
            loss -= _mask_positives(
                tokens, windows, borders, blocks[block], blocks[block + 1], negatives, reach, weight,
                x_TD, noise_ND, g_TN,
            )  # fmt: skip
        np.dot(g_TN, noise_ND, dx_TD)
        np.dot(g_TN.T, x_TD, dnoise_ND)
        dy_TD[:] = 0
        for piece in range(blocks[block], blocks[block + 1]):
            low, high = borders[piece] - start, borders[piece + 1] - start
            loss += _score_positives(windows[start:stop], low, high, x_TD, y_TD, dx_TD, dy_TD)

        _step_rows(input_vectors, input_squares, tokens[start:stop], dx_TD, learning_rate)
        _step_rows(output_vectors, output_squares, tokens[start:stop], dy_TD, learning_rate)
        _step_rows(output_vectors, output_squares, negatives, dnoise_ND, learning_rate)
    return loss, num_pairs


@njit(cache=True, nogil=True)
def _gather_rows(vectors, rows, out):  # type: ignore[no-untyped-def]
    # An explicit loop: numba's row assignment costs as much again as the copy.
    dim = vectors.shape[1]
    for r in range(len(rows)):
        row = rows[r]
        for d in range(dim):
            out[r, d] = vectors[row, d]


@njit(cache=True, nogil=True)
def _count_reach(windows, borders, first_piece, last_piece, reach):  # type: ignore[no-untyped-def]
    """Fills ``reach``: for each token of a block, how many centres' windows hold it; the pairs of the block."""
    start = borders[first_piece]
    reach[: borders[last_piece] - start] = 0
    pairs = 0
    for piece in range(first_piece, last_piece):
        for center in range(borders[piece], borders[piece + 1]):
            low = max(center - windows[center], borders[piece])
            high = min(center + windows[center] + 1, borders[piece + 1])
            for token in range(low, high):
                reach[token - start] += np.float32(1)
            reach[center - start] -= np.float32(1)
            pairs += high - low - 1
    return pairs


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", forceinline=True)
def _score_negatives(g_TN, reach, weight):  # type: ignore[no-untyped-def]
    """Turns scores into minus the loss's derivatives, in place; the loss.

    Logs are dear: 1 - sigmoid is multiplied up over 64 negatives before one is taken. Up to a score of 9 that is the
    loss; what lies beyond counts as it is (log(1 + e^x) = x + e^-x), so no product of 64 underflows.
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
                product *= np.float64(rest if rest > _FLOOR else _FLOOR)
                beyond += np.float32(0) if x <= _LINEAR else x - _LINEAR
                part[n] = factor * s
            logs += np.log(product)
        loss += np.float64(factor) * (logs - np.float64(beyond))
    return loss


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", forceinline=True)
def _mask_positives(  # type: ignore[no-untyped-def]
    tokens, windows, borders, first_piece, last_piece, negatives, reach, weight, x_TD, noise_ND, g_TN
):  # fmt: skip
    """Sets the derivatives of negatives that are a centre of the same input to 0; the loss they stood for."""
    start = borders[first_piece]
    loss = 0.0
    for piece in range(first_piece, last_piece):
        for center in range(borders[piece], borders[piece + 1]):
            item = tokens[center]
            for n in range(len(negatives)):
                if negatives[n] != item:
                    continue
                low = max(center - windows[center], borders[piece])
                high = min(center + windows[center] + 1, borders[piece + 1])
                for token in range(low, high):
                    t = token - start
                    if token != center and g_TN[t, n] != 0:
                        loss += np.float64(weight * reach[t]) * _softplus(np.dot(x_TD[t], noise_ND[n]))
                        g_TN[t, n] = 0
    return loss


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", forceinline=True)
def _score_positives(windows, low, high, x_TD, y_TD, dx_TD, dy_TD):  # type: ignore[no-untyped-def]
    """Adds minus the derivatives of a sentence's pairs to both gradients; the loss."""
    # Indexed in full and one array a loop: row views cost half as much again, two targets keep a loop from vector code.
    dim = x_TD.shape[1]
    loss = 0.0
    for center in range(low, high):
        product, beyond = 1.0, np.float32(0)
        for token in range(max(center - windows[center], low), min(center + windows[center] + 1, high)):
            if token == center:
                continue
            score = np.float32(0)
            for d in range(dim):
                score += x_TD[token, d] * y_TD[center, d]
            s = sigmoid(score)
            beyond += np.float32(0) if -score <= _LINEAR else -score - _LINEAR
            product *= np.float64(s if s > _FLOOR else _FLOOR)
            if product < 1e-200:
                loss -= np.log(product)
                product = 1.0
            g = np.float32(1) - s
            for d in range(dim):
                dx_TD[token, d] += g * y_TD[center, d]
            for d in range(dim):
                dy_TD[center, d] += g * x_TD[token, d]
        loss += np.float64(beyond) - np.log(product)
    return loss


@njit(cache=True, nogil=True, forceinline=True)
def _softplus(x):  # type: ignore[no-untyped-def]
    return np.float64(max(x, 0)) + np.log1p(np.exp(-abs(np.float64(x))))


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy", forceinline=True)
def _step_rows(vectors, squares, rows, ascent_RD, learning_rate):  # type: ignore[no-untyped-def]
    """One row-wise Adagrad step for each of ``rows``, in turn: s += mean(g^2), w += rate g / (sqrt(s) + epsilon)."""
    dim = vectors.shape[1]
    for r in range(len(rows)):
        row = rows[r]
        total = np.float32(0)
        for d in range(dim):
            total += ascent_RD[r, d] * ascent_RD[r, d]
        squares[row] += total / np.float32(dim)
        rate = learning_rate / (np.sqrt(squares[row]) + EPSILON)
        for d in range(dim):
            vectors[row, d] += rate * ascent_RD[r, d]
