"""Layout arithmetic without processes, and the table on one rank; many ranks are under tests/distributed."""

import itertools

import numpy as np
import pytest
import torch

from recspark.models import sharded_embedding
from recspark.models.sharded_embedding import RowLayout, ShardedEmbedding, find_route, plan_route
from recspark.training.optim import RowwiseAdagrad
from recspark.training.world import World


def test_positions_are_a_bijection_and_ranges_cover_them_once() -> None:
    for num_rows, world_size in itertools.product([1, 2, 3, 7, 12, 30, 97, 1000], [1, 2, 3, 4, 8]):
        layout = RowLayout(num_rows, world_size)
        ids = np.arange(num_rows)
        positions = layout.positions(ids)
        assert sorted(positions.tolist()) == ids.tolist()
        np.testing.assert_array_equal(layout.ids(positions), ids)
        covered = [position for rank in range(world_size) for position in layout.range_of(rank)]
        assert covered == ids.tolist()


def test_ranges_are_those_of_torch_chunk() -> None:
    for num_rows, world_size in itertools.product(range(1, 30), range(1, 6)):
        chunks = torch.arange(num_rows).chunk(world_size)
        sizes = [len(c) for c in chunks] + [0] * (world_size - len(chunks))
        assert [len(RowLayout(num_rows, world_size).range_of(r)) for r in range(world_size)] == sizes


def test_positions_do_not_overflow_with_two_billion_rows() -> None:
    layout = RowLayout(2**31 - 1, 4)
    ids = np.array([0, 1, 2**31 - 2])
    np.testing.assert_array_equal(layout.ids(layout.positions(ids)), ids)


def test_popular_rows_are_dealt_evenly() -> None:
    layout = RowLayout(10_000, 4)
    owners = layout.positions(np.arange(1000)) // layout.rows_per_rank
    assert np.bincount(owners, minlength=4).max() <= 260


def test_one_rank_looks_up_and_updates_what_a_plain_table_would() -> None:
    random = np.random.default_rng(0)
    plain = random.normal(size=(50, 3)).astype(np.float32)
    layout = RowLayout(50, 1)
    table = ShardedEmbedding(layout, 3, World(), initial_rows=lambda ids: plain[ids])
    ids = np.array([49, 0, 7])
    route = find_route(layout, plan_route(layout, ids), World())
    np.testing.assert_array_equal(table.lookup(route).numpy(), plain[ids])
    gradient = torch.from_numpy(random.normal(size=(3, 3)).astype(np.float32))
    table.apply_gradient(route, gradient.clone(), RowwiseAdagrad(0.1).update)
    expected, squares = torch.from_numpy(plain.copy()), torch.zeros(50)
    RowwiseAdagrad(0.1).update(expected, squares, torch.from_numpy(ids), gradient)
    everything = find_route(layout, plan_route(layout, np.arange(50)), World())
    torch.testing.assert_close(table.lookup(everything), expected, rtol=0, atol=0)


def test_a_plan_sorts_rows_by_owner_and_counts_them() -> None:
    layout, ids = RowLayout(50, 4), np.array([49, 0, 7, 31, 12])
    plan = plan_route(layout, ids)
    assert plan.order is not None
    assert plan.send_counts is not None
    np.testing.assert_array_equal(plan.positions, layout.positions(ids)[plan.order])
    owners = np.repeat(np.arange(4), plan.send_counts)
    assert all(place in layout.range_of(owner) for place, owner in zip(plan.positions, owners, strict=True))
    alone = plan_route(RowLayout(50, 1), ids)
    np.testing.assert_array_equal(alone.positions, RowLayout(50, 1).positions(ids))
    assert (alone.order, alone.send_counts) == (None, None)


def test_rows_left_out_of_initial_rows_start_at_zero() -> None:
    assert ShardedEmbedding(RowLayout(5, 1), 3, World()).weight.abs().sum() == 0


def test_on_meta_rows_are_counted_without_memory() -> None:
    def never(ids: np.ndarray) -> np.ndarray:
        raise AssertionError("values were made")

    table = ShardedEmbedding(RowLayout(10**9, 4), 128, World(world_size=4, device="meta"), never)
    assert table.weight.shape == (250_000_000, 128)
    assert table.squares.shape == (250_000_000,)


def test_rows_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_embedding, "_INIT_ROWS", 4)
    asked = []

    def initial_rows(ids: np.ndarray) -> np.ndarray:
        asked.append(len(ids))
        return np.repeat(ids[:, None], 2, axis=1).astype(np.float32)

    layout = RowLayout(11, 2)
    tables = [ShardedEmbedding(layout, 2, World(rank=rank, world_size=2), initial_rows) for rank in (0, 1)]
    assert asked == [4, 2, 4, 1]
    positions = torch.cat([table.weight[:, 0] for table in tables]).numpy()
    np.testing.assert_array_equal(positions, layout.ids(np.arange(11)))
