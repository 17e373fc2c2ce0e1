"""From a batch of sequences to the integer work of one skip-gram step: tokens, windows, distinct rows, negatives.

sequences [[7, 3, 7], [2, 9]]  ->  token_row [0, 1, 0, 2, 3], sentence [0, 0, 0, 1, 1], rows [7, 3, 2, 9, <negatives>]

All of it is drawn by counters (epoch, step, row of the global batch, place in the row), so the same sequences give the
same tokens, windows and negatives on any number of ranks. Compiled and without the GIL, so it can run beside a step.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.config.schema import TrainingConfig
from recspark.training.negatives import NoiseDistribution
from recspark.training.sentences import check_items, draw_sentences
from recspark.training.sequence_files import Sequences

_BATCH_NEGATIVES = 8  # a batch shares this many times what a sentence shares on the CPU kernel


@dataclass(frozen=True)
class Place:
    """Where a batch stands: ``step`` counts within the epoch, ``first_row`` within the global batch."""

    epoch: int
    step: int
    global_step: int
    first_row: int


@dataclass(frozen=True)
class SkipGramBatch:
    """The integers of one step. T = tokens, R = distinct rows, U of them of tokens, N = distinct negatives, M = masked.

    ``rows`` holds the tokens' items first, then negatives that are no token; ``token_order`` lists the tokens by row,
    those of row u from ``row_starts[u]`` on. A pair is (input token, centre): a token is predicted from every
    neighbour within the window drawn for it. ``row_pairs`` counts the pairs in which a row is the input.
    ``negative_weight`` is how often a negative was drawn x num_negatives / draws. ``masked_pairs`` pairs of input row
    ``masked_row`` (ascending) do not count negative ``masked_negative``, which is a positive of the same window.
    """

    rows: NDArray[np.int64]
    num_token_rows: int
    token_row: NDArray[np.int64]
    token_order: NDArray[np.int64]
    row_starts: NDArray[np.int64]
    sentence: NDArray[np.int32]
    token_window: NDArray[np.int32]
    row_pairs: NDArray[np.float32]
    negative_row: NDArray[np.int64]
    negative_weight: NDArray[np.float32]
    masked_row: NDArray[np.int64]
    masked_negative: NDArray[np.int64]
    masked_pairs: NDArray[np.float32]
    num_pairs: int


class SkipGramBatches:
    """Turns sequences into steps; holds a scratch array of one int an item, so one thread at a time."""

    def __init__(self, noise: NoiseDistribution, keep: NDArray[np.float32], config: TrainingConfig, seed: int) -> None:
        self._noise, self._keep, self._config, self._seed = noise, keep, config, seed
        self._row_of_item = np.full(len(keep), -1, np.int64)

    def prepare(self, batch: Sequences, place: Place) -> SkipGramBatch:
        """The step of a rank's part of a global batch; its negatives are the same on every rank.

        Raises: DataError when a sequence holds an item that `items` does not.
        """
        config = self._config
        check_items(batch.values, len(self._keep))
        drawn = self._noise.draw(self._seed, place.global_step, config.shared_negatives * _BATCH_NEGATIVES)
        negatives, times = np.unique(drawn, return_counts=True)
        tokens, sentence, windows = draw_sentences(
            batch.values, batch.offsets, self._keep, config.window, config.dynamic_window, self._seed, place.epoch,
            place.step, place.first_row,
        )  # fmt: skip
        pairs = _count_pairs(sentence, windows)
        rows, num_token_rows, token_row, negative_row = _find_rows(tokens, negatives, self._row_of_item)
        row_pairs = np.bincount(token_row, pairs, num_token_rows).astype(np.float32)
        token_order, row_starts = _group_tokens(token_row, num_token_rows)
        masked_row, masked_negative, masked_pairs = _find_masked(
            sentence, windows, pairs, token_row, token_order, negative_row, len(rows), config.mask_positives
        )
        return SkipGramBatch(
            rows=rows,
            num_token_rows=num_token_rows,
            token_row=token_row,
            token_order=token_order,
            row_starts=row_starts,
            sentence=sentence,
            token_window=windows,
            row_pairs=row_pairs,
            negative_row=negative_row,
            negative_weight=(times * (config.num_negatives / len(drawn))).astype(np.float32),
            masked_row=masked_row,
            masked_negative=masked_negative,
            masked_pairs=masked_pairs,
            num_pairs=int(pairs.sum()),
        )


@njit(cache=True, nogil=True)
def _count_pairs(sentence, windows):  # type: ignore[no-untyped-def]
    """For each token, in how many pairs it is the input: centres whose window reaches it."""
    size = len(sentence)
    pairs = np.zeros(size, np.int64)
    for center in range(size):
        for token in range(max(0, center - windows[center]), min(size, center + windows[center] + 1)):
            if token != center and sentence[token] == sentence[center]:
                pairs[token] += 1
    return pairs


@njit(cache=True, nogil=True)
def _find_rows(tokens, negatives, row_of_item):  # type: ignore[no-untyped-def]
    """(distinct items, how many of tokens, row of each token, row of each negative); the scratch is left as found."""
    rows = np.empty(len(tokens) + len(negatives), np.int64)
    token_row, negative_row = np.empty(len(tokens), np.int64), np.empty(len(negatives), np.int64)
    num_rows = 0
    for t in range(len(tokens)):
        if row_of_item[tokens[t]] < 0:
            row_of_item[tokens[t]] = num_rows
            rows[num_rows] = tokens[t]
            num_rows += 1
        token_row[t] = row_of_item[tokens[t]]
    num_token_rows = num_rows
    for n in range(len(negatives)):
        if row_of_item[negatives[n]] < 0:
            row_of_item[negatives[n]] = num_rows
            rows[num_rows] = negatives[n]
            num_rows += 1
        negative_row[n] = row_of_item[negatives[n]]
    for r in range(num_rows):
        row_of_item[rows[r]] = -1
    return rows[:num_rows].copy(), num_token_rows, token_row, negative_row


@njit(cache=True, nogil=True)
def _group_tokens(token_row, num_rows):  # type: ignore[no-untyped-def]
    """(tokens by row, where each row's begin)."""
    starts = np.zeros(num_rows + 1, np.int64)
    for row in token_row:
        starts[row + 1] += 1
    starts = np.cumsum(starts)
    order, filled = np.empty(len(token_row), np.int64), starts[:-1].copy()
    for token in range(len(token_row)):
        row = token_row[token]
        order[filled[row]] = token
        filled[row] += 1
    return order, starts[:-1].copy()


@njit(cache=True, nogil=True)
def _find_masked(  # type: ignore[no-untyped-def]
    sentence, windows, pairs, token_row, token_order, negative_row, num_rows, is_masked
):
    """(input row, negative, pairs), by row: every token one of whose centres was drawn as a negative, once."""
    negative_of_row = np.full(num_rows, -1, np.int64)
    for n in range(len(negative_row)):
        negative_of_row[negative_row[n]] = n
    size = len(sentence)
    # Windows differ, so a token's centres are looked for as far as the widest one reaches.
    widest = windows.max() if size else 0
    last_token = np.full(len(negative_row), -1, np.int64)
    masked_row, masked_negative = np.empty(0, np.int64), np.empty(0, np.int64)
    masked_pairs = np.empty(0, np.float32)
    for is_filling in (False, True):  # the first pass counts
        last_token[:] = -1
        found = 0
        for token in token_order[: size if is_masked else 0]:
            for center in range(max(0, token - widest), min(size, token + widest + 1)):
                negative = negative_of_row[token_row[center]]
                if negative < 0 or center == token or sentence[center] != sentence[token]:
                    continue
                if abs(center - token) > windows[center] or last_token[negative] == token:
                    continue
                last_token[negative] = token
                if is_filling:
                    masked_row[found], masked_negative[found] = token_row[token], negative
                    masked_pairs[found] = pairs[token]
                found += 1
        if not is_filling:
            masked_row, masked_negative = np.empty(found, np.int64), np.empty(found, np.int64)
            masked_pairs = np.empty(found, np.float32)
    return masked_row, masked_negative, masked_pairs
