"""Explicit negatives against loops: the newest at or before a row's targets, never one that the user has done."""

from pathlib import Path

import numpy as np
import pytest

from recspark.config.towers import ExplicitConfig, HistoryConfig, TowersConfig, UserTowerConfig
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import find_table
from recspark.training.objective import Place
from recspark.training.sequence_files import TIED, Sequences
from recspark.training.towers.event_columns import EventColumns
from recspark.training.towers.examples import ALL, NEXT, REST, ExampleMaker, Examples
from recspark.training.towers.explicit_negatives import ExplicitNegatives, ShownItems, count_until, read_shown
from recspark.training.towers.losses import ABSENT
from recspark.training.towers.step import RowNegatives
from tests.helpers.tiny_lake import rows_of, write_stage
from tests.helpers.tower_lake import SKIPS, plan_towers

NUM_ITEMS, NUM_USERS, MAX_ITEMS = 40, 30, 5
PLACE = Place(2, 3, 9, 0)


class World:
    """Histories and what was shown, with many times shared, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.items = [random.integers(0, NUM_ITEMS, random.integers(0, 9)).tolist() for _ in range(NUM_USERS)]
        self.times = [np.sort(random.integers(0, 20, len(row))).tolist() for row in self.items]
        self.shown = [random.integers(0, NUM_ITEMS, random.integers(0, 12)).tolist() for _ in range(NUM_USERS)]
        self.shown_at = [np.sort(random.integers(0, 20, len(row))).tolist() for row in self.shown]

    def examples(self, mode: str, users: range = range(NUM_USERS)) -> Examples:
        flat = [ts for row in self.times for ts in row]
        columns = EventColumns(Ragged.from_rows(self.items).offsets, np.array(flat, np.int64))
        config = TowersConfig(user=UserTowerConfig(history=HistoryConfig(max_items=MAX_ITEMS)))
        maker = ExampleMaker(config, mode, np.ones(NUM_ITEMS, np.bool_), 1, columns if mode == NEXT else None)
        tied = [
            [i | TIED if p and self.times[u][p] == self.times[u][p - 1] else i for p, i in enumerate(self.items[u])]
            for u in users
        ]
        rows = Ragged.from_rows(tied)
        return maker.make(Sequences(rows.values, rows.offsets, np.array(users, np.int32)), PLACE)

    def negatives(self, num: int = 3) -> ExplicitNegatives:
        flat = [ts for row in self.shown_at for ts in row]
        shown = ShownItems(Ragged.from_rows(self.shown), np.array(flat, np.int64))
        return ExplicitNegatives(ExplicitConfig(event_types=("skip",), num=num), shown, seed=4)

    def known(self, examples: Examples, row: int) -> set[int]:
        """What the row's user has done, of what the batch looks at."""
        user = examples.row_user[row]
        targets = examples.target_item[examples.row_user[examples.target_row] == user]
        return {*examples.history.row(user).tolist(), *targets.tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_each_row_has_the_newest_at_or_before_its_targets(seed: int) -> None:
    world = World(seed)
    examples = world.examples(NEXT)
    found = world.negatives().draw(examples, PLACE)
    assert found is not None
    assert found.shape == (examples.num_rows, 3)
    assert examples.row_ts_us is not None
    num_there = 0
    for row, until in enumerate(examples.row_ts_us.tolist()):
        user = int(examples.users[examples.row_user[row]])
        before = [i for i, ts in zip(world.shown[user], world.shown_at[user], strict=True) if ts <= until]
        expected = set(before[-3:]) - world.known(examples, row)
        there = [i for i in found[row].tolist() if i != ABSENT]
        assert sorted(there) == sorted(expected)  # each once
        num_there += len(there)
    assert num_there > 50


def test_nothing_shown_after_a_target_makes_a_difference() -> None:
    world = World(1)
    examples = world.examples(NEXT)
    before = world.negatives().draw(examples, PLACE)
    assert examples.row_ts_us is not None
    until = int(np.median(examples.row_ts_us[examples.target_row]))
    for user in range(NUM_USERS):
        late = [place for place, ts in enumerate(world.shown_at[user]) if ts > until]
        for place in late:
            world.shown[user][place] = (world.shown[user][place] + 7) % NUM_ITEMS
        world.shown_at[user] += [99] * 3
        world.shown[user] += [1, 2, 3]
    after = world.negatives().draw(examples, PLACE)
    assert before is not None
    assert after is not None
    is_early = examples.row_ts_us <= until
    np.testing.assert_array_equal(before[is_early], after[is_early])
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("mode", [REST, ALL])
def test_rows_without_a_time_have_a_run_of_their_users_own_that_is_drawn_each_epoch(mode: str) -> None:
    world = World(3)
    examples = world.examples(mode)
    epochs = [world.negatives().draw(examples, Place(epoch, 0, 0, 0)) for epoch in range(30)]
    assert any(not np.array_equal(epochs[0], other) for other in epochs[1:])  # type: ignore[arg-type]
    for row in range(examples.num_rows):
        shown = world.shown[int(examples.users[row])]
        allowed = set(shown) - world.known(examples, row)
        seen: set[int] = set()
        for found in epochs:
            assert found is not None
            there = [i for i in found[row].tolist() if i != ABSENT]
            assert len(set(there)) == len(there)
            doubled = [*shown, *shown]
            runs = [set(doubled[start : start + min(3, len(shown))]) & allowed for start in range(len(shown))]
            assert not there or set(there) in runs
            seen |= set(there)
        assert seen == allowed


@pytest.mark.parametrize("mode", [NEXT, REST])
def test_a_user_has_the_same_whoever_stands_beside_him(mode: str) -> None:
    """So any number of ranks sees the same."""
    world = World(2)

    def by_user(users: range) -> dict[int, list[list[int]]]:
        examples = world.examples(mode, users)
        if mode == REST:  # who is input hangs on the place in the batch; what was shown must not
            examples = world.examples(ALL, users)
        found = world.negatives().draw(examples, PLACE)
        assert found is not None
        rows: dict[int, list[list[int]]] = {}
        for user, items in zip(examples.users[examples.row_user].tolist(), found.tolist(), strict=True):
            rows.setdefault(user, []).append(items)
        return rows

    halves = by_user(range(15)) | by_user(range(15, NUM_USERS))
    assert halves == by_user(range(NUM_USERS))


def test_places_in_slices_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        slices = [np.sort(random.integers(0, 9, random.integers(0, 7))) for _ in range(12)]
        ts, lengths = np.concatenate(slices), np.array([len(s) for s in slices])
        first = np.cumsum(lengths) - lengths
        until = random.integers(-2, 12, 12)
        expected = [f + int((s <= u).sum()) for f, s, u in zip(first, slices, until, strict=True)]
        assert count_until(ts, first, first + lengths, until).tolist() == expected
    assert count_until(np.empty(0, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64), until[:2]).tolist() == [
        0,
        0,
    ]


def test_negatives_of_several_sources_stand_side_by_side_with_what_they_count() -> None:
    hard, explicit = np.array([[1, ABSENT]]), np.array([[4, 5, 6]])
    joined = RowNegatives.join([(hard, 1.0), (None, 2.0), (explicit, 0.5)])
    assert joined is not None
    assert joined.items.tolist() == [[1, ABSENT, 4, 5, 6]]
    assert joined.weight.tolist() == [1, 1, 0.5, 0.5, 0.5]
    assert RowNegatives.join([(None, 1.0)]) is None


def test_the_table_is_read_by_user_without_items_that_are_not_learned(tmp_path: Path) -> None:
    run = plan_towers(tmp_path, "two_tower", {"negatives": {"explicit": SKIPS}})
    rows = [
        {"user_idx": 4, "item_idx": [7, 1, 2], "ts": [5, 6, 7], "event_type": [0, 0, 0]},
        {"user_idx": 1, "item_idx": [2], "ts": [9], "event_type": [0]},
    ]
    write_stage(run, "negatives", {"user_negatives": rows_of("user_negatives", rows)})
    table = find_table(run.lake, run.stages["negatives"], "user_negatives")
    shown = read_shown(table, 6, np.arange(8) != 1)
    assert [shown.items.row(u).tolist() for u in range(6)] == [[], [2], [], [], [7, 2], []]
    assert shown.ts_us.tolist() == [9, 5, 7]
