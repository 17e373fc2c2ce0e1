# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Random numbers as a function of (key, counter): no state, so a draw depends on nothing but its name.

A walk's key is made of (seed, epoch, start node, walk number); its draws are numbered by step and try. Any
partitioning, retry or speculative copy of a task therefore yields the same walks. Good for any kernel.

Arguments are cast inside: numba makes a float of int64 + uint64, and Python hands a small uint64 over as int64. No
``inline="always"``: numba's own inliner mixes the types of caller and callee, and LLVM inlines anyway.

Source: splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_UNIT = 1.0 / 9007199254740992.0  # 2^-53


@njit(cache=True, nogil=True)
def mix(bits: np.uint64) -> np.uint64:
    """splitmix64's finaliser: a bijection in which every input bit moves every output bit."""
    bits = np.uint64(bits)
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@njit(cache=True, nogil=True)
def absorb(key: np.uint64, value: int) -> np.uint64:
    """The key that a further integer makes of a key; order matters."""
    return mix((np.uint64(key) ^ np.uint64(value)) + GOLDEN)


@njit(cache=True, nogil=True)
def draw(key: np.uint64, counter: np.uint64) -> np.uint64:
    """64 random bits: the ``counter``-th of the splitmix64 stream that starts at ``key``."""
    return mix(np.uint64(key) + np.uint64(counter) * GOLDEN)


@njit(cache=True, nogil=True)
def unit(bits: np.uint64) -> float:
    """A float64 in [0, 1) from the upper 53 bits."""
    return np.float64(np.uint64(bits) >> np.uint64(11)) * _UNIT
