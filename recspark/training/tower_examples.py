"""A batch of users as rows of scores: what each row has seen, and what it is to find.

    user 7: items [3, 5, 8]      next    [3] -> 5    [3, 5] -> 8          a row a prefix
                                 rest    [3, 8] -> 5                      a drawn part is input, the rest targets
                                 all     () -> 3, 5, 8                    no history as input
Users come out by ascending length of input, so that those of a part are padded little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.config.towers import TowersConfig
from recspark.contracts.shards import hash_ids
from recspark.errors import DataError
from recspark.evaluate.ragged import Ragged
from recspark.training.lanes import hash_place
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences

Ints = NDArray[np.int64]
NEXT, REST, ALL = "next", "rest", "all"
_INPUT = 3


@dataclass(frozen=True)
class Examples:
    """Rows of this rank's users. ``users`` int64 [B] (user_idx); ``history`` has their input, the newest last.

    With ``is_prefixes`` each of the input's items ends a row, else each user is one row. Target p is item
    ``target_item[p]`` of row ``target_row[p]`` (ascending), with ``target_weight[p]``; all [P].
    """

    users: Ints
    history: Ragged
    is_prefixes: bool
    target_row: Ints
    target_item: Ints
    target_weight: NDArray[np.float32]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.history.values) if self.is_prefixes else len(self.users)

    @property
    def row_user(self) -> Ints:
        """Place of each row's user among ``users`` [R]."""
        return self.history.row_of_value if self.is_prefixes else np.arange(len(self.users))


class ExampleMaker:
    """Makes `Examples` of batches; every draw hangs on (seed, place) alone."""

    def __init__(self, config: TowersConfig, mode: str, kept: NDArray[np.bool_], seed: int) -> None:
        """``kept`` bool [V]: items that are learned; others are left out of histories."""
        self.config, self.mode, self._kept, self._seed = config, mode, kept, seed

    def make(self, batch: Sequences, place: Place) -> Examples:
        """The examples of a batch with keys.

        Raises: DataError when a history holds an item that `items` does not.
        """
        assert batch.keys is not None
        whole = Ragged(batch.offsets - batch.offsets[0], batch.values[batch.offsets[0] : batch.offsets[-1]])
        if len(whole.values) and not 0 <= whole.values.min() <= whole.values.max() < len(self._kept):
            raise DataError(
                f"user_histories: item_idx {whole.values.min()}..{whole.values.max()}, but items holds "
                f"0..{len(self._kept) - 1}; run the sessions stage again"
            )
        whole = whole if self._kept.all() else whole.where(self._kept[whole.values])
        users = batch.keys.astype(np.int64)
        if self.mode == ALL:
            return self._finish(users, Ragged.empty(len(users)), whole, is_prefixes=False)
        longest = self.config.user.history.max_items + (1 if self.mode == NEXT else 0)
        recent = cut_to_last(whole, longest)
        is_usable = np.flatnonzero(recent.lengths > 1)
        recent, users = recent.take(is_usable), users[is_usable]
        if self.mode == NEXT:
            is_first, is_last = recent.place_of_value == 0, _is_last(recent)
            return self._finish(users, recent.where(~is_last), recent.where(~is_first), is_prefixes=True)
        is_input = self._draw_inputs(recent, is_usable + place.first_row, place)
        return self._finish(users, recent.where(is_input), recent.where(~is_input), is_prefixes=False)

    def count_targets(self, train: Ragged) -> Ints:
        """How often each item of all train histories is a target in an epoch [V]; in expectation for `rest`."""
        if self.mode == ALL:
            return np.bincount(train.values, minlength=len(self._kept))
        recent = cut_to_last(train, self.config.user.history.max_items + (1 if self.mode == NEXT else 0))
        recent = recent.take(np.flatnonzero(recent.lengths > 1))
        is_target = recent.place_of_value > 0 if self.mode == NEXT else np.ones(len(recent.values), np.bool_)
        return np.bincount(recent.values[is_target], minlength=len(self._kept))

    def _draw_inputs(self, recent: Ragged, rows: Ints, place: Place) -> NDArray[np.bool_]:
        """Which items are input [N]; every user keeps one of either side. ``rows`` are places in the global batch."""
        key = hash_place(self._seed, place.epoch, place.step, _INPUT)
        cell = np.repeat(rows, recent.lengths) * (self.config.user.history.max_items + 1) + recent.place_of_value
        bits = hash_ids(cell, key)
        is_input = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.config.input_share
        num_input = np.bincount(recent.row_of_value[is_input], minlength=len(recent))
        is_input[recent.offsets[:-1][num_input == 0]] = True
        is_input[recent.offsets[:-1][num_input == recent.lengths]] = False
        return is_input

    def _finish(self, users: Ints, history: Ragged, targets: Ragged, is_prefixes: bool) -> Examples:
        order = np.argsort(history.lengths, kind="stable")
        users, history, targets = users[order], history.take(order), targets.take(order)
        weight = np.maximum(targets.lengths, 1).astype(np.float64) ** -self.config.user_weight_power
        weights = np.repeat(weight, targets.lengths).astype(np.float32)
        rows = np.arange(len(targets.values)) if is_prefixes else targets.row_of_value
        return Examples(users, history, is_prefixes, rows, targets.values.astype(np.int64), weights)


def choose_mode(config: TowersConfig, kind: str, has_order: bool) -> str:
    """What ``targets: auto`` stands for."""
    if config.targets != "auto":
        return config.targets
    if kind != "two_tower" or config.user.history.pooling == "none":
        return ALL
    return NEXT if has_order else REST


def cut_to_last(rows: Ragged, count: int) -> Ragged:
    """The last ``count`` values of each row."""
    if not len(rows) or rows.lengths.max() <= count:
        return rows
    return rows.where(rows.place_of_value >= np.repeat(rows.lengths - count, rows.lengths))


def _is_last(rows: Ragged) -> NDArray[np.bool_]:
    is_last = np.zeros(len(rows.values), np.bool_)
    is_last[rows.offsets[1:] - 1] = True
    return is_last
