"""A batch of users as rows of scores: what each row has seen, and what it is to find.

    user 7: items [3, 5, 8]      next    [3] -> 5    [3, 5] -> 8          a row a prefix; were 5 and 8 of the same
                                                                          time: [3] -> 5, 8
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
from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.evaluate.time_features import NEVER
from recspark.training.lanes import hash_place
from recspark.training.objective import Place
from recspark.training.sequence_files import TIED, Sequences
from recspark.training.towers.event_columns import EventColumns

Ints = NDArray[np.int64]
NEXT, REST, ALL = "next", "rest", "all"
_INPUT, _TURNED = 3, 9


@dataclass(frozen=True)
class Examples:
    """Rows of this rank's users. ``users`` int64 [B] (user_idx); ``history`` has their input, the newest last.

    With ``is_prefixes`` each of the input's items ends a row, else each user is one row. Target p is item
    ``target_item[p]`` of row ``target_row[p]`` (ascending), with ``target_weight[p]``; all [P]. With ``is_prefixes`` a
    row's targets came at one time, ``row_ts_us`` int64 [R] (`NEVER` without targets), its last input before it, at
    ``last_ts_us`` int64 [R]; both where times were asked for. ``history_weight`` float32 [N], above 0: what each event
    of the input counts, where weights were asked for.
    """

    users: Ints
    history: Ragged
    is_prefixes: bool
    target_row: Ints
    target_item: Ints
    target_weight: NDArray[np.float32]
    row_ts_us: Ints | None = None
    last_ts_us: Ints | None = None
    history_weight: NDArray[np.float32] | None = None

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.history.values) if self.is_prefixes else len(self.users)

    @property
    def row_user(self) -> Ints:
        """Place of each row's user among ``users`` [R]."""
        return self.history.row_of_value if self.is_prefixes else np.arange(len(self.users))

    @property
    def row_keys(self) -> Ints:
        """A number a row that no other of the batch has, the same on any number of ranks [R]."""
        place = self.history.place_of_value if self.is_prefixes else np.zeros(len(self.users), np.int64)
        return (self.users[self.row_user] << 32) + place

    def is_known(self, items_RH: IntArray) -> BoolArray:
        """Whether items [R, H] are in the history of their row's user, as input or as target."""
        owner = self.row_user[self.target_row]
        order = np.argsort(owner, kind="stable")
        targets = Ragged.from_lengths(np.bincount(owner, minlength=len(self.users)), self.target_item[order])
        rows = np.broadcast_to(self.row_user[:, None], items_RH.shape)
        return targets.contains(rows, items_RH) | self.history.contains(rows, items_RH)


@dataclass(frozen=True)
class _Read:
    """A batch's events as they were read: ``items`` int32 [N]; ``ts_us`` int64 [N], ``weight`` float32 [N] where these
    are asked for.
    """

    items: NDArray[np.int32]
    ts_us: Ints | None
    weight: NDArray[np.float32] | None


