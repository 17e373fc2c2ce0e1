"""From a batch of sequences to the integer work of one torch step: tokens, windows, distinct rows, negatives or paths.

sequences [[7, 3, 7], [2, 9]]  ->  items [7, 3, 2, 9], token row [0, 1, 0, 2, 3], sentence [0, 0, 0, 1, 1]

All of it is drawn by counters (epoch, step, row of the global batch, place in the row), so the same sequences give the
same tokens, windows and negatives on any number of ranks. Compiled and without the GIL, so it can run beside a step.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.training.huffman import HuffmanTree, find_paths
from recspark.training.objective import Objective, Place
from recspark.training.pairing import BOUGHT, NEAR, Pairing, sum_weights
from recspark.training.sentences import Sentences
from recspark.training.sequence_files import Sequences

_BATCH_NEGATIVES = 8  # a batch shares this many times what a sentence shares on the CPU kernel


class TokenRows(NamedTuple):
    """The U distinct ``items`` of T tokens; the ``row`` of each token among them.

    ``order`` lists the tokens by item: those of item u from ``starts[u]`` on. All int64.
    """

    items: NDArray[np.int64]
    row: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]


class TokenWindows(NamedTuple):
    """Who is paired with whom: each token's ``sentence`` and ``reach``, its window inside it; int32 [T].

    Token t of a centre's window weighs ``share[centre] * decay[|t - centre|]``, or 1 where the centre ``is_flat``, see
    `Pairing`; ``total`` is the weight with which the hidden vector at a token predicts in all; float32 [T]. ``width``
    is the largest reach, at least 1. ``share`` is None where it is 1 everywhere, ``is_flat`` where nobody is.
    """

    sentence: NDArray[np.int32]
    reach: NDArray[np.int32]
    is_flat: NDArray[np.bool_] | None
    share: NDArray[np.float32] | None
    total: NDArray[np.float32]
    decay: NDArray[np.float32]
    width: int


class SharedNegatives(NamedTuple):
    """N distinct negatives of the whole batch: their output ``row`` [N] and ``weight`` [N], times drawn x K / draws.

    ``hidden_weight`` [H] is the weight with which each hidden vector predicts: in skip-gram an item's (H = U), in CBOW
    a token's (H = T). Of it ``masked_weight`` does not count for hidden vector ``masked_hidden`` [M] (ascending) and
    ``masked_negative``, which that one predicts.
    """

    row: NDArray[np.int64]
    weight: NDArray[np.float32]
    hidden_weight: NDArray[np.float32]
    masked_hidden: NDArray[np.int64]
    masked_negative: NDArray[np.int64]
    masked_weight: NDArray[np.float32]


class Targets(NamedTuple):
    """Output rows scored token by token: ``row`` int64 and ``sign`` float32, both [T, L], 0 where there is none.

    Each costs -log sigmoid(sign x score): of every hidden vector that predicts the token where ``by_window`` (the path
    to it), else of its own (CBOW: the token itself or the path to it; negatives of its group).
    """

    row: NDArray[np.int64]
    sign: NDArray[np.float32]
    by_window: bool


@dataclass(frozen=True)
class StepBatch:
    """The work of one step over the input rows ``tokens.items`` and the distinct output rows ``outputs`` (int64 [R]).

    Under negative sampling the first U outputs are the tokens' items; else ``negatives`` is None.
    """

    is_cbow: bool
    outputs: NDArray[np.int64]
    tokens: TokenRows
    windows: TokenWindows
    negatives: SharedNegatives | None
    targets: Targets
    num_pairs: int


class StepBatches:
    """Turns sequences into steps; holds a scratch array of one int an item, so one thread at a time."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._row_of_item = np.full(objective.num_items, -1, np.int64)

    def prepare(self, batch: Sequences, place: Place) -> StepBatch:
        """The step of a rank's part of a global batch; its negatives are the same on every rank.

        Raises: DataError when a sequence holds an item that `items` does not.
        """
        objective = self._objective
        sentences = objective.draw(batch, place)
        windows, num_pairs = _find_windows(objective.pairing, sentences)
        if objective.tree is None:
            outputs, tokens, negatives, targets = self._draw_noise(sentences, windows, place)
            return StepBatch(objective.pairing.is_cbow, outputs, tokens, windows, negatives, targets, num_pairs)
        outputs, tokens, targets = self._find_paths(sentences, objective.tree)
        return StepBatch(objective.pairing.is_cbow, outputs, tokens, windows, None, targets, num_pairs)

    def _draw_noise(
        self, sentences: Sentences, windows: TokenWindows, place: Place
    ) -> tuple[NDArray[np.int64], TokenRows, SharedNegatives, Targets]:
        """(outputs, tokens, negatives, targets) of negative sampling."""
        objective, config = self._objective, self._objective.config
        is_cbow = objective.pairing.is_cbow
        drawn = objective.noise.draw(objective.seed, place.global_step, config.shared_negatives * _BATCH_NEGATIVES)
        negatives, times = np.unique(drawn, return_counts=True)
        own = objective.draw_group_negatives(sentences, place)
        outputs, tokens, other_row = self._find_rows(sentences.tokens, np.concatenate([negatives, own[own >= 0]]))
        negative_row, own_row = np.split(other_row, [len(negatives)])
        by_item = np.bincount(tokens.row, windows.total, len(tokens.items)).astype(np.float32)
        shared = SharedNegatives(
            negative_row,
            (times * (config.num_negatives / len(drawn))).astype(np.float32),
            windows.total if is_cbow else by_item,
            *_find_masked(is_cbow, windows, tokens, negative_row, len(outputs), config.mask_positives),
        )
        return outputs, tokens, shared, _find_targets(is_cbow, tokens, own >= 0, own_row)

    def _find_paths(self, sentences: Sentences, tree: HuffmanTree) -> tuple[NDArray[np.int64], TokenRows, Targets]:
        """(outputs, tokens, targets) of hierarchical softmax: every token asks the inner nodes above it."""
        nodes, signs = find_paths(tree, sentences.tokens)
        nothing = np.empty(0, np.int32)
        _, tokens, _ = self._find_rows(sentences.tokens, nothing)
        outputs, _, node_row = self._find_rows(nothing, nodes.ravel())
        return outputs, tokens, Targets(node_row.reshape(nodes.shape), signs, not self._objective.pairing.is_cbow)

    def _find_rows(
        self, tokens: NDArray[np.int32], others: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], TokenRows, NDArray[np.int64]]:
        """(distinct rows, those of the tokens first; the tokens' part of them; the row of each of the others)."""
        rows, num_items, token_row, other_row = _number_rows(tokens, others, self._row_of_item)
        return rows, TokenRows(rows[:num_items], token_row, *_group_tokens(token_row, num_items)), other_row


