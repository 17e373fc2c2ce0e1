import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recspark.config.schema import WalksConfig
from recspark.errors import DataError
from recspark.graph.csr import Csr
from recspark.walks.pieces import Piece, plan_pieces
from recspark.walks.plan import ROUND_SECONDS, Mode, bias_of, choose_mode, measure_graph, plan_walks
from recspark.walks.starts import Degrees, cut_part, find_starts, name_walks, part_of
from recspark.walks.walk_graph import build_walk_graph
from tests.helpers.walks import ring_with_chords

DIRECTED = Csr(np.array([0, 2, 3, 3, 3]), np.array([1, 2, 0], np.int32), np.ones(3, np.float32))


REPLICATED = Mode("replicated", "walks.mode says so", 1)


def plan_of(graph, cores=4, mode=REPLICATED, **knobs):
    config = WalksConfig.model_validate(knobs)
    return plan_walks(measure_graph(graph, bias_of(config), config.weighted), config, mode, cores)


def test_sizes_add_up():
    plan = plan_of(ring_with_chords(), p=0.5, num_walks=5, walk_length=7, num_epochs=2)
    assert (plan.size.num_nodes, plan.size.num_edges, plan.isolated, plan.size.has_dead_ends) == (40, 160, 0, False)
    assert (plan.total_walks, plan.max_steps) == (400, 2400)
    graph = build_walk_graph(ring_with_chords(), bias_of(WalksConfig(p=0.5)))
    assert plan.size.num_bytes == sum(a.nbytes for a in graph)


def test_isolated_nodes_and_dead_ends_of_a_directed_graph():
    plan = plan_of(DIRECTED, num_walks=1)
    assert (plan.isolated, plan.total_walks, plan.size.has_dead_ends) == (2, 2, True)
    assert sorted(find_starts(DIRECTED.indptr).nodes) == [0, 1]


@pytest.mark.parametrize(
    ("knobs", "cores", "chunks", "tasks"),
    [
        ({"num_walks": 1}, 4, 1, 1),  # 800 nodes: one kernel call
        ({"num_walks": 10_000}, 4, 8, 4),  # 8 M nodes
        ({"num_walks": 1_000_000, "chunk_tokens": 800_000_000}, 2, 800, 4),  # 800 M nodes: a file holds 200 M
        ({"num_walks": 1_000_000}, 2, 200, 2),  # in 4 parts
    ],
)
def test_chunks_and_tasks(knobs, cores, chunks, tasks):
    assert plan_of(ring_with_chords(), cores, **knobs).cut(1) == (chunks, tasks)


def test_pieces_cover_each_unit_once_and_leave_out_what_is_done():
    assert plan_pieces(3, 100, 250) == [Piece((0, 1), 0, 1), Piece((2,), 0, 1)]
    assert plan_pieces(3, 100, 250, {1}) == [Piece((0, 2), 0, 1)]
    pieces = plan_pieces(2, 250, 100, {0, 4})
    assert [p.units for p in pieces] == [(1,), (2,), (3,), (5,)]
    assert pieces[-1] == Piece((1,), 2, 3)


def test_more_cores_take_less_time_and_second_order_more():
    slow, fast = (plan_of(ring_with_chords(), cores, num_walks=100_000).estimated_seconds for cores in (1, 4))
    assert slow == pytest.approx(4 * fast)
    assert plan_of(ring_with_chords(), 4, num_walks=100_000, p=0.5).estimated_seconds > fast


def test_rounds_cost_time_before_anyone_walks():
    sharded = Mode("sharded", "why", 8)
    one, two = (plan_of(ring_with_chords(), mode=sharded, num_walks=1, num_epochs=n, chunk_tokens=800) for n in (1, 2))
    assert one.estimated_seconds == pytest.approx(19 * ROUND_SECONDS, rel=0.01)
    assert two.estimated_seconds == pytest.approx(2 * one.estimated_seconds)


