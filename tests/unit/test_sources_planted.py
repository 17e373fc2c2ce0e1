"""The planted world: the same events wherever they are drawn, the structure it promises, and an exact oracle."""

import datetime as dt

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import chisquare

from recspark.config.source import SyntheticSource
from recspark.sources import planted
from recspark.sources.attributes import build_item_attributes
from recspark.sources.counter_random import draw_uniforms
from recspark.sources.planted import (
    BOT_EVENTS,
    DIRT_KINDS,
    PlantedEvents,
    PlantedWorld,
    item_id,
    item_number,
    user_id,
    user_number,
)

TINY = SyntheticSource(
    num_users=60, num_items=50, num_clusters=7, sessions_per_user=5, num_successors=3, bot_share=0.05
)


def columns(events: PlantedEvents) -> np.ndarray:
    return np.stack([events.user, events.number, events.item, events.seconds, events.event_type, events.dirt])


def test_a_users_events_do_not_depend_on_who_else_is_drawn():
    world = PlantedWorld(TINY, seed=3)
    assert world.is_bot(np.arange(60)).any()
    whole = columns(world.build_events(np.arange(60)))
    for parts in ([np.arange(60)[::-1]], np.array_split(np.arange(60), 7), [[u] for u in range(60)]):
        pieces = [columns(PlantedWorld(TINY, seed=3).build_events(p)) for p in parts]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_more_users_leave_the_first_ones_alone():
    more = TINY.model_copy(update={"num_users": 500})
    few, many = (columns(PlantedWorld(config, 3).build_events(range(20))) for config in (TINY, more))
    np.testing.assert_array_equal(few, many)


def test_another_seed_gives_other_events():
    one, other = (columns(PlantedWorld(TINY, seed).build_events(range(5))) for seed in (3, 4))
    assert one.shape != other.shape or (one != other).any()


def test_nobody_has_no_events():
    assert columns(PlantedWorld(TINY, 1).build_events([])).shape == (6, 0)


def test_events_are_ordered_by_time_and_numbered_inside_users():
    events = PlantedWorld(TINY, 1).build_events(range(60))
    for user in range(60):
        mine = events.user == user
        np.testing.assert_array_equal(events.number[mine], np.arange(mine.sum()))
        assert (np.diff(events.seconds[mine]) >= 0).all()
        assert mine.sum() > 0


def test_times_cover_the_days_with_busy_weekends_and_evenings():
    config = SyntheticSource(num_users=500, bot_share=0, num_days=28)
    seconds = PlantedWorld(config, 1).build_events(range(500)).seconds
    first = (dt.date.fromisoformat(config.start) - dt.date(1970, 1, 1)).days
    day, hour = seconds // 86400 - first, seconds // 3600 % 24
    assert set(range(28)) <= set(day.tolist()) <= set(range(29))  # the last evening may run past midnight
    per_weekday = np.bincount(day % 7)  # the start is a Monday
    assert per_weekday[5] > 1.3 * per_weekday[1]
    per_hour = np.bincount(hour)
    assert per_hour[20] > 5 * per_hour[4]


def test_sessions_have_the_configured_number_and_length():
    config = SyntheticSource(num_users=3000, bot_share=0, sessions_per_user=6, session_length=5)
    world = PlantedWorld(config, 1)
    num_events = len(world.build_events(range(3000)).user)
    assert num_events == pytest.approx(3000 * 6 * 5, rel=0.03)


