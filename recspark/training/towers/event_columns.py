"""What train events hold beside their items, looked up by user and place: lanes bring items alone.

batch of users [7, 3] with 3 and 1 train events  ->  places [20, 21, 22, 9]  ->  ts_us and weight of these
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class EventColumns:
    """All train events by user: those of user_idx u stand at ``offsets[u]`` to ``offsets[u + 1] - 1``, in order.

    ``offsets`` int64 [U + 1], ``ts_us`` int64 [E] (microseconds since the epoch), ``weight`` float32 [E] above 0; None
    where nothing asks for them. 8 and 4 bytes an event, on every rank.
    """

    offsets: Ints
    ts_us: Ints | None = None
    weight: NDArray[np.float32] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.ts_us is None and self.weight is None

    def places(self, users: Ints, lengths: Ints) -> Ints:
        """Where the events of some users stand, one user after the other."""
        starts = self.offsets[users]
        assert np.array_equal(self.offsets[users + 1] - starts, lengths), "both are of one version of user_histories"
        first = np.cumsum(lengths) - lengths
        return np.asarray(np.arange(lengths.sum()) + np.repeat(starts - first, lengths), np.int64)
