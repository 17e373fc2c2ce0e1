"""Negatives from an item's own group (category, market), beside those from the whole catalogue.

Sequences that stay in one market make its items alike, whatever they are: most negatives come from elsewhere and are
easy. Negatives from the same market teach what tells its items apart.

Source: Grbovic & Cheng 2018 (Airbnb), section 3.1, eq. 5.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.lake.arrow import TableAt, read_table
from recspark.training.pairing import Pairing, is_predicted
from recspark.training.rng import stream_key
from recspark.training.sentences import Sentences
from recspark.walks.alias import build_alias, draw_alias
from recspark.walks.rng import draw

_GROUP_SALT = 0x6E6F


class GroupNoise(NamedTuple):
    """Which group an item is of, int32 [V], -1 for none, and the items that can be drawn from each.

    Those of group g are ``members[starts[g]:starts[g + 1]]``; ``threshold`` and ``alias`` over the same range draw a
    place in it, see `recspark.walks.alias`.
    """

    group_of_item: NDArray[np.int32]
    starts: NDArray[np.int64]
    members: NDArray[np.int32]
    threshold: NDArray[np.float32]
    alias: NDArray[np.int32]


def read_groups(items: TableAt, feature: str) -> NDArray[np.int32]:
    """Each item's group by its value of an item feature, int32 [V] in item_idx order; -1 where it has none.

    Raises: DataError when no item has a value.
    """
    column = f"{c.FEATURE_PREFIX}{feature}"
    found = read_table(items, [c.ITEM_IDX, column]).sort_by(c.ITEM_IDX)[column].combine_chunks()
    if found.null_count == len(found):
        raise DataError(
            f"{items.uri}: no item has a value of {column}, so training.negative_group has no groups; check the "
            f"feature's path and key, or leave training.negative_group out"
        )
    codes = pc.fill_null(found.dictionary_encode().indices, -1)
    return np.asarray(codes.to_numpy(), np.int32)


def build_group_noise(groups: NDArray[np.int32], probabilities: NDArray[np.float64]) -> GroupNoise:
    """Draws within groups, in proportion to the ``probabilities`` (float64 [V]) of the whole catalogue's noise."""
    num_groups = int(groups.max(initial=-1)) + 1
    drawable = np.flatnonzero((groups >= 0) & (probabilities > 0))
    members = drawable[np.argsort(groups[drawable], kind="stable")].astype(np.int32)
    starts = np.searchsorted(groups[members], np.arange(num_groups + 1)).astype(np.int64)
    threshold, alias = np.empty(len(members), np.float32), np.empty(len(members), np.int32)
    for low, high in itertools.pairwise(starts):
        if low < high:
            threshold[low:high], alias[low:high] = build_alias(probabilities[members[low:high]])
    return GroupNoise(groups, starts, members, threshold, alias)


def draw_group_negatives(
    noise: GroupNoise, pairing: Pairing, sentences: Sentences, size: int, is_masked: bool, seed: int, epoch: int,
    step: int, first_row: int,
) -> NDArray[np.int32]:  # fmt: skip
    """``size`` negatives of each token's group, int32 [T, size]; -1 for those that do not count.

    Those are the item itself and, where ``is_masked``, a positive of the same hidden vector; an item without a group
    has none. The same on any number of ranks.
    """
    out = np.full((len(sentences.tokens), size), -1, np.int32)
    _fill_negatives(noise, pairing, sentences, is_masked, seed, epoch, step, first_row, out)
    return out


@njit(cache=True, nogil=True)
def _fill_negatives(noise, pairing, sentences, is_masked, seed, epoch, step, first_row, out):  # type: ignore[no-untyped-def]
    tokens, rows, windows, borders = sentences
    first = 0  # token of the row
    for sentence in range(len(borders) - 1):
        low, high = borders[sentence], borders[sentence + 1]
        for t in range(low, high):
            first = t if t == 0 or rows[t] != rows[t - 1] else first
            group = noise.group_of_item[tokens[t]]
            if group < 0 or noise.starts[group] == noise.starts[group + 1]:
                continue
            members = slice(noise.starts[group], noise.starts[group + 1])
            key = stream_key(seed + _GROUP_SALT, epoch, step, first_row + rows[t])
            for n in range(out.shape[1]):
                bits = draw(key, np.uint64((t - first) * out.shape[1] + n))
                item = noise.members[members][draw_alias(noise.threshold[members], noise.alias[members], bits)]
                if item == tokens[t] or (is_masked and is_predicted(pairing, tokens, windows, t, item, low, high)):
                    continue
                out[t, n] = item