def test_facts_name_what_the_log_shows():
    facts = plan_of(ring_with_chords()).facts()
    assert facts["mode"] == "replicated"
    assert facts["why"] == "walks.mode says so"
    assert {"nodes", "edges", "graph_bytes", "steps", "shards", "estimated_seconds"} <= facts.keys()


@pytest.mark.parametrize(
    ("knobs", "edges", "free", "mode", "shards", "why"),
    [
        ({}, 1000, 1 << 30, "replicated", 1, "at most 0.2 MiB of 512.0 MiB (half of the free memory)"),
        ({}, 10**9, 1 << 30, "sharded", 187, "may take 186.3 GiB, half of the free memory is 512.0 MiB"),
        (
            {"symmetrize": False, "graph_memory_mb": 100},
            10**7,
            1 << 40,
            "sharded",
            10,
            "walks.graph_memory_mb is 100.0",
        ),
        ({"mode": "sharded", "num_shards": 5}, 1000, 1 << 40, "sharded", 5, "walks.mode says so"),
        ({"mode": "sharded"}, 1000, 1 << 40, "sharded", 4, "walks.mode says so"),
        ({"mode": "replicated"}, 10**12, 1 << 30, "replicated", 1, "walks.mode says so"),
    ],
)
def test_the_mode_hangs_on_memory_and_says_why(knobs, edges, free, mode, shards, why):
    found = choose_mode(WalksConfig.model_validate(knobs), edges, 4, free)
    assert (found.name, found.num_shards) == (mode, shards)
    assert why in found.why


def test_a_graph_without_edges_is_refused():
    empty = Csr(np.zeros(6, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    with pytest.raises(DataError, match=r"item_graph: none of its 5 items has a neighbour.*lower graph.min_support"):
        plan_of(empty)


def test_starts_are_mixed():
    starts = find_starts(ring_with_chords(1000).indptr).nodes
    np.testing.assert_array_equal(np.sort(starts), np.arange(1000))
    assert abs(np.corrcoef(starts, np.arange(1000))[0, 1]) < 0.1
    assert (np.diff(part_of(starts, 7)) >= 0).all()


DEGREES = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any)


@given(degrees=DEGREES, num_walks=st.integers(1, 12), num_parts=st.integers(1, 5), cut=st.integers(0, 30))
def test_walks_by_degree_keep_the_total_whatever_the_shards(degrees, num_walks, num_parts, cut):
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    of_all = Degrees(np.count_nonzero(degrees), int(indptr[-1]))
    whole = find_starts(indptr, num_walks=num_walks, by_degree=of_all)
    assert whole.counts.sum() == of_all.num_starts * num_walks
    ideal = np.array(degrees)[whole.nodes] * of_all.num_starts * num_walks / of_all.num_edges
    assert (np.abs(whole.counts - ideal) < 1).all()
    cut = min(cut, len(degrees))
    shards = [(indptr[: cut + 1], 0), (indptr[cut:] - indptr[cut], cut)]
    of_shards = {}
    for rows, first in shards:
        mine = find_starts(rows, first=first, num_walks=num_walks,
                           by_degree=of_all._replace(edges_before=int(indptr[first])))  # fmt: skip
        of_shards |= dict(zip(mine.nodes.tolist(), mine.counts.tolist(), strict=True))
    assert of_shards == dict(zip(whole.nodes.tolist(), whole.counts.tolist(), strict=True))
    names = []
    for part in range(num_parts):
        mine = cut_part(whole, part, num_parts)
        if len(mine.nodes):
            nodes, numbers = name_walks(mine, np.arange(mine.counts.sum()))
            names += list(zip(nodes.tolist(), numbers.tolist(), strict=True))
    expected = [(n, i) for n, count in zip(whole.nodes.tolist(), whole.counts, strict=True) for i in range(count)]
    assert sorted(names) == sorted(expected)