def _find_windows(pairing: Pairing, sentences: Sentences) -> tuple[TokenWindows, int]:
    """(windows cut off at the ends of their sentence, number of pairs)."""
    lengths = np.diff(sentences.borders)
    numbers = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    others = np.repeat(lengths - 1, lengths).astype(np.int32)
    reach = np.minimum(sentences.windows, others)
    share = (1 / np.maximum(others, 1)).astype(np.float32) if pairing.is_session else None
    total = np.empty(len(others), np.float32)
    num_pairs = sum_weights(pairing, sentences.windows, sentences.borders, total)
    width = max(1, int(reach.max(initial=1)))
    is_flat = sentences.windows == BOUGHT
    flat = is_flat if is_flat.any() else None
    return TokenWindows(numbers, reach, flat, share, total, pairing.weights[NEAR], width), num_pairs


def _find_targets(is_cbow: bool, tokens: TokenRows, is_drawn: NDArray[np.bool_], own_row: NDArray[np.int64]) -> Targets:
    """What is scored at each token by itself: negatives of its group, in CBOW first of all the token."""
    row = np.zeros(is_drawn.shape, np.int64)
    row[is_drawn] = own_row
    sign = -is_drawn.astype(np.float32)
    if is_cbow:
        row = np.column_stack([tokens.row, row])
        sign = np.column_stack([np.ones(len(row), np.float32), sign])
    return Targets(row, sign, by_window=False)


@njit(cache=True, nogil=True)
def _number_rows(tokens, others, row_of_item):  # type: ignore[no-untyped-def]
    """(distinct rows, how many of tokens, row of each token, row of each other); the scratch is left as found."""
    rows = np.empty(len(tokens) + len(others), np.int64)
    token_row, other_row = np.empty(len(tokens), np.int64), np.empty(len(others), np.int64)
    num_rows = 0
    for t in range(len(tokens)):
        if row_of_item[tokens[t]] < 0:
            row_of_item[tokens[t]] = num_rows
            rows[num_rows] = tokens[t]
            num_rows += 1
        token_row[t] = row_of_item[tokens[t]]
    num_token_rows = num_rows
    for n in range(len(others)):
        if row_of_item[others[n]] < 0:
            row_of_item[others[n]] = num_rows
            rows[num_rows] = others[n]
            num_rows += 1
        other_row[n] = row_of_item[others[n]]
    for r in range(num_rows):
        row_of_item[rows[r]] = -1
    return rows[:num_rows].copy(), num_token_rows, token_row, other_row


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
def _find_masked(is_cbow, windows, tokens, negative_row, num_rows, is_masked):  # type: ignore[no-untyped-def]
    """(hidden vector, negative, weight), by hidden vector: every token's that predicts a drawn negative, once."""
    negative_of_row = np.full(num_rows, -1, np.int64)
    for n in range(len(negative_row)):
        negative_of_row[negative_row[n]] = n
    size = len(tokens.row) if is_masked else 0
    last_token = np.full(len(negative_row), -1, np.int64)
    is_drawn = negative_of_row[tokens.row] >= 0
    most = 0  # a drawn token is masked for those in its reach at most; pages that stay empty cost nothing
    for t in range(size):
        if is_drawn[t]:
            most += 1 if is_cbow else 2 * windows.reach[t]
    most = min(most, size * len(negative_row))
    hidden, negatives, weights = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.float32)
    found = 0
    for i in range(size):
        token = i if is_cbow else tokens.order[i]
        # Windows differ, so a token's centres are looked for as far as the widest one reaches.
        around = 0 if is_cbow else windows.width
        for center in range(max(0, token - around), min(len(tokens.row), token + around + 1)):
            if not is_drawn[center] or windows.total[token] == 0:
                continue
            n = negative_of_row[tokens.row[center]]
            if last_token[n] == token:
                continue
            if not is_cbow and (
                center == token
                or windows.sentence[center] != windows.sentence[token]
                or abs(center - token) > windows.reach[center]
            ):
                continue
            last_token[n] = token
            hidden[found], negatives[found] = token if is_cbow else tokens.row[token], n
            weights[found] = windows.total[token]
            found += 1
    return hidden[:found].copy(), negatives[:found].copy(), weights[:found].copy()
