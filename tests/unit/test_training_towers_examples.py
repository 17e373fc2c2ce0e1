"""What rows a batch of users becomes, against lists worked by hand."""

import numpy as np
import pytest

from recspark.config.towers import HistoryConfig, TowersConfig, UserTowerConfig
from recspark.errors import DataError
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import NAMES, NEVER, encode_times
from recspark.training.objective import Place
from recspark.training.sequence_files import TIED, Sequences
from recspark.training.towers.event_columns import EventColumns
from recspark.training.towers.examples import (
    ALL,
    NEXT,
    REST,
    ExampleMaker,
    Examples,
    choose_mode,
    number_moments,
)

HISTORIES = [[3, 5, 8], [7], [1, 2, 4, 6, 9], []]
PLACE = Place(0, 2, 2, 4)


def maker(
    mode: str,
    max_items: int = 50,
    kept: np.ndarray | None = None,
    columns: EventColumns | None = None,
    **config: object,
) -> ExampleMaker:
    user = UserTowerConfig(history=HistoryConfig(max_items=max_items))
    towers = TowersConfig(user=user, **config)  # type: ignore[arg-type]
    return ExampleMaker(towers, mode, np.ones(10, np.bool_) if kept is None else kept, 1, columns)


def batch(histories: list[list[int]] = HISTORIES) -> Sequences:
    rows = Ragged.from_rows(histories)
    return Sequences(rows.values, rows.offsets, np.arange(10, 10 + len(histories), dtype=np.int32))


def questions(examples: Examples) -> list[tuple[int, list[int], int]]:
    """(user, what he has seen, what is to be found) of each target."""
    found = []
    for row, item in zip(examples.target_row.tolist(), examples.target_item.tolist(), strict=True):
        user = int(examples.row_user[row])
        seen = examples.history.row(user).tolist()
        if examples.is_prefixes:
            seen = seen[: row - int(examples.history.offsets[user]) + 1]
        found.append((int(examples.users[user]), seen, item))
    return found


def test_each_prefix_predicts_the_item_after_it() -> None:
    assert questions(maker(NEXT).make(batch(), PLACE)) == [
        (10, [3], 5), (10, [3, 5], 8),
        (12, [1], 2), (12, [1, 2], 4), (12, [1, 2, 4], 6), (12, [1, 2, 4, 6], 9),
    ]  # fmt: skip


def test_only_the_last_items_are_looked_at() -> None:
    found = questions(maker(NEXT, max_items=2).make(batch(), PLACE))
    assert found == [(10, [3], 5), (10, [3, 5], 8), (12, [4], 6), (12, [4, 6], 9)]


def test_a_drawn_part_predicts_the_rest_and_both_are_there() -> None:
    many = [[i % 10, (i + 1) % 10, (i + 3) % 10] for i in range(200)]
    examples = maker(REST, input_share=0.5).make(batch(many), PLACE)
    by_user = {user: (set(seen), set()) for user, seen, _ in questions(examples)}
    for user, _, item in questions(examples):
        by_user[user][1].add(item)
    assert len(by_user) == 200
    for user, (seen, targets) in by_user.items():
        assert seen
        assert targets
        assert not seen & targets
        assert seen | targets == set(many[user - 10])


def test_draws_hang_on_the_place_in_the_global_batch() -> None:
    many = [[i % 10, (i + 1) % 10, (i + 3) % 10] for i in range(40)]
    whole = questions(maker(REST).make(batch(many), Place(0, 0, 0, 0)))
    rows = batch(many)
    first, second = (questions(maker(REST).make(rows.slice(a, b), Place(0, 0, 0, a))) for a, b in ((0, 20), (20, 40)))
    assert sorted(whole) == sorted(first + second)
    assert sorted(whole) != sorted(questions(maker(REST).make(rows, Place(0, 1, 1, 0))))


def test_all_items_are_targets_of_a_user_without_input() -> None:
    examples = maker(ALL, user_weight_power=1.0).make(batch(), PLACE)
    assert sorted(questions(examples))[:3] == [(10, [], 3), (10, [], 5), (10, [], 8)]
    assert examples.target_weight.sum() == pytest.approx(3)  # users with items, one each


