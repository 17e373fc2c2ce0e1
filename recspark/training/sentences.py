"""From ragged sequences to sentences: frequent items left out, a window drawn for each token, sentences cut in blocks.

All draws are counted by (seed, epoch, step, row of the global batch, place in the row): nothing depends on how a batch
is spread over ranks, threads or blocks.

sequences [[7, 3, 7], [2, 9]]  ->  tokens [7, 3, 7, 2, 9], sentence [0, 0, 0, 1, 1], windows [2, 1, 5, 3, 1]
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.errors import DataError
from recspark.training.rng import stream_key, to_below, to_unit
from recspark.walks.rng import draw

SENTENCE_SALT = 0x5EED
"""Keeps these streams apart from those of the noise and of the starting vectors."""


def check_items(values: NDArray[np.int32], num_items: int) -> None:
    """Checks that all items of a batch have a row.

    Raises: DataError naming one that has none.
    """
    if len(values) == 0:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_items:
        raise DataError(
            f"a sequence holds item_idx {low if low < 0 else high}, but `items` has rows 0..{num_items - 1}: corpus "
            f"and vocabulary are not of one build; run the stages before train again"
        )


@njit(cache=True, nogil=True)
def draw_sentences(values, offsets, keep, window, is_dynamic, seed, epoch, step, first_row):  # type: ignore[no-untyped-def]
    """(tokens kept, their row, their window), each int32 [T].

    Of a row's stream, even draws decide who stays (with probability ``keep`` of the item), odd ones how far a token
    sees: 1..window alike when ``is_dynamic``, else ``window``.
    """
    tokens = np.empty(len(values), np.int32)
    sentence, windows = np.empty(len(values), np.int32), np.empty(len(values), np.int32)
    size = 0
    for row in range(len(offsets) - 1):
        key = stream_key(seed + SENTENCE_SALT, epoch, step, first_row + row)
        start = offsets[row]
        for place in range(start, offsets[row + 1]):
            item, counter = values[place], np.uint64(2 * (place - start))
            if keep[item] < 1 and to_unit(draw(key, counter)) >= keep[item]:
                continue
            tokens[size], sentence[size], windows[size] = item, row, window
            if is_dynamic:
                windows[size] = 1 + to_below(draw(key, counter + np.uint64(1)), window)
            size += 1
    return tokens[:size], sentence[:size], windows[:size]


@njit(cache=True, nogil=True)
def plan_pieces(sentence, max_tokens):  # type: ignore[no-untyped-def]
    """Borders (int64 [P + 1]) of the pieces that pairs stay inside: sentences, long ones cut into equal parts."""
    borders = np.empty(len(sentence) + 1, np.int64)
    borders[0] = 0
    num_pieces = start = 0
    while start < len(sentence):
        stop = start + 1
        while stop < len(sentence) and sentence[stop] == sentence[start]:
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
