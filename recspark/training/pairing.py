"""Which hidden vectors predict which centre, and how much each pair weighs.

Both architectures of word2vec are one picture: a hidden vector stands at every token and predicts output rows. In
skip-gram it is the token's input vector and predicts the centres whose windows hold the token; in CBOW it is the mean
of the input vectors in the window around its own token, which it predicts. With a window of 1 on each side:

tokens     a   b   c          skip_gram: a->b, b->a, b->c, c->b          cbow: b->a, (a+c)/2->b, b->c

Source: Mikolov et al. 2013. Pairs of a whole set weigh 1 / (l - 1), so that long histories do not crowd out others.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.config.schema import TrainingConfig

MAX_SENTENCE = 256
"""Longer sequences are cut into equal parts; the pairs across a cut are lost."""
WHOLE = 1 << 30
"""A window that holds the whole sentence."""
BOUGHT = WHOLE + 1
"""The window of a session's bought item: the whole sentence, each pair with weight 1 whatever its distance."""
NEAR, FLAT, OWN = 0, 1, 2
"""Rows of `Pairing.weights`: by distance; 1 whatever the distance; 1 for the token itself too (CBOW's own mean)."""


class Pairing(NamedTuple):
    """``weights`` float32 [3, `MAX_SENTENCE`]: what a pair so far apart weighs, by `NEAR`, `FLAT` or `OWN`.

    Where ``is_session``, the near ones are divided by l - 1, l the length of the sentence.
    """

    is_cbow: bool
    is_session: bool
    weights: NDArray[np.float32]


def build_pairing(kind: str, config: TrainingConfig) -> Pairing:
    """The pairing of ``model.kind``: a pair d apart weighs position_decay^(d - 1)."""
    weights = np.ones((3, MAX_SENTENCE), np.float32)
    weights[NEAR] = np.float64(config.position_decay) ** np.arange(-1, MAX_SENTENCE - 1)
    weights[[NEAR, FLAT], 0] = 0
    return Pairing(kind == "cbow", config.window == "session", weights)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def find_window(pairing, windows, center, low, high):  # type: ignore[no-untyped-def]
    """(first, last, row, share) of a centre's window in the sentence low..high-1.

    Token t of first..last-1 weighs ``share * pairing.weights[row, abs(t - center)]``.
    """
    first, last = max(center - windows[center], low), min(center + windows[center] + 1, high)
    if windows[center] == BOUGHT:
        return first, last, FLAT, np.float32(1)
    return first, last, NEAR, np.float32(1) / np.float32(max(high - low - 1, 1) if pairing.is_session else 1)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def find_hidden(pairing, windows, center, low, high):  # type: ignore[no-untyped-def]
    """`find_window` of the hidden vectors that predict a centre."""
    if pairing.is_cbow:
        return center, center + 1 if high - low > 1 else center, OWN, np.float32(1)
    return find_window(pairing, windows, center, low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def sum_weights(pairing, windows, borders, sums):  # type: ignore[no-untyped-def]
    """Fills ``sums`` float32 [T], the weight with which each hidden vector predicts in all; the number of pairs.

    ``borders`` are those of sentences that lie one after the other and fill ``windows``.
    """
    sums[:] = 0
    num_pairs = 0
    for sentence in range(len(borders) - 1):
        low, high = borders[sentence] - borders[0], borders[sentence + 1] - borders[0]
        for center in range(low, high):
            first, last, row, share = find_hidden(pairing, windows, center, low, high)
            for token in range(first, last):
                sums[token] += share * pairing.weights[row, abs(token - center)]
            num_pairs += last - first if pairing.is_cbow else last - first - 1
    return num_pairs


@njit(cache=True, nogil=True)
def is_predicted(pairing, tokens, windows, hidden, item, low, high):  # type: ignore[no-untyped-def]
    """Whether ``item`` is a centre that the hidden vector at a token predicts."""
    if pairing.is_cbow:
        return tokens[hidden] == item
    for center in range(low, high):
        if tokens[center] == item and center != hidden and abs(center - hidden) <= windows[center]:
            return True
    return False
