"""The skip-gram family on a CPU: one gather and one scatter a token, GEMMs for shared negatives.

A block is one sentence or a few short ones. All its tokens' rows are gathered, every positive pair and every (token,
negative) pair is scored against the tables as they were, and the rows are written back with one row-wise Adagrad step
a token. The loss of a block, with h_j the hidden vector at token j, c a centre that it predicts (`pairing`), w_jc the
pair's weight, n a negative of the block:

    sum over pairs (j, c) of w_jc [ -log sigmoid(h_j . y_c) - K / N  sum over n of log sigmoid(-h_j . y_n) ]

Hierarchical softmax and negatives of an item's own group read and step their output rows one after the other.

Source: Mikolov et al. 2013, eq. 4; negatives shared as in Ji et al. 2016 (pWord2Vec), but by a block, not a window.

Threads work on blocks of their own and write to the tables without locks (Recht et al. 2011): with one thread a run
repeats to the bit, with more it does not.
"""

import functools
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.training.cpu_rows import FAST, gather_rows, new_sums, step_rows
from recspark.training.cpu_scores import (
    Block,
    NoiseScratch,
    mean_windows,
    score_groups,
    score_noise,
    score_paths,
    spread_windows,
)
from recspark.training.init import init_rows
from recspark.training.objective import Objective, Place
from recspark.training.pairing import sum_weights
from recspark.training.rng import stream_key
from recspark.training.sentences import plan_blocks
from recspark.training.sequence_files import Sequences
from recspark.walks.alias import draw_alias
from recspark.walks.rng import draw

BLOCK_TOKENS = 48
"""Short sentences share negatives until a block holds so many tokens."""
_NOISE_SALT = 0xB10C


class KernelState(NamedTuple):
    """Both tables, float32 [V, D], C-contiguous, and their row-wise Adagrad sums (`cpu_rows.new_sums`); changed in
    place.
    """

    input_vectors: NDArray[np.float32]
    output_vectors: NDArray[np.float32]
    input_squares: NDArray[np.float32]
    output_squares: NDArray[np.float32]


class Settings(NamedTuple):
    """The numbers that a step needs; ``step`` counts within the epoch."""

    num_negatives: int
    shared_negatives: int
    is_masked: bool
    learning_rate: np.float32
    seed: int
    epoch: int
    step: int


def init_state(num_items: int, dim: int, init_scale: float, seed: int) -> KernelState:
    """Fresh tables: input rows by `init_rows`, output rows and Adagrad state zero."""
    return KernelState(
        input_vectors=init_rows(np.arange(num_items), dim, init_scale, seed),
        output_vectors=np.zeros((num_items, dim), np.float32),
        input_squares=new_sums(num_items),
        output_squares=new_sums(num_items),
    )


def train_batch(
    state: KernelState, batch: Sequences, objective: Objective, learning_rate: float, place: Place, num_threads: int
) -> tuple[float, int]:
    """(loss sum, pairs) of one global batch; changes ``state`` in place.

    With one thread the result depends on nothing but the arguments.

    Raises: DataError when a sequence holds an item that the tables do not.
    """
    config = objective.config
    sentences = objective.draw(batch, place)
    group_negatives = objective.draw_group_negatives(sentences, place)
    blocks = plan_blocks(sentences.borders, BLOCK_TOKENS)
    settings = Settings(
        config.num_negatives, config.shared_negatives, config.mask_positives, np.float32(learning_rate),
        objective.seed, place.epoch, place.step,
    )  # fmt: skip

    def train(first: int, last: int) -> tuple[float, int]:
        found: tuple[float, int] = _train_blocks(
            state, sentences, group_negatives, objective.pairing, objective.noise.threshold, objective.noise.alias,
            objective.tree, settings, blocks, first, last,
        )  # fmt: skip
        return found

    # Blocks are dealt by tokens; each thread takes a range of them.
    shares = np.linspace(0, len(sentences.tokens), num_threads + 1)[1:-1]
    bounds = [0, *np.searchsorted(sentences.borders[blocks], shares).tolist(), len(blocks) - 1]
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