def test_users_come_by_length_so_that_little_is_padded() -> None:
    lengths = maker(NEXT).make(batch([[1, 2, 3], [1, 2], [1, 2, 3, 4]]), PLACE).history.lengths
    assert lengths.tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", [NEXT, ALL])
def test_counted_targets_are_those_that_are_made(mode: str) -> None:
    rows = Ragged.from_rows(HISTORIES)
    is_tied = np.isin(rows.values, [8, 4])
    moments = Ragged(rows.offsets, number_moments(is_tied))
    tied = [[i | TIED if i in (8, 4) else i for i in row] for row in HISTORIES]
    made = maker(mode, max_items=3).make(batch(tied), PLACE).target_item
    assert maker(mode, max_items=3).count_targets(rows, moments).tolist() == np.bincount(made, minlength=10).tolist()


@pytest.mark.parametrize("input_share", [0.2, 0.8])
def test_counted_targets_of_drawn_parts_are_the_mean_of_many_epochs(input_share: float) -> None:
    """A short history often has all its items on one side: whichever changes sides, the count has to know."""
    histories = [[2 * i % 10, (2 * i + 1) % 10] for i in range(40)] + [[1, 3, 5, 7, 9, 0]] * 20 + [[4]] * 5
    rows, own = Ragged.from_rows(histories), maker(REST, input_share=input_share)
    made = np.zeros(10)
    for epoch in range(300):
        found = own.make(batch(histories), Place(epoch, 0, epoch, 0)).target_item
        made += np.bincount(found, minlength=10) / 300
    counted = own.count_targets(rows, Ragged(rows.offsets, np.arange(len(rows.values), dtype=np.int32)))
    np.testing.assert_allclose(made, counted, rtol=0.05)


def test_what_came_at_the_same_time_is_not_seen() -> None:
    """3, then 5 and 8 at once, then 9; of a user who has only events of one time nothing is to be found."""
    examples = maker(NEXT).make(batch([[3, 5, 8 | TIED, 9], [1, 2 | TIED]]), PLACE)
    assert questions(examples) == [(10, [3], 5), (10, [3], 8), (10, [3, 5, 8], 9)]
    kept = np.ones(10, np.bool_)
    kept[5] = False  # 8 still came with the moment after 3's
    assert questions(maker(NEXT, kept=kept).make(batch([[3, 5, 8 | TIED, 9]]), PLACE)) == [
        (10, [3], 8),
        (10, [3, 8], 9),
    ]


def timed_batch(seed: int) -> tuple[list[list[int]], list[list[int]], Sequences, EventColumns]:
    """(items, times, a batch of them in another order of users, their columns by user_idx); many times are shared."""
    random = np.random.default_rng(seed)
    items = [random.integers(0, 10, random.integers(0, 9)).tolist() for _ in range(30)]
    times = [np.sort(random.integers(0, 6, len(row))).tolist() for row in items]
    offsets = Ragged.from_rows(items).offsets
    columns = EventColumns(offsets, np.array([ts for row in times for ts in row], np.int64))
    users = random.permutation(len(items))
    tied = [[i | TIED if p and times[u][p] == times[u][p - 1] else i for p, i in enumerate(items[u])] for u in users]
    rows = Ragged.from_rows(tied)
    return items, times, Sequences(rows.values, rows.offsets, users.astype(np.int32)), columns


@pytest.mark.parametrize("seed", range(5))
def test_a_row_has_the_time_of_its_targets_and_sees_only_what_came_strictly_before(seed: int) -> None:
    """Against a loop over all events: what a row sees, what it is to find, and when."""
    items, times, rows, columns = timed_batch(seed)
    kept = np.ones(10, np.bool_)
    kept[[3, 7]] = seed % 2 == 0
    expected = []
    for user, own in enumerate(items):
        events = [(i, ts) for i, ts in zip(own, times[user], strict=True) if kept[i]][-6:]
        for item, ts in events:
            seen = [(i, earlier) for i, earlier in events if earlier < ts]
            if seen:
                expected.append((user, [i for i, _ in seen], item, ts, seen[-1][1]))
    examples = maker(NEXT, max_items=5, kept=kept, columns=columns).make(rows, PLACE)
    assert examples.row_ts_us is not None
    assert examples.last_ts_us is not None
    when, last = (ts[examples.target_row].tolist() for ts in (examples.row_ts_us, examples.last_ts_us))
    found = [(*question, *times) for question, *times in zip(questions(examples), when, last, strict=True)]
    assert sorted(found) == sorted(expected)
    assert (examples.last_ts_us[examples.target_row] < examples.row_ts_us[examples.target_row]).all()
    without = np.setdiff1d(np.arange(examples.num_rows), examples.target_row)
    assert (examples.row_ts_us[without] == NEVER).all()


