"""Counter-based random numbers: every draw is a hash of its place, so nothing depends on ranks, threads or restarts.

A stream is a 64-bit key made of (seed, epoch, step, row ...); `recspark.walks.rng.draw` gives its i-th number. What is
said there of casts and inlining holds here too.
"""

import numpy as np
from numba import njit

from recspark.walks.rng import GOLDEN, absorb

_SHIFT_32 = np.uint64(32)
_LOW_24 = np.uint64(0xFFFFFF)
_TO_UNIT = np.float32(1.0 / 16777216.0)


@njit(cache=True, nogil=True)
def stream_key(seed, a, b, c):  # type: ignore[no-untyped-def]
    """The key of the stream of one place, such as (seed, epoch, step, row); all non-negative integers."""
    return absorb(absorb(absorb(absorb(GOLDEN, seed), a), b), c)


@njit(cache=True, nogil=True)
def to_unit(bits):  # type: ignore[no-untyped-def]
    """float32 in [0, 1) from the low 24 bits of a draw."""
    return np.float32(np.uint64(bits) & _LOW_24) * _TO_UNIT


@njit(cache=True, nogil=True)
def to_below(bits, bound):  # type: ignore[no-untyped-def]
    """int64 in [0, bound) from the high 32 bits of a draw; bound < 2^31, biased by at most bound / 2^32."""
    return np.int64(((np.uint64(bits) >> _SHIFT_32) * np.uint64(bound)) >> _SHIFT_32)
