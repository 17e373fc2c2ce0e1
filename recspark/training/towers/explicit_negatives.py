"""Negatives from events: what a row's user was shown and passed over, by table `user_negatives`.

user 7: item 31 at 9:00, 12 at 9:30, 31 at 10:00, 40 at 11:00          num 2, ABSENT where there is none
    next    row with targets of 9:40: the newest at or before           [12, 31]
            row with targets of 10:00                                   [31, 12]
    rest    whole history, no time: a run of them, drawn each epoch     [40, 31]

None of them is in the user's history, as input or as target: a click on what was shown undoes the showing. They are
there with certainty, not drawn from Q, so they enter a loss as they are, beside candidates that logQ corrects.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.config.towers import ExplicitConfig
from recspark.contracts import columns as c
from recspark.contracts.shards import hash_ids
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import TableAt, read_table
from recspark.training.lanes import hash_place
from recspark.training.objective import Place
from recspark.training.towers.examples import Examples
from recspark.training.towers.losses import ABSENT

Ints = NDArray[np.int64]
_EXPLICIT = 8


@dataclass(frozen=True)
class ShownItems:
    """What each user was shown, the newest last: row u of ``items`` is of user_idx u, ``ts_us`` int64 [E] its times."""

    items: Ragged
    ts_us: Ints


class ExplicitNegatives:
    """Gives each row the negatives of its user; they hang on user, time and epoch alone, so on no number of ranks."""

    def __init__(self, config: ExplicitConfig, shown: ShownItems, seed: int) -> None:
        self.config, self._shown, self._seed = config, shown, seed

    def draw(self, examples: Examples, place: Place) -> Ints | None:
        """Items [R, H] of this rank's rows, `ABSENT` where there is none; None without rows."""
        if not examples.num_rows:
            return None
        users = examples.users[examples.row_user]
        if examples.row_ts_us is None:
            places = self._draw_runs(users, place.epoch)
        else:
            places = self._find_newest(users, examples.row_ts_us)
        found = np.append(self._shown.items.values, ABSENT).astype(np.int64)[places]
        for column in range(1, found.shape[1]):
            is_there = (found[:, :column] == found[:, column : column + 1]).any(axis=1)
            found[is_there, column] = ABSENT
        return np.where(examples.is_known(found), ABSENT, found)

    def _find_newest(self, users: Ints, row_ts_us: Ints) -> Ints:
        """Places of the newest events at or before each row's time, the newest first; ABSENT beyond the oldest."""
        first = self._shown.items.offsets[users]
        stop = count_until(self._shown.ts_us, first, self._shown.items.offsets[users + 1], row_ts_us)
        places = stop[:, None] - 1 - np.arange(self.config.num)
        return np.where(places >= first[:, None], places, ABSENT)

    def _draw_runs(self, users: Ints, epoch: int) -> Ints:
        """Places of as many events in turn, from one of the user's that is drawn each epoch; no event twice."""
        first, lengths = self._shown.items.offsets[users], self._shown.items.lengths[users]
        bits = hash_ids(users, hash_place(self._seed, epoch, _EXPLICIT)) >> np.uint64(11)
        steps = np.arange(self.config.num)
        turned = (bits.astype(np.int64)[:, None] + steps) % np.maximum(lengths, 1)[:, None]
        return np.where(steps < lengths[:, None], first[:, None] + turned, ABSENT)


def count_until(ts_us: Ints, first: Ints, stop: Ints, until: Ints) -> Ints:
    """For each slice first..stop-1 of ascending times the place behind its last one at or before ``until``."""
    low, high = first.copy(), stop.copy()
    while (is_open := low < high).any():
        middle = (low + high) // 2
        is_past = is_open & (ts_us[np.minimum(middle, len(ts_us) - 1)] <= until)
        low = np.where(is_past, middle + 1, low)
        high = np.where(is_open & ~is_past, middle, high)
    return low


def read_shown(user_negatives: TableAt, num_users: int, kept: NDArray[np.bool_]) -> ShownItems:
    """What all users were shown, of the items that are learned (``kept`` bool [V])."""
    rows = read_table(user_negatives, [c.USER_IDX, c.ITEM_IDX, c.TS]).sort_by(c.USER_IDX)
    events, ts_us = Ragged.from_arrow(rows[c.ITEM_IDX]), pc.list_flatten(rows[c.TS]).to_numpy()
    is_kept = kept[events.values]
    lengths = np.zeros(num_users, np.int64)
    lengths[rows[c.USER_IDX].to_numpy()] = events.where(is_kept).lengths
    return ShownItems(Ragged.from_lengths(lengths, events.values[is_kept]), ts_us[is_kept])
