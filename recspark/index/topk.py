"""Exact "smallest k, ties by smaller id" over rows of (value, id) pairs, through one sortable integer a pair."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

NO_ID = -1
"""faiss's id of a place that holds nothing."""
_NOTHING = np.uint64(2**64 - 1)
_SIGN = np.uint32(1 << 31)
_LOW = np.uint64(2**32 - 1)


def smallest_k(values: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """(values, ids), each [Q, k], of the k smallest values a row; ties go to the smaller id.

    Rows short of k end in (inf, -1). ``ids`` must be below 2^32 - 1 (item_idx is an int32); -1 marks nothing.
    """
    keys = _pack(values, ids)
    if keys.shape[1] > k:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    if keys.shape[1] < k:
        keys = np.pad(keys, ((0, 0), (0, k - keys.shape[1])), constant_values=_NOTHING)
    return _unpack(keys)


def largest_k(values: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """(values, ids) of the k largest values a row; ties go to the smaller id; rows short of k end in (-inf, -1)."""
    negated, kept = smallest_k(-values, ids, k)
    return -negated, kept


def _pack(values: Floats, ids: Ids) -> NDArray[np.uint64]:
    """Value in the upper, id in the lower 32 bits. A float's bits sort like the float once negatives are flipped."""
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    keys = (ordered << np.uint64(32)) | (ids.astype(np.uint64) & _LOW)
    return np.where(ids == NO_ID, _NOTHING, keys)


def _unpack(keys: NDArray[np.uint64]) -> tuple[Floats, Ids]:
    nothing = keys == _NOTHING
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    values = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered).view(np.float32)
    ids = (keys & _LOW).astype(np.int64)
    return np.where(nothing, np.float32(np.inf), values), np.where(nothing, NO_ID, ids)
