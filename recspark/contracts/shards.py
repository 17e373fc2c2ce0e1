"""Pure arithmetic: which slice of rows, which shard of items belongs to whom."""

from typing import NewType

import numpy as np
from numpy.typing import NDArray

Rank = NewType("Rank", int)
Shard = NewType("Shard", int)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def shard_range(shard_id: int, num_shards: int, total: int) -> range:
    """Half-open slice of 0..total-1 owned by one shard; sizes differ by at most one."""
    return range(shard_id * total // num_shards, (shard_id + 1) * total // num_shards)


def hash_ids(ids: NDArray[np.integer], seed: int = 0) -> NDArray[np.uint64]:
    """A well-mixed 64-bit hash of each integer id, the same on every machine.

    Source: splitmix64 (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(seed % 2**63 + 1) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def shard_of(ids: NDArray[np.integer], num_shards: int) -> NDArray[np.int32]:
    """The index shard of each item, stable as items come and go."""
    return (hash_ids(ids) % np.uint64(num_shards)).astype(np.int32)