def test_clusters_are_equal_in_size_and_zipf_inside():
    world = PlantedWorld(TINY, 1)
    assert sorted(np.bincount(world.cluster_of_item)) == [7] * 6 + [8]
    uniform = (np.arange(200_000) + 0.5) / 200_000
    drawn = world._pick_from_clusters(np.full(200_000, 2), uniform)
    assert set(world.cluster_of_item[drawn]) == {2}
    counts = np.sort(np.bincount(drawn)[np.bincount(drawn) > 0])[::-1]
    zipf = (1.0 + np.arange(len(counts))) ** -TINY.popularity_exponent
    np.testing.assert_allclose(counts / counts.sum(), zipf / zipf.sum(), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_transitions_follow_planted_successors(share):
    config = SyntheticSource(
        num_users=1, num_items=4000, num_clusters=4, sessions_per_user=3000, num_days=20_000, start="1971-01-01",
        transition_share=share, bot_share=0, popularity_exponent=0,
    )  # fmt: skip
    world = PlantedWorld(config, 1)
    events = world.build_events([0])
    # With sessions days apart, a pause tells them from each other.
    inside = np.diff(events.seconds) < 1000
    three = np.flatnonzero(inside[1:] & inside[:-1])
    last, before, now = events.item[three + 1], events.item[three], events.item[three + 2]
    from_last = (world.successors[last] == now[:, None]).any(axis=1).mean()
    from_either = ((world.successors[last] == now[:, None]) | (world.successors[before] == now[:, None])).any(axis=1)
    assert len(three) > 5000
    assert from_either.mean() == pytest.approx(share, abs=0.03)
    assert from_last == pytest.approx(share * planted.LAST_ITEM_SHARE, abs=0.03)


def test_dirt_and_bots_come_in_their_shares():
    config = SyntheticSource(num_users=4000, num_items=100, num_clusters=5, dirty_share=0.1, bot_share=0.01)
    world = PlantedWorld(config, 2)
    events = world.build_events(range(4000))
    kinds = np.bincount(events.dirt, minlength=len(DIRT_KINDS))
    assert kinds[1:].sum() / kinds.sum() == pytest.approx(0.1, rel=0.03)
    assert chisquare(kinds[1:]).pvalue > 1e-3
    bots = np.flatnonzero(world.is_bot(np.arange(4000)))
    assert 20 < len(bots) < 60
    assert (np.bincount(events.user)[bots] == BOT_EVENTS).all()
    assert len(np.unique(events.item[events.user == bots[0]])) == 100


def visits_by_hand(world: PlantedWorld, theme: int) -> np.ndarray:
    """The expected share of each item, by a dense chain over pairs of (item before, last item)."""
    n, config = world.config.num_items, world.config
    base = np.zeros(n)
    mine = np.flatnonzero(world.cluster_of_item == theme)
    base[mine] = world._popularity[mine]
    matrix = np.zeros((n, n))
    for item in range(n):
        for successor in world.successors[item]:
            matrix[item, successor] += 1 / config.num_successors
    follow, last = config.transition_share, planted.LAST_ITEM_SHARE
    joint = base[:, None] * (follow * matrix + (1 - follow) * base)  # of the first two items
    expected, alive = base + 0.0, 1.0
    for _ in range(1, planted.MAX_SESSION_LENGTH):
        alive *= 1 - 1 / config.session_length
        expected += alive * joint.sum(axis=0)
        after = np.zeros((n, n))  # joint of (last, next)
        for before in range(n):
            step = follow * (last * matrix + (1 - last) * matrix[before]) + (1 - follow) * base
            after += joint[before][:, None] * step
        joint = after
    return expected / expected.sum()


def test_the_oracle_equals_the_chain_worked_out_by_hand():
    world = PlantedWorld(TINY.model_copy(update={"num_items": 20, "num_clusters": 3}), 5)
    tastes = world.tastes([8, 11])
    np.testing.assert_allclose(tastes.sum(axis=1), 1)
    by_hand = tastes @ np.stack([visits_by_hand(world, theme) for theme in range(3)])
    np.testing.assert_allclose(world.score_items([8, 11]), by_hand, rtol=1e-5)


def test_the_oracle_is_the_mean_of_many_sessions():
    config = SyntheticSource(num_users=1, num_items=60, num_clusters=6, sessions_per_user=40_000, bot_share=0)
    world = PlantedWorld(config, 1)
    counts = np.bincount(world.build_events([0]).item, minlength=60)
    assert counts.sum() > 80_000
    np.testing.assert_allclose(counts / counts.sum(), world.score_items([0])[0], atol=0.004)


def test_ids_lead_back_to_numbers():
    assert user_id(123) == "u000123"
    assert item_id(42) == "i00042"
    for number in (0, 7, 99_999, 12_345_678):
        assert user_number(user_id(number)) == item_number(item_id(number)) == number


@pytest.mark.parametrize("wrong", ["i00042", "u", "", "u-1", "u1x"])
def test_a_foreign_id_is_named(wrong):
    with pytest.raises(ValueError, match=f"'{wrong}' is no id of the synthetic source"):
        user_number(wrong)


def test_attributes_describe_each_item():
    world = PlantedWorld(SyntheticSource(num_items=600, num_clusters=90), 1)
    found = build_item_attributes(world)
    assert list(found["item_id"]) == [item_id(n) for n in range(600)]
    assert len(set(zip(found["category"], world.cluster_of_item, strict=True))) == len(set(found["category"])) == 90
    assert (found["price"] > 0).all()
    assert len(set(found["brand"])) > 90
    assert all(name[0].isupper() for name in found["name"])
    again = build_item_attributes(PlantedWorld(world.config, 1))
    assert all((found[name] == again[name]).all() for name in found)


def test_draws_are_uniform_and_streams_apart():
    users, steps = np.arange(2000)[:, None], np.arange(50)[None, :]
    one, two = (draw_uniforms(1, purpose, users, steps) for purpose in ("one", "two"))
    assert one.shape == (2000, 50)
    assert 0 <= one.min() < one.max() < 1
    for drawn in (one, two):
        assert chisquare(np.bincount((drawn.ravel() * 100).astype(int), minlength=100)).pvalue > 1e-3
    for left, right in ((one, two), (one[:, :-1], one[:, 1:]), (one[:-1], one[1:])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.015
    assert draw_uniforms(1, "one", 7, 3)[0] == one[7, 3]
    assert draw_uniforms(2, "one", 7, 3)[0] != one[7, 3]


def recall_at_20(scores: np.ndarray, seen: np.ndarray, relevant: np.ndarray) -> float:
    top = np.argpartition(-np.where(seen, -np.inf, scores), 20, axis=1)[:, :20]
    return float((np.take_along_axis(relevant, top, axis=1).sum(axis=1) / relevant.sum(axis=1)).mean())


def test_the_default_world_rewards_a_model_and_leaves_it_room():
    """Six weeks to learn, two to score, seen items masked: popularity << cosine neighbours < oracle."""
    config = SyntheticSource(num_users=2000)
    world = PlantedWorld(config, 1)
    events = world.build_events(range(2000))
    person = ~world.is_bot(events.user)
    cut = (dt.date.fromisoformat(config.start) - dt.date(1970, 1, 1)).days * 86400 + 42 * 86400
    seen, later = (
        sparse.coo_matrix(
            (np.ones((person & part).sum()), (events.user[person & part], events.item[person & part])),
            shape=(2000, config.num_items),
        ).toarray()
        for part in (events.seconds < cut, events.seconds >= cut)
    )
    popularity = seen.sum(axis=0)
    relevant = (later > 0) & (seen == 0)
    users = np.flatnonzero(relevant.any(axis=1) & seen.any(axis=1))
    seen, relevant = seen[users] > 0, relevant[users]
    together = seen.T.astype(np.float32) @ (seen / np.sqrt(seen.sum(axis=1, keepdims=True))).astype(np.float32)
    np.fill_diagonal(together, 0)
    norm = np.sqrt(np.maximum(seen.sum(axis=0), 1))
    neighbours = recall_at_20(seen.astype(np.float32) @ (together / norm / norm[:, None]), seen, relevant)
    oracle = recall_at_20(world.score_items(users), seen, relevant)
    popular = recall_at_20(np.broadcast_to(popularity, seen.shape), seen, relevant)
    assert oracle > 3 * popular
    assert 0.7 * oracle < neighbours < oracle
    assert neighbours > 2 * popular