class _Buffers(NamedTuple):
    """Scratch of one call, of which a block uses the front: float32 [tokens x D] and smaller ones."""

    x: NDArray[np.float32]
    dx: NDArray[np.float32]
    hidden: NDArray[np.float32]
    ascent: NDArray[np.float32]
    y: NDArray[np.float32]
    dy: NDArray[np.float32]
    scores: NDArray[np.float32]
    reach: NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _train_blocks(  # type: ignore[no-untyped-def]
    state, sentences, group_negatives, pairing, threshold, alias, tree, settings, blocks, first, last
):
    """(loss sum, pairs) of blocks first..last-1; ``tree`` is None for negative sampling, which is compiled apart."""
    dim, num_shared, rate = state.input_vectors.shape[1], settings.shared_negatives, settings.learning_rate
    buffers = _new_buffers(sentences.borders, blocks[first : last + 1], dim, num_shared)
    noise_ND, dnoise_ND = np.empty((num_shared, dim), np.float32), np.empty((num_shared, dim), np.float32)
    one_row = (np.empty(1, np.int64), np.empty((1, dim), np.float32), np.empty((1, dim), np.float32))
    negatives = np.empty(num_shared, np.int32)
    loss, num_pairs = 0.0, 0
    for number in range(first, last):
        block, start = _cut_block(sentences, blocks, number, buffers, dim)
        num_pairs += sum_weights(pairing, block.windows, block.borders, block.reach)
        size = len(block.tokens)
        x_TD = _front(buffers.x, size, dim) if pairing.is_cbow else block.hidden
        dx_TD = _front(buffers.dx, size, dim) if pairing.is_cbow else block.ascent
        gather_rows(state.input_vectors, block.tokens, x_TD)
        if pairing.is_cbow:
            mean_windows(pairing, block, x_TD)
        if tree is None:
            draw_negatives(settings.seed, settings.epoch, settings.step, number, threshold, alias, negatives)
            scratch = NoiseScratch(
                _front(buffers.y, size, dim), _front(buffers.dy, size, dim), noise_ND, dnoise_ND,
                _front(buffers.scores, size, num_shared),
            )  # fmt: skip
            loss += score_noise(pairing, block, state, negatives, settings, scratch)
        else:
            block.ascent[:] = 0
            loss += score_paths(pairing, block, state, tree, rate, one_row)
        loss += score_groups(pairing, block, state, group_negatives[start : start + size], rate, one_row)
        if pairing.is_cbow:
            spread_windows(pairing, block, dx_TD)
        step_rows(state.input_vectors, state.input_squares, block.tokens, dx_TD, rate)
    return loss, num_pairs


@njit(cache=True, nogil=True)
def _new_buffers(borders, blocks, dim, num_shared):  # type: ignore[no-untyped-def]
    most = 0
    for block in range(len(blocks) - 1):
        most = max(most, borders[blocks[block + 1]] - borders[blocks[block]])
    x, dx, hidden = np.empty(most * dim, np.float32), np.empty(most * dim, np.float32), np.empty(most * dim, np.float32)
    y, dy, ascent = np.empty(most * dim, np.float32), np.empty(most * dim, np.float32), np.empty(most * dim, np.float32)
    scores = np.empty(most * num_shared, np.float32)
    return _Buffers(x, dx, hidden, ascent, y, dy, scores, np.empty(most, np.float32))


@njit(cache=True, nogil=True, forceinline=True)
def _cut_block(sentences, blocks, number, buffers, dim):  # type: ignore[no-untyped-def]
    """(a block over the front of the buffers, its first token)."""
    start, stop = sentences.borders[blocks[number]], sentences.borders[blocks[number + 1]]
    borders = sentences.borders[blocks[number] : blocks[number + 1] + 1] - start
    size = stop - start
    block = Block(
        sentences.tokens[start:stop], sentences.windows[start:stop], borders, buffers.reach[:size],
        _front(buffers.hidden, size, dim), _front(buffers.ascent, size, dim),
    )  # fmt: skip
    return block, start


@njit(cache=True, nogil=True, forceinline=True)
def _front(flat, num_rows, width):  # type: ignore[no-untyped-def]
    return flat[: num_rows * width].reshape(num_rows, width)
