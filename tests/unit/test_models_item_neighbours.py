"""Neighbours by random walks: draw by draw as a plain walker has them, in the mean as probabilities say."""

from collections import defaultdict

import numpy as np
import pytest
import scipy.sparse as sp
from numba import njit

from recspark.config.towers import NeighboursConfig
from recspark.evaluate.ragged import Ragged
from recspark.models.item_neighbours import NONE, ItemNeighbours, find_neighbours
from recspark.walks.rng import GOLDEN, absorb, draw, unit

NUM_ITEMS = 9
HISTORIES = [[0, 1, 2], [1, 2, 3], [2, 3, 4, 5], [5, 6], [0, 6], [3], []]  # items 7 and 8 are nobody's
CONFIGS = [
    NeighboursConfig(count=3, num_walks=40, walk_length=3, restart_probability=0.5),
    NeighboursConfig(count=8, num_walks=12, walk_length=5, restart_probability=0.0),
    NeighboursConfig(count=2, num_walks=30, walk_length=1),
]


def users_UN(histories: list[list[int]] = HISTORIES, num_items: int = NUM_ITEMS) -> sp.csr_array:
    rows = Ragged.from_rows(histories)
    return sp.csr_array((np.ones(len(rows.values)), rows.values, rows.offsets), shape=(len(histories), num_items))


def find(config: NeighboursConfig, seed: int = 5, histories: list[list[int]] = HISTORIES) -> ItemNeighbours:
    users = users_UN(histories)
    return find_neighbours(sp.csr_array(users.T), users, config, seed)


@njit
def unit_at(seed, item, walk, number):  # type: ignore[no-untyped-def]
    return unit(draw(absorb(absorb(absorb(GOLDEN, seed), item), walk), number))


def walk_plainly(start: int, config: NeighboursConfig, seed: int) -> list[tuple[int, int]]:
    """(item, user through whom the walk last left its start) of all visits but those of the start."""
    fans = [[u for u, row in enumerate(HISTORIES) if item in row] for item in range(NUM_ITEMS)]
    visits = []
    for walk in range(config.num_walks):
        at, through = start, -1
        for step in range(config.walk_length):
            one, two, three = (unit_at(seed, start, walk, 3 * step + i) for i in range(3))
            ends = step > 0 and one < config.restart_probability
            if ends or not fans[at]:
                break
            user = fans[at][int(two * len(fans[at]))]
            through = user if at == start else through
            at = HISTORIES[user][int(three * len(HISTORIES[user]))]
            if at != start:
                visits.append((at, through))
    return visits


@pytest.mark.parametrize("config", CONFIGS)
def test_they_are_those_of_a_plain_walker(config: NeighboursConfig) -> None:
    found = find(config)
    for item in range(NUM_ITEMS):
        users = defaultdict(list)
        for reached, user in walk_plainly(item, config, 5):
            users[reached].append(user)
        ranked = sorted(users, key=lambda reached: (-len(users[reached]), reached))[: config.count]
        missing = [NONE] * (config.count - len(ranked))
        assert found.items[item].tolist() == ranked + missing
        assert found.visits[item].tolist() == [len(users[j]) for j in ranked] + [0] * len(missing)
        via = [users[j][0] if len(set(users[j])) == 1 else NONE for j in ranked]
        assert found.via[item].tolist() == via + missing


@pytest.mark.parametrize("restart", [0.0, 0.5, 0.9])
def test_visits_are_spread_as_the_walk_with_restart_says(restart: float) -> None:
    config = NeighboursConfig(count=8, num_walks=40_000, walk_length=3, restart_probability=restart)
    found, users = find(config), users_UN().toarray()
    to_users = users.T / np.maximum(users.sum(0), 1)[:, None]
    to_items = users / np.maximum(users.sum(1), 1)[:, None]
    step = to_users @ to_items
    expected = sum((1 - restart) ** k * np.linalg.matrix_power(step, k + 1) for k in range(3))
    for item in range(7):
        visits = np.zeros(NUM_ITEMS)
        is_there = found.items[item] != NONE
        visits[found.items[item][is_there]] = found.visits[item][is_there]
        wanted = np.where(np.arange(NUM_ITEMS) == item, 0, expected[item])
        # A walk visits an item 0 to 3 times, so a mean of n of them errs by less than 1.5 / sqrt(n) one time in three.
        np.testing.assert_allclose(visits / config.num_walks, wanted, atol=4 * 1.5 / 200)


