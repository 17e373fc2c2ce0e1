"""Noise: which items are drawn as negatives and how often, and which frequent items are left out of sentences.

Counts are train events, whatever the corpus is: a walk visits an item about as often as its degree and edges have it,
so its share of walks' tokens is another than its share of events. The same counts make negatives, subsampling and the
Huffman tree, they are at hand before a sequence is read, and no corpus or epoch changes them.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.errors import DataError
from recspark.training.rng import stream_key
from recspark.walks.alias import build_alias, draw_alias
from recspark.walks.rng import draw


@dataclass(frozen=True)
class NoiseDistribution:
    """Items with probability in proportion to count^exponent; an item that was never seen is never drawn.

    ``probabilities`` float64 [V]; ``threshold`` float32 [V] and ``alias`` int32 [V] draw from it in one step, see
    `recspark.walks.alias`.
    """

    probabilities: NDArray[np.float64]
    threshold: NDArray[np.float32]
    alias: NDArray[np.int32]

    def draw(self, seed: int, step: int, size: int) -> NDArray[np.int32]:
        """The negatives of a global step: int32 [size], the same on every rank and machine."""
        out = np.empty(size, np.int32)
        _draw_many(np.uint64(stream_key(np.uint64(seed), 1, step, 0)), self.threshold, self.alias, out)
        return out


def build_noise(counts: NDArray[np.int64], exponent: float) -> NoiseDistribution:
    """The noise distribution of items with these train counts (int64 [V]).

    Source: Mikolov et al. 2013 (exponent .75); Caselles-Dupre et al. 2018 (recommenders want less, or negative).

    Raises: DataError when no item has a count.
    """
    seen = counts > 0
    if not seen.any():
        raise DataError(f"no item of {len(counts):,} has a train event, so no negatives can be drawn; check the split")
    weights = np.zeros(len(counts), np.float64)
    weights[seen] = counts[seen].astype(np.float64) ** exponent
    probabilities = weights / weights.sum()
    return NoiseDistribution(probabilities, *build_alias(probabilities))


def keep_probabilities(counts: NDArray[np.int64], subsample: float) -> NDArray[np.float32]:
    """With which probability a token of each item stays in a sentence: float32 [V].

    word2vec's form, min(1, sqrt(t / f) + t / f) with t = ``subsample`` and f the item's share of the counts: a little
    above equation 5 of Mikolov et al. 2013, which keeps sqrt(t / f). There f is the share of tokens; given train
    events, it is that on sessions and histories, but on walks only about. 0 keeps everything but items without a count.
    """
    if subsample == 0:
        return (counts > 0).astype(np.float32)
    share = np.maximum(counts, 1) / max(int(counts.sum()), 1)
    kept = np.minimum(1.0, np.sqrt(subsample / share) + subsample / share)
    return np.where(counts > 0, kept, 0.0).astype(np.float32)


def leave_out_rare(counts: NDArray[np.int64], min_count: int) -> NDArray[np.int64]:
    """The counts (int64 [V]) with those below ``min_count`` set to 0: such items are in no sentence and no negative.

    Raises: DataError when fewer than two items are left.
    """
    left = counts >= min_count
    if min_count > 1 and left.sum() < 2:
        raise DataError(
            f"training.min_count: {int(left.sum())} of {len(counts):,} items have {min_count} train events or more, "
            f"the most frequent one has {int(counts.max(initial=0)):,}; a model needs two, lower it"
        )
    return np.where(left, counts, 0)


@njit(cache=True, nogil=True)
def _draw_many(key, threshold, alias, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = draw_alias(threshold, alias, draw(key, np.uint64(i)))
