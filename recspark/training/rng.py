"""Counter-based random numbers: every draw is a hash of its place, so nothing depends on ranks, threads or restarts.

Arguments are cast inside: numba makes a float of int64 + uint64, and Python hands a small uint64 over as int64.
No `inline="always"`: numba's own inliner lost the top bit of unsigned shifts here, and LLVM inlines anyway.
A stream is a 64-bit key made of (seed, epoch, step, row ...); its i-th number is splitmix64(key + i x golden).
Source: splitmix64 (Steele et al. 2014).
"""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_27, _SHIFT_30, _SHIFT_31, _SHIFT_32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_LOW_24 = np.uint64(0xFFFFFF)
_TO_UNIT = np.float32(1.0 / 16777216.0)


@njit(cache=True, nogil=True)
def mix(z):  # type: ignore[no-untyped-def]
    """A uint64, well mixed: the finaliser of splitmix64."""
    z = np.uint64(z)
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    return z ^ (z >> _SHIFT_31)


@njit(cache=True, nogil=True)
def stream_key(seed, a, b, c):  # type: ignore[no-untyped-def]
    """The key of the stream of one place, such as (seed, epoch, step, row); all non-negative integers."""
    key = mix(np.uint64(seed) + GOLDEN)
    key = mix(key ^ (np.uint64(a) * GOLDEN + _MIX_1))
    key = mix(key ^ (np.uint64(b) * GOLDEN + _MIX_2))
    return mix(key ^ (np.uint64(c) * GOLDEN + GOLDEN))


@njit(cache=True, nogil=True)
def draw(key, counter):  # type: ignore[no-untyped-def]
    """The uint64 at place ``counter`` (uint64, from 0) of a stream."""
    return mix(np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * GOLDEN)


@njit(cache=True, nogil=True)
def to_unit(bits):  # type: ignore[no-untyped-def]
    """float32 in [0, 1) from the low 24 bits of a draw."""
    return np.float32(np.uint64(bits) & _LOW_24) * _TO_UNIT


@njit(cache=True, nogil=True)
def to_below(bits, bound):  # type: ignore[no-untyped-def]
    """int64 in [0, bound) from the high 32 bits of a draw; bound < 2^31, biased by at most bound / 2^32."""
    return np.int64(((np.uint64(bits) >> _SHIFT_32) * np.uint64(bound)) >> _SHIFT_32)