def test_codes_of_a_row_hang_on_nothing_after_its_target() -> None:
    """All later events of a user are moved away; what the row is told of times stays."""
    _, times, rows, _ = timed_batch(3)
    hours = [[ts * 3_600_000_000 for ts in row] for row in times]
    offsets = Ragged.from_rows(times).offsets

    def codes(until: int, shift: int) -> dict[tuple[int, tuple[int, ...], int], list[int]]:
        flat = [ts + shift * (ts > until * 3_600_000_000) for row in hours for ts in row]
        examples = maker(NEXT, columns=EventColumns(offsets, np.array(flat, np.int64))).make(rows, PLACE)
        assert examples.row_ts_us is not None
        assert examples.last_ts_us is not None
        found = encode_times(NAMES, examples.row_ts_us, examples.last_ts_us)[examples.target_row].tolist()
        is_early = examples.row_ts_us[examples.target_row] <= until * 3_600_000_000
        told = zip(questions(examples), found, is_early, strict=True)
        return {(user, tuple(seen), item): row for (user, seen, item), row, early in told if early}

    for until in range(1, 5):
        before = codes(until, 0)
        assert before
        assert codes(until, 86_400_000_000_000) == before


@pytest.mark.parametrize("mode", [NEXT, REST, ALL])
def test_each_event_of_an_input_has_its_weight(mode: str) -> None:
    """A weight says which event it is of."""
    items, _, rows, columns = timed_batch(8)
    kept = np.ones(10, np.bool_)
    kept[[2, 5]] = False
    offsets = columns.offsets
    weight = np.arange(offsets[-1]).astype(np.float32) + 1
    weighed = EventColumns(offsets, weight=weight)
    examples = maker(mode, max_items=5, kept=kept, columns=weighed).make(rows, PLACE)
    assert examples.history_weight is not None
    assert len(examples.history_weight) == len(examples.history.values)
    places = examples.history_weight.astype(np.int64) - 1
    owners = examples.users[examples.history.row_of_value]
    flat = np.array([i for row in items for i in row])
    assert (flat[places] == examples.history.values).all()
    assert ((places >= offsets[owners]) & (places < offsets[owners + 1])).all()
    within = examples.history.row_of_value[1:] == examples.history.row_of_value[:-1]
    assert (np.diff(places)[within] > 0).all()
    assert examples.row_ts_us is None
    assert (len(places) > 0) == (mode != ALL)


def test_rows_of_whole_users_have_no_time() -> None:
    columns = EventColumns(np.append(np.zeros(11), np.cumsum([3, 1, 5, 0])).astype(np.int64), np.arange(9))
    for mode in (REST, ALL):
        assert maker(mode, columns=columns).make(batch(), PLACE).row_ts_us is None


def test_rare_items_are_left_out() -> None:
    kept = np.ones(10, np.bool_)
    kept[5] = False
    assert questions(maker(NEXT, kept=kept).make(batch([[3, 5, 8]]), PLACE)) == [(10, [3], 8)]


def test_an_item_that_items_does_not_hold_is_an_error() -> None:
    with pytest.raises(DataError, match=r"item_idx 3\.\.12, but items holds 0\.\.9; run the sessions stage again"):
        maker(NEXT).make(batch([[3, 12]]), PLACE)


def test_auto_goes_by_kind_and_order() -> None:
    assert choose_mode(TowersConfig(), "two_tower", True) == NEXT
    assert choose_mode(TowersConfig(), "two_tower", False) == REST
    assert choose_mode(TowersConfig(), "mf", True) == ALL
    assert choose_mode(TowersConfig(targets="rest"), "two_tower", True) == REST
