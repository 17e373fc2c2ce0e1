"""From ragged sequences to sentences: frequent items left out, a window drawn for each token, sentences cut in blocks.

All draws are counted by (seed, epoch, step, row of the global batch, place in the row): nothing depends on how a batch
is spread over ranks, threads or blocks.

sequences [[7, 3, 7], [2, 9]]  ->  tokens [7, 3, 7, 2, 9], rows [0, 0, 0, 1, 1], windows [2, 1, 5, 3, 1]
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.config.schema import TrainingConfig
from recspark.errors import DataError
from recspark.training.pairing import BOUGHT, MAX_SENTENCE, WHOLE
from recspark.training.rng import stream_key, to_below, to_unit
from recspark.training.sequence_files import MARK, Sequences
from recspark.walks.rng import draw

SENTENCE_SALT = 0x5EED
"""Keeps these streams apart from those of the noise and of the starting vectors."""
_SHUFFLE_SALT = 0x5EEF


class Sentences(NamedTuple):
    """``tokens``, their row in the batch and their window, int32 [T]; pairs stay inside ``borders`` int64 [P + 1]."""

    tokens: NDArray[np.int32]
    rows: NDArray[np.int32]
    windows: NDArray[np.int32]
    borders: NDArray[np.int64]


def check_items(values: NDArray[np.int32], num_items: int) -> None:
    """Checks that all items of a batch have a row.

    Raises: DataError naming one that has none.
    """
    if len(values) == 0:
        return
    low, high = int(values.min()), int((values & ~MARK).max())
    if low < 0 or high >= num_items:
        raise DataError(
            f"a sequence holds item_idx {low if low < 0 else high}, but `items` has rows 0..{num_items - 1}: corpus "
            f"and vocabulary are not of one build; run the stages before train again"
        )


def draw_sentences(
    batch: Sequences,
    keep: NDArray[np.float32],
    config: TrainingConfig,
    seed: int,
    epoch: int,
    step: int,
    first_row: int,
) -> Sentences:
    """The sentences of a batch whose rows stand from ``first_row`` on in the global one; ``keep`` float32 [V]."""
    is_session = config.window == "session"
    window = WHOLE if isinstance(config.window, str) else config.window
    drawn = _draw_tokens(
        batch.values, batch.offsets, keep, window, config.dynamic_window and not is_session,
        is_session and config.position_decay == 1, seed, epoch, step, first_row,
    )  # fmt: skip
    tokens, rows, windows = drawn
    return Sentences(tokens, rows, windows, plan_pieces(rows, MAX_SENTENCE))


@njit(cache=True, nogil=True)
def _draw_tokens(  # type: ignore[no-untyped-def]
    values, offsets, keep, window, is_dynamic, is_unordered, seed, epoch, step, first_row
):
    """(tokens kept, their row, their window), each int32 [T].

    Of a row's stream, even draws decide who stays (with probability ``keep`` of the item), odd ones how far a token
    sees: 1..window alike when ``is_dynamic``, else ``window``; a marked item sees all.
    """
    tokens = np.empty(len(values), np.int32)
    rows, windows = np.empty(len(values), np.int32), np.empty(len(values), np.int32)
    size = 0
    for row in range(len(offsets) - 1):
        key = stream_key(seed + SENTENCE_SALT, epoch, step, first_row + row)
        start, first = offsets[row], size
        for place in range(start, offsets[row + 1]):
            item, counter = values[place] & ~MARK, np.uint64(2 * (place - start))
            if keep[item] < 1 and to_unit(draw(key, counter)) >= keep[item]:
                continue
            tokens[size], rows[size], windows[size] = item, row, window
            if values[place] & MARK:
                windows[size] = BOUGHT
            elif is_dynamic:
                windows[size] = 1 + to_below(draw(key, counter + np.uint64(1)), window)
            size += 1
        # A long set is cut elsewhere in each epoch, so that in the end all its pairs are seen.
        if is_unordered and size - first > MAX_SENTENCE:
            _shuffle(tokens[first:size], stream_key(seed + _SHUFFLE_SALT, epoch, step, first_row + row))
    return tokens[:size], rows[:size], windows[:size]


@njit(cache=True, nogil=True)
def _shuffle(values, key):  # type: ignore[no-untyped-def]
    for last in range(len(values) - 1, 0, -1):
        other = to_below(draw(key, np.uint64(last)), last + 1)
        values[last], values[other] = values[other], values[last]


@njit(cache=True, nogil=True)
def plan_pieces(rows, max_tokens):  # type: ignore[no-untyped-def]
    """Borders (int64 [P + 1]) of the pieces that pairs stay inside: sentences, long ones cut into equal parts."""
    borders = np.empty(len(rows) + 1, np.int64)
    borders[0] = 0
    num_pieces = start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop] == rows[start]:
            stop += 1
        parts = (stop - start + max_tokens - 1) // max_tokens
        for part in range(1, parts + 1):
            num_pieces += 1
            borders[num_pieces] = start + (stop - start) * part // parts
        start = stop
    return borders[: num_pieces + 1]


@njit(cache=True, nogil=True)
def plan_blocks(borders, min_tokens):  # type: ignore[no-untyped-def]
    """First piece of each block (int64 [B + 1]): consecutive pieces until they hold ``min_tokens``."""
    blocks = np.empty(len(borders), np.int64)
    blocks[0] = 0
    num_blocks = 0
    for piece in range(1, len(borders)):
        if borders[piece] - borders[blocks[num_blocks]] >= min_tokens or piece == len(borders) - 1:
            num_blocks += 1
            blocks[num_blocks] = piece
    return blocks[: num_blocks + 1]
