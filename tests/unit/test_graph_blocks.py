"""The cost plan: equal blocks, hot items, memory, and what is refused."""

import numpy as np
import pytest

from recspark.errors import DataError
from recspark.graph import blocks
from recspark.graph.blocks import UnitStats, byte_costs, cut_blocks, expected_shuffle_bytes, plan_blocks

COSTS = byte_costs(ordered=False, has_unit_weights=True, has_item_weights=False)


def make_stats(lengths, num_items=1000, seed=0, hot_share=0.0):
    """Stats of random units of these lengths; item 0 is in a share of them."""
    random = np.random.default_rng(seed)
    counts, costs = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
    for length in lengths:
        items = random.choice(num_items - 1, length, replace=False) + 1
        if random.random() < hot_share:
            items[0] = 0
        counts[items] += 1
        costs[items] += length
    return UnitStats(
        counts, costs, np.bincount(lengths), len(lengths), int(sum(lengths)), longest=max(lengths), num_pairs=1
    )


@pytest.mark.parametrize("num_blocks", [1, 2, 7, 50])
def test_blocks_cost_about_the_same(num_blocks):
    stats = make_stats([10] * 2000)
    block_of = cut_blocks(stats.costs, stats.unit_counts, num_blocks, np.empty(0, np.int32))
    by_block = np.bincount(block_of, weights=stats.costs, minlength=num_blocks)
    assert block_of.min() == 0
    assert block_of.max() == num_blocks - 1
    assert np.ptp(by_block) <= 2 * stats.costs.max()


def test_blocks_are_runs_by_popularity():
    stats = make_stats([10] * 500)
    block_of = cut_blocks(stats.costs, stats.unit_counts, 5, np.empty(0, np.int32))
    assert (np.diff(block_of[np.argsort(-stats.unit_counts, kind="stable")]) >= 0).all()


def test_an_item_dearer_than_a_share_of_a_block_is_hot():
    stats = make_stats([10] * 2000, hot_share=0.6)
    plan = plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=512, num_blocks=20)
    assert plan.hot_items.tolist() == [0]
    assert plan.block_of[0] == -1
    assert plan.num_tasks == 21
    assert (plan.block_of[1:] >= 0).all()
    assert len(plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=512, num_blocks=1).hot_items) == 0


def test_hot_rows_keep_to_their_share_of_memory(monkeypatch):
    monkeypatch.setattr(blocks, "HOT_SHARE", 0.0)
    monkeypatch.setattr(blocks, "ROW_BUFFER", 1000)
    monkeypatch.setattr(blocks, "PACK_VALUES", 1000)
    stats = make_stats([10] * 500, num_items=1000)
    plan = plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=1, num_blocks=2)
    dense_bytes = len(plan.hot_items) * 1000 * COSTS.per_hot_item
    assert 0 < dense_bytes <= 2**20 / 4
    assert set(plan.hot_items) == set(np.argsort(-stats.costs, kind="stable")[: len(plan.hot_items)])


def test_cores_decide_where_memory_is_plenty():
    stats = make_stats([10] * 100)
    assert plan_blocks(stats, COSTS, num_cores=8, task_memory_mb=512).num_blocks == 1  # too little work to split
    stats.costs *= 10**6
    assert plan_blocks(stats, COSTS, num_cores=8, task_memory_mb=512).num_blocks == 24


def test_memory_decides_where_units_do_not_fit():
    """Ten million units of ten distinct items: 400 MB of items alone, 40 GB of pairs."""
    num_items = 100_000
    per_item = 10_000_000 * 10 // num_items
    counts = np.full(num_items, per_item, np.int64)
    lengths = np.zeros(11, np.int64)
    lengths[10] = 10_000_000
    stats = UnitStats(counts, counts * 10, lengths, 10_000_000, 100_000_000, longest=10)
    small = plan_blocks(stats, COSTS, num_cores=1, task_memory_mb=512)
    large = plan_blocks(stats, COSTS, num_cores=1, task_memory_mb=2048)
    assert small.num_blocks > large.num_blocks >= 3
    assert small.task_bytes <= 512 * 2**20
    assert large.task_bytes <= 2048 * 2**20


@pytest.mark.parametrize("num_blocks", [1, 3, 10])
def test_shuffle_bytes_are_those_of_random_blocks(num_blocks):
    """Against a simulation: each unit goes to the distinct blocks of its items."""
    random = np.random.default_rng(3)
    lengths = random.integers(2, 15, 3000)
    stats = make_stats(lengths.tolist())
    copies = [len(set(random.integers(0, num_blocks, n))) for n in lengths]
    simulated = sum(k * (n * COSTS.per_event + COSTS.per_unit) for k, n in zip(copies, lengths, strict=True))
    assert expected_shuffle_bytes(stats, COSTS, num_blocks) == pytest.approx(simulated, rel=0.02)


def test_too_many_items_for_a_task_are_refused_with_advice():
    many = np.zeros(10_000_000, np.int64)
    stats = UnitStats(many, many, np.zeros(3, np.int64), 1, 2, longest=2)
    with pytest.raises(
        DataError, match=r"task_memory_mb is 256, but dense rows over 10,000,000 items take .* at least"
    ):
        plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=256)


def test_a_block_that_cannot_fit_is_refused_with_advice():
    stats = make_stats([10] * 2000)
    stats.lengths *= 10_000
    stats.costs *= 10_000
    with pytest.raises(DataError, match=r"with 1 blocks one task may hold .* raise graph.num_blocks"):
        plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=64, num_blocks=1)
    assert plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=256).num_blocks > 1


def test_one_unit_of_a_million_events_is_refused_with_advice():
    lengths = np.zeros(1_000_001, np.int64)
    lengths[1_000_000] = 1
    costs = np.full(1_000_000, 1_000_000, np.int64)
    stats = UnitStats(np.ones_like(costs), costs, lengths, 1, 1_000_000, longest=1_000_000)
    with pytest.raises(DataError, match=r"longest unit 1,000,000 events.* or lower graph.max_session_items"):
        plan_blocks(stats, COSTS, num_cores=200, task_memory_mb=512)


def test_no_items_with_pairs_still_make_a_plan():
    stats = UnitStats(np.zeros(5, np.int64), np.zeros(5, np.int64), np.zeros(0, np.int64))
    plan = plan_blocks(stats, COSTS, num_cores=2, task_memory_mb=512)
    assert plan.num_blocks == 1
    assert plan.block_of.tolist() == [0] * 5