class ExampleMaker:
    """Makes `Examples` of batches; every draw hangs on (seed, place) alone."""

    def __init__(
        self, config: TowersConfig, mode: str, kept: NDArray[np.bool_], seed: int, columns: EventColumns | None = None
    ) -> None:
        """``kept`` bool [V]: items that are learned; others are left out of histories. ``columns``: times and weights
        of events, where they are asked for.
        """
        self.config, self.mode, self._kept, self._seed, self._columns = config, mode, kept, seed, columns

    def make(self, batch: Sequences, place: Place) -> Examples:
        """The examples of a batch with keys.

        Raises: DataError when a history holds an item that `items` does not.
        """
        assert batch.keys is not None
        offsets = batch.offsets - batch.offsets[0]
        values = batch.values[batch.offsets[0] : batch.offsets[-1]]
        moments, users = number_moments((values & TIED) > 0), batch.keys.astype(np.int64)
        read = self._look_up(values & ~np.int32(TIED), users, np.diff(offsets))
        self._check_items(read.items)
        events = Ragged(offsets, np.arange(len(values), dtype=np.int32))  # their places in the batch
        if not self._kept.all():
            events = events.where(self._kept[read.items])
        if self.mode == ALL:
            return self._finish(read, users, Ragged.empty(len(users)), events, None)
        recent = events.where(self._find_recent(events))
        is_usable = np.flatnonzero(recent.lengths > 1)
        recent, users = recent.take(is_usable), users[is_usable]
        if self.mode == NEXT:
            before = place_before(Ragged(recent.offsets, moments[recent.values]))
            is_target = before >= 0
            places = Ragged(recent.offsets, before).where(is_target)
            return self._finish(read, users, recent.where(~_is_last(recent)), recent.where(is_target), places)
        is_input = self._draw_inputs(recent, is_usable + place.first_row, place)
        return self._finish(read, users, recent.where(is_input), recent.where(~is_input), None)

    def count_targets(self, train: Ragged, moments: Ragged) -> NDArray[np.int64] | NDArray[np.float64]:
        """How often each item of all train histories is a target in an epoch [V]; in expectation for `rest`.

        ``moments`` are the histories' numbers as of `number_moments`.
        """
        if self.mode == ALL:
            return np.bincount(train.values, minlength=len(self._kept))
        is_target = self._find_recent(train)
        if self.mode == NEXT:
            is_target[is_target] = place_before(moments.where(is_target)) >= 0
            return np.bincount(train.values[is_target], minlength=len(self._kept))
        recent = train.where(is_target)
        chance = np.repeat(chance_of_target(recent.lengths, self.config.input_share), recent.lengths)
        return np.bincount(recent.values, chance, len(self._kept))

    def _find_recent(self, whole: Ragged) -> NDArray[np.bool_]:
        """Which items are looked at: the last of each history, and for `next` one before them to start from."""
        count = self.config.user.history.max_items + (1 if self.mode == NEXT else 0)
        return np.asarray(whole.place_of_value >= np.repeat(whole.lengths - count, whole.lengths))

    def _draw_inputs(self, recent: Ragged, rows: Ints, place: Place) -> NDArray[np.bool_]:
        """Which items are input [N]; every user keeps one of either side. ``rows`` are places in the global batch."""
        key = hash_place(self._seed, place.epoch, place.step, _INPUT)
        cell = np.repeat(rows, recent.lengths) * (self.config.user.history.max_items + 1) + recent.place_of_value
        bits = hash_ids(cell, key)
        is_input = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.config.input_share
        num_input = np.bincount(recent.row_of_value[is_input], minlength=len(recent))
        # Of a user with one side only a drawn item changes sides, so that none is a target more often than others.
        bits = hash_ids(rows, hash_place(key, _TURNED)) >> np.uint64(1)
        turned = recent.offsets[:-1] + bits.astype(np.int64) % recent.lengths
        is_input[turned[num_input == 0]] = True
        is_input[turned[num_input == recent.lengths]] = False
        return is_input

    def _look_up(self, items: NDArray[np.int32], users: Ints, lengths: Ints) -> _Read:
        """A batch's events with what is asked for beside their items."""
        columns = self._columns
        if columns is None or columns.is_empty:
            return _Read(items, None, None)
        places = columns.places(users, lengths)
        return _Read(
            items,
            None if columns.ts_us is None else columns.ts_us[places],
            None if columns.weight is None else columns.weight[places],
        )

    def _check_items(self, items: NDArray[np.int32]) -> None:
        if len(items) and not 0 <= items.min() <= items.max() < len(self._kept):
            raise DataError(
                f"user_histories: item_idx {items.min()}..{items.max()}, but items holds "
                f"0..{len(self._kept) - 1}; run the sessions stage again"
            )

    def _finish(self, read: _Read, users: Ints, history: Ragged, targets: Ragged, places: Ragged | None) -> Examples:
        """``history`` and ``targets`` hold places in the batch. ``places``: in its user's history, the last item that a
        target may see; None where rows are users.
        """
        order = np.argsort(history.lengths, kind="stable")
        users, history, targets = users[order], history.take(order), targets.take(order)
        weight = np.maximum(targets.lengths, 1).astype(np.float64) ** -self.config.user_weight_power
        weights = np.repeat(weight, targets.lengths).astype(np.float32)
        rows, row_ts_us, last_ts_us = targets.row_of_value, None, None
        if places is not None:
            rows = history.offsets[:-1][rows] + places.take(order).values
            if read.ts_us is not None:
                row_ts_us = np.full(len(history.values), NEVER)
                row_ts_us[rows] = read.ts_us[targets.values]
                last_ts_us = read.ts_us[history.values]
        seen, wanted = Ragged(history.offsets, read.items[history.values]), read.items[targets.values]
        own = None if read.weight is None else read.weight[history.values]
        return Examples(
            users, seen, places is not None, rows, wanted.astype(np.int64), weights, row_ts_us, last_ts_us, own
        )


def chance_of_target(lengths: Ints, input_share: float) -> NDArray[np.float64]:
    """Chance of each item of a history of a length to be a target of `rest`; 0 where it is alone.

    Of n items, each input by chance s, n (1 - s) are targets, one more where all were input, one less where none was.
    """
    counts = np.maximum(lengths, 1).astype(np.float64)
    expected = counts * (1 - input_share) + input_share**counts - (1 - input_share) ** counts
    return np.where(lengths > 1, expected / counts, 0.0)


def choose_mode(config: TowersConfig, kind: str, has_order: bool) -> str:
    """What ``targets: auto`` stands for."""
    if config.targets != "auto":
        return config.targets
    if kind != "two_tower" or config.user.history.pooling == "none":
        return ALL
    return NEXT if has_order else REST


def number_moments(is_tied: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A number an event that those of one time share: it grows where an event is not tied to the one before it."""
    return np.cumsum(~is_tied).astype(np.int32)


def place_before(moments: Ragged) -> NDArray[np.int32]:
    """For each event the place of the last one of its row that came strictly before it, -1 for those without one."""
    is_new = np.ones(len(moments.values), np.bool_)
    is_new[1:] = (moments.values[1:] != moments.values[:-1]) | (moments.place_of_value[1:] == 0)
    starts = np.maximum.accumulate(np.where(is_new, np.arange(len(is_new)), 0))
    return np.asarray(moments.place_of_value[starts] - 1, np.int32)


def _is_last(rows: Ragged) -> NDArray[np.bool_]:
    is_last = np.zeros(len(rows.values), np.bool_)
    is_last[rows.offsets[1:] - 1] = True
    return is_last
