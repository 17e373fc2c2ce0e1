"""Random numbers without state: each is a hash of (seed, purpose, counters), so any part can be drawn anywhere.

    draw_uniforms(7, "session_start", users, sessions)   ->  one float64 in [0, 1) per (user, session)

Source: the splitmix64 finaliser (Steele, Lea & Flood 2014), applied once per counter.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53


def draw_bits(seed: int, purpose: str, *counters: Any) -> NDArray[np.uint64]:
    """64 random bits for each element of the broadcast integer ``counters``; purposes are independent streams."""
    state = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant
        for counter in (zlib.crc32(purpose.encode()), *counters):
            state = _mix(state + _GOLDEN * (np.asarray(counter).astype(np.uint64) + np.uint64(1)))
    return state


def draw_uniforms(seed: int, purpose: str, *counters: Any) -> NDArray[np.float64]:
    """Floats in [0, 1), one for each element of the broadcast ``counters``."""
    return (draw_bits(seed, purpose, *counters) >> np.uint64(11)).astype(np.float64) * _UNIT


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))