def test_an_item_without_users_has_none_and_a_neighbour_is_never_the_item_itself() -> None:
    found = find(CONFIGS[1])
    assert (found.items[7:] == NONE).all()
    assert (found.items != np.arange(NUM_ITEMS)[:, None]).all()


def test_another_seed_walks_elsewhere_and_other_rows_change_nothing() -> None:
    one, again, other = find(CONFIGS[0]), find(CONFIGS[0]), find(CONFIGS[0], seed=6)
    np.testing.assert_array_equal(one.visits, again.visits)
    assert not np.array_equal(one.visits, other.visits)
    users = users_UN(num_items=7)  # without those that nobody has
    some = find_neighbours(sp.csr_array(users.T), users, CONFIGS[0], 5)
    np.testing.assert_array_equal(some.items, one.items[:7])


def test_a_new_item_finds_neighbours_by_its_users_and_is_nobodys() -> None:
    """Item 9 came after training: users 0 and 1 have had it since."""
    users, fans = users_UN(), np.array([[1.0, 1, 0, 0, 0, 0, 0]])
    with_new = sp.csr_array(np.concatenate([users.toarray().T, fans]))
    found, before = find_neighbours(with_new, users, CONFIGS[0], 5), find(CONFIGS[0])
    np.testing.assert_array_equal(found.items[:NUM_ITEMS], before.items)
    assert set(found.items[NUM_ITEMS]) <= {0, 1, 2, 3}
    assert found.items[NUM_ITEMS, 0] in (1, 2)  # both users have them


def test_an_item_that_walks_reach_needs_a_row() -> None:
    users = users_UN()
    with pytest.raises(ValueError, match=r"is \(7, 7\) and items_of_user \(7, 9\); expected .* at least 9 rows"):
        find_neighbours(sp.csr_array(users.T)[:7], users, CONFIGS[0], 5)


NEIGHBOURS = ItemNeighbours(
    items=np.array([[2, 1], [0, NONE], [4, 3], [NONE, NONE], [2, 0]], np.int32),
    visits=np.array([[6, 2], [5, 0], [3, 3], [0, 0], [8, 1]], np.int32),
    via=np.array([[NONE, 1], [0, NONE], [2, NONE], [NONE, NONE], [NONE, 2]], np.int32),
    num_users=3,
)


def as_lists(items: list[int], left_out: list[int] | None) -> dict[int, dict[int, float]]:
    """Item -> neighbour -> weight."""
    near = NEIGHBOURS.near(np.array(items), None if left_out is None else np.array(left_out, np.int64))
    assert near.items.tolist() == sorted(set(near.items.tolist()))
    stops = np.append(near.starts[1:], len(near.places))
    weights = [round(float(weight), 3) for weight in near.weights]
    of_item = [
        dict(zip(near.items[near.places[a:b]].tolist(), weights[a:b], strict=True))
        for a, b in zip(near.starts, stops, strict=True)
    ]
    return dict(zip(near.items[near.own].tolist(), of_item, strict=True))


def test_weights_are_shares_of_visits() -> None:
    assert as_lists([0, 2, 3], None) == {0: {2: 6 / 8, 1: 2 / 8}, 2: {4: 0.5, 3: 0.5}, 3: {}}
    assert NEIGHBOURS.near(np.array([3])).items.tolist() == [3]
    assert NEIGHBOURS.near(np.array([1, 4])).items.tolist() == [0, 1, 2, 4]


def test_what_only_a_user_left_out_has_with_an_item_does_not_count() -> None:
    assert as_lists([0, 1, 2, 4], [2]) == {0: {2: 6 / 8, 1: 2 / 8}, 1: {0: 1}, 2: {3: 1}, 4: {2: 1}}
    assert as_lists([0, 1, 4], [0, 1]) == {0: {2: 1}, 1: {}, 4: {2: 0.889, 0: 0.111}}
    assert as_lists([0, 1], []) == as_lists([0, 1], None)
