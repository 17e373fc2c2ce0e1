import numpy as np
import pytest

from recspark.config.schema import WalksConfig
from recspark.errors import DataError
from recspark.graph.csr import Csr
from recspark.walks.plan import find_starts, plan_walks
from recspark.walks.walk_graph import build_walk_graph, make_bias
from tests.helpers.walks import ring_with_chords

DIRECTED = Csr(np.array([0, 2, 3, 3, 3]), np.array([1, 2, 0], np.int32), np.ones(3, np.float32))


def plan_of(graph, cores=4, **knobs):
    config = WalksConfig.model_validate(knobs)
    return plan_walks(graph, config, make_bias(config.p, config.q), cores)


def test_sizes_add_up():
    plan = plan_of(ring_with_chords(), p=0.5, num_walks=5, walk_length=7, num_epochs=2)
    assert (plan.num_nodes, plan.num_edges, plan.isolated, plan.has_dead_ends) == (40, 160, 0, False)
    assert (plan.total_walks, plan.max_steps) == (400, 2400)
    graph = build_walk_graph(ring_with_chords(), make_bias(0.5, 1.0))
    assert plan.graph_bytes == sum(a.nbytes for a in graph)


def test_isolated_nodes_and_dead_ends_of_a_directed_graph():
    plan = plan_of(DIRECTED, num_walks=1)
    assert (plan.isolated, plan.total_walks, plan.has_dead_ends) == (2, 2, True)
    assert sorted(find_starts(DIRECTED)) == [0, 1]


@pytest.mark.parametrize(
    ("knobs", "cores", "chunks", "partitions"),
    [
        ({"num_walks": 1}, 4, 1, 1),  # 800 nodes: one kernel call
        ({"num_walks": 10_000}, 4, 8, 4),  # 8 M nodes
        ({"num_walks": 10_000, "num_epochs": 100}, 2, 800, 4),  # 800 M nodes: a file holds 200 M
    ],
)
def test_chunks_and_tasks(knobs, cores, chunks, partitions):
    plan = plan_of(ring_with_chords(), cores, **knobs)
    assert (plan.num_chunks, plan.num_partitions) == (chunks, partitions)


def test_more_cores_take_less_time_and_second_order_more():
    slow, fast = (plan_of(ring_with_chords(), cores, num_walks=100_000).estimated_seconds for cores in (1, 4))
    assert slow == pytest.approx(4 * fast)
    assert plan_of(ring_with_chords(), 4, num_walks=100_000, p=0.5).estimated_seconds > fast


def test_facts_name_what_the_log_shows():
    facts = plan_of(ring_with_chords(), mode="replicated").facts()
    assert facts["mode"] == "replicated"
    assert facts["why"] == "walks.mode says so"
    assert {"nodes", "edges", "graph_bytes", "steps", "estimated_seconds"} <= facts.keys()


def test_a_graph_without_edges_is_refused():
    empty = Csr(np.zeros(6, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    with pytest.raises(DataError, match=r"item_graph: none of its 5 items has a neighbour.*lower graph.min_support"):
        plan_of(empty)


def test_starts_are_mixed():
    starts = find_starts(ring_with_chords(1000))
    np.testing.assert_array_equal(np.sort(starts), np.arange(1000))
    assert abs(np.corrcoef(starts, np.arange(1000))[0, 1]) < 0.1
