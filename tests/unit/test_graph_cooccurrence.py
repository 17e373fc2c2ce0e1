"""The whole plan without Spark: count, merge, plan, pack, a shuffle by hand, reduce; against brute force and scipy."""

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from recspark.config.graph import GraphConfig
from recspark.graph import blocks, shuffle, stats, units
from recspark.graph.kernel import PLAIN
from recspark.graph.pairs import pair_weights, unit_shape
from recspark.graph.scores import score_counts, score_rule
from tests.helpers.graph_oracle import assert_same_graph, build_graph, count_pairs, random_units, rows_of

NUM_ITEMS = 40
WEIGHTS = {
    "plain": {"length_power": 0},
    "length": {"length_power": 0.5},
    "recency": {"length_power": 0.5, "half_life_days": 7},
    "events": {"length_power": 0, "use_event_weights": True},
    "window": {"length_power": 0, "window": 2},
    "decay": {"length_power": 1, "distance_decay": 0.7},
    "all": {"length_power": 0.5, "half_life_days": 20, "use_event_weights": True, "distance_decay": 0.8, "window": 4},
}
SCORES = {
    "count": {"score": "count"},
    "cosine": {"score": "cosine"},
    "asymmetric": {"score": "cosine", "source_exponent": 0.75, "candidate_exponent": 0.3},
    "jaccard": {"score": "jaccard"},
    "lift": {"score": "lift"},
    "llr": {"score": "llr"},
    "ppmi": {"score": "ppmi"},
    "shifted": {"score": "ppmi", "ppmi_shift": 1.5, "ppmi_smoothing": 1.0},
}


def make_batches(some_units, batch_size=30):
    """Arrow batches as Spark hands them to a worker."""
    batches = []
    for start in range(0, len(some_units), batch_size):
        part = some_units[start : start + batch_size]
        columns = {
            "item_idx": pa.array([u.items for u in part], pa.list_(pa.int32())),
            "weight": pa.array([u.weights for u in part], pa.list_(pa.float32())),
            "time_us": pa.array([u.time_us for u in part], pa.int64()),
            "user_idx": pa.array([u.user for u in part], pa.int32()),
        }
        batches.append(pa.RecordBatch.from_pydict(columns))
    return batches


def split(some_units, num_partitions, by_user=False):
    """Partitions of uneven size; of several, one is empty. By user: all units of one follow each other."""
    number = max(1, num_partitions - 1)
    if by_user:
        parts = [sorted((u for u in some_units if u.user % number == n), key=lambda u: u.user) for n in range(number)]
    else:
        parts = [some_units[n::number] for n in range(number)]
    return [make_batches(p) for p in parts] + [[]] * (num_partitions > 1)


def merge(partials, num_items, num_values):
    """What Spark does between the partial rows and the driver."""
    rows = pa.Table.from_batches([b for p in partials for b in p], schema=stats._ARROW_SCHEMA)
    parts = [rows.filter(pa.compute.equal(rows["part"], n)).to_batches() for n in range(stats.num_parts(num_items))]
    merged = [b for p in parts for b in stats.merge_batches(p, num_items, num_values)]
    return pa.Table.from_batches(merged, schema=stats._ARROW_SCHEMA)


def run(some_units, config, num_items=NUM_ITEMS, num_partitions=1, num_blocks=1):
    """Rows of the graph, and the plan they were made by."""
    shape = unit_shape(config)
    partitions = split(some_units, num_partitions, shape.by_user)
    partials = [stats.count_batches(p, shape, num_items) for p in partitions]
    counted = stats.read_stats(merge(partials, num_items, stats.num_values(shape)), shape, num_items)
    max_weight = counted.max_item_weight if config.use_event_weights else 1.0
    weights = pair_weights(config, counted.num_units, counted.longest, max_weight, counted.newest_us)
    costs = blocks.byte_costs(shape.ordered, weights.rule.mode != PLAIN, shape.use_event_weights, shape.by_user)
    plan = blocks.plan_blocks(counted, costs, num_cores=2, task_memory_mb=512, num_blocks=num_blocks)
    row_sums = None
    if config.score == "ppmi":
        partial = [stats.sum_batches(p, shape, weights, num_items) for p in partitions]
        row_sums = stats.read_sums(merge(partial, num_items, 1), num_items, 1)[0][0] / weights.rule.scale
    graph_plan = shuffle.GraphPlan(shape, weights, plan, score_rule(config, *score_counts(config, counted), row_sums))
    graph_plan = pickle.loads(pickle.dumps(graph_plan))  # as broadcast
    packed = [b for p in partitions for b in shuffle.pack_batches(p, graph_plan)]
    rows = pa.Table.from_batches(packed, schema=packed[0].schema)
    reduced = []
    for task in range(plan.num_tasks + 1):
        mine = rows.filter(pa.compute.equal(rows["block"], task)).combine_chunks().to_batches()
        reduced += list(shuffle.reduce_batches(mine, graph_plan))
    return rows_of(reduced), graph_plan


@pytest.fixture(params=["cold", "hot"])
def hot_share(request, monkeypatch):
    """With no hot items, and with every item above the mean of a seventh of a block."""
    monkeypatch.setattr(blocks, "HOT_SHARE", 1e9 if request.param == "cold" else 1 / 7)
    return request.param


def is_refused(weights, score):
    return score == "jaccard" and WEIGHTS[weights].get("use_event_weights", False)


@pytest.mark.parametrize(("weights", "score"), [(w, s) for w in WEIGHTS for s in SCORES if not is_refused(w, s)])
def test_the_graph_equals_brute_force(weights, score, hot_share):
    config = GraphConfig.model_validate({"num_neighbours": 7, **WEIGHTS[weights], **SCORES[score]})
    some_units = random_units(seed=5)
    expected = build_graph(some_units, config)
    for number in (1, 2, 7):
        found, plan = run(some_units, config, num_partitions=number, num_blocks=number)
        assert_same_graph(found, expected)
        assert bool(len(plan.blocks.hot_items)) == (hot_share == "hot" and number > 1)


@pytest.mark.parametrize("weights", ["plain", "length", "window", "all"])
@pytest.mark.parametrize("score", ["cosine", "llr"])
def test_support_by_user_equals_brute_force(weights, score, hot_share, monkeypatch):
    """Small batches: a user's sessions arrive in several, and at a block in the order of tasks."""
    monkeypatch.setattr(units, "BATCH_EVENTS", 40)
    settings = {"num_neighbours": 7, "min_support": 3, "support": "user", **WEIGHTS[weights], **SCORES[score]}
    config = GraphConfig.model_validate(settings)
    some_units = random_units(seed=5)
    expected = build_graph(some_units, config)
    assert expected != build_graph(some_units, GraphConfig.model_validate(settings | {"support": "unit"}))
    for number in (1, 2, 7):
        assert_same_graph(run(some_units, config, num_partitions=number, num_blocks=number)[0], expected)


@pytest.mark.parametrize("weights", ["length", "all"])
def test_any_partitioning_gives_the_same_bits(weights):
    config = GraphConfig.model_validate({"num_neighbours": 9, **WEIGHTS[weights]})
    some_units = random_units(seed=6)
    shuffled = [some_units[n] for n in np.random.default_rng(1).permutation(len(some_units))]
    first = run(some_units, config)[0]
    assert first == run(shuffled, config, num_partitions=5, num_blocks=3)[0]


def test_pruning_keeps_the_first_of_the_whole_row():
    some_units = random_units(seed=7)
    whole = run(some_units, GraphConfig(num_neighbours=None))[0]
    assert_same_graph(whole, build_graph(some_units, GraphConfig(num_neighbours=None)))
    assert max(len(r) for r in whole.values()) > 5
    cut = run(some_units, GraphConfig(num_neighbours=5))[0]
    assert cut == {i: row[:5] for i, row in whole.items()}


@pytest.mark.parametrize(
    "settings", [{"min_support": 4}, {"max_session_items": 3}, {"max_session_items": 3, "window": 1}]
)
def test_support_and_caps_equal_brute_force(settings):
    config = GraphConfig.model_validate({"num_neighbours": None, **settings})
    some_units = random_units(seed=8)
    assert_same_graph(run(some_units, config, num_partitions=2, num_blocks=2)[0], build_graph(some_units, config))


def test_what_the_cap_cuts_is_counted():
    some_units = random_units(seed=8)
    counted = stats.count_partition(make_batches(some_units), unit_shape(GraphConfig(max_session_items=3)), NUM_ITEMS)
    lengths = [len(u.items) for u in some_units]
    assert counted.num_units == len(some_units)
    assert counted.num_events == sum(lengths)
    assert counted.capped_units == sum(n > 3 for n in lengths)
    assert counted.capped_events == sum(max(n - 3, 0) for n in lengths)
    assert counted.longest == 3
    assert counted.largest == sorted(lengths, reverse=True)[:5]
    partials = [stats.count_batches(part, unit_shape(GraphConfig()), NUM_ITEMS) for part in split(some_units, 4)]
    assert (
        stats.read_stats(merge(partials, NUM_ITEMS, 2), unit_shape(GraphConfig()), NUM_ITEMS).largest == counted.largest
    )


@pytest.mark.parametrize("use_event_weights", [False, True])
def test_the_graph_equals_scipy(use_event_weights):
    """Weighted X.T @ X over 1,500 units: every count, and the sums to seven digits."""
    config = GraphConfig(score="count", num_neighbours=None, length_power=0.5, use_event_weights=use_event_weights)
    some_units = random_units(seed=9, num_units=1500, num_items=200, longest=20)
    rows = [
        (n, i, w if use_event_weights else 1.0)
        for n, u in enumerate(some_units)
        for i, w in zip(u.items, u.weights, strict=True)
    ]
    where = (np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))
    X = sp.csr_matrix((np.array([r[2] for r in rows]), where), shape=(1500, 200))
    ones = (X > 0).astype(np.float64)
    X = X if use_event_weights else ones
    length_weights = sp.diags(np.asarray(ones.sum(axis=1)).ravel() ** -0.5)
    sums, supports = (X.T @ length_weights @ X).toarray(), (ones.T @ ones).toarray()
    found, _ = run(some_units, config, num_items=200, num_partitions=3, num_blocks=4)
    for i in range(200):
        row = {dst: (score, count) for dst, score, count in found.get(i, [])}
        expected = {j: (sums[i, j], supports[i, j]) for j in np.flatnonzero(supports[i]) if j != i}
        assert sorted(row) == sorted(expected)
        np.testing.assert_allclose([row[j][0] for j in sorted(row)], [expected[j][0] for j in sorted(row)], rtol=1e-6)
        assert [row[j][1] for j in sorted(row)] == [expected[j][1] for j in sorted(row)]


def test_the_plain_cosine_is_the_textbooks():
    some_units = random_units(seed=10, repeats=False)
    found, _ = run(some_units, GraphConfig(length_power=0, num_neighbours=None))
    sets = [{n for n, u in enumerate(some_units) if i in u.items} for i in range(NUM_ITEMS)]
    for i, row in found.items():
        for j, score, count in row:
            assert count == len(sets[i] & sets[j])
            assert score == pytest.approx(count / (len(sets[i]) * len(sets[j])) ** 0.5, rel=1e-6)


def test_a_row_worked_by_hand():
    """[0, 1, 0, 2]: 0-1 and 0-2 are one apart, 1-2 two apart; three items, so 3^-1; decay .5."""
    config = GraphConfig(score="count", length_power=1, distance_decay=0.5)
    unit = random_units(seed=1, num_units=1)[0]
    unit.items, unit.weights = [0, 1, 0, 2], [1.0] * 4
    found, _ = run([unit], config, num_items=4)
    third = float(np.float32(1 / 3))
    sixth = float(np.float32(1 / 6))
    assert found == {
        0: [(1, third, 1), (2, third, 1)],
        1: [(0, third, 1), (2, sixth, 1)],
        2: [(0, third, 1), (1, sixth, 1)],
    }


def test_ties_go_to_the_smaller_item():
    unit = random_units(seed=1, num_units=1)[0]
    unit.items, unit.weights = [7, 3, 9, 1, 5], [1.0] * 5
    found, _ = run([unit], GraphConfig(num_neighbours=2), num_items=10)
    assert {i: [e[0] for e in row] for i, row in found.items()} == {
        1: [3, 5],
        3: [1, 5],
        5: [1, 3],
        7: [1, 3],
        9: [1, 3],
    }


def test_row_sums_add_up_to_the_pairs():
    config = GraphConfig(score="ppmi", use_event_weights=True, distance_decay=0.6, window=3)
    some_units = random_units(seed=11)
    shape = unit_shape(config)
    counted = stats.count_partition(make_batches(some_units), shape, NUM_ITEMS)
    weights = pair_weights(config, counted.num_units, counted.longest, counted.max_item_weight, 0)
    found = stats.sum_partition(make_batches(some_units), shape, weights, NUM_ITEMS) / weights.rule.scale
    sums, _, holders = count_pairs(some_units, config)
    expected = [sum(w for (i, _), w in sums.items() if i == item) for item in range(NUM_ITEMS)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert counted.unit_counts.tolist() == [holders[i] for i in range(NUM_ITEMS)]


def test_many_small_rows_come_in_several_batches(monkeypatch):
    """The row buffer fills and is emptied again and again; batches stay small."""
    monkeypatch.setattr(shuffle, "ROW_BUFFER", 50)
    monkeypatch.setattr(shuffle, "OUTPUT_ROWS", 3)
    monkeypatch.setattr(shuffle, "PACK_VALUES", 60)
    monkeypatch.setattr(units, "BATCH_EVENTS", 40)
    monkeypatch.setattr(stats, "ITEMS_A_PART", 16)
    config = GraphConfig(num_neighbours=10)
    some_units = random_units(seed=12)
    found, _ = run(some_units, config, num_partitions=3, num_blocks=3)
    assert_same_graph(found, build_graph(some_units, config))


def test_chunks_cover_all_units_and_keep_to_the_size():
    random = np.random.default_rng(2)
    lengths = random.integers(0, 30, 200)
    distinct = np.minimum(lengths, random.integers(1, 30, 200)).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    chunks = shuffle.cut_chunks(indptr, distinct, num_blocks=5)
    assert chunks == [(0, 200)]
    copies = lengths * np.minimum(distinct, 5)
    for size in (1, 100, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shuffle, "PACK_VALUES", size)
            chunks = shuffle.cut_chunks(indptr, distinct, num_blocks=5)
        assert [n for first, last in chunks for n in range(first, last)] == list(range(200))
        assert all(last - first == 1 or copies[first:last].sum() <= size for first, last in chunks)


def test_slices_and_empty_batches_are_read_right():
    whole = make_batches(random_units(seed=13), batch_size=1000)[0]
    shape = unit_shape(GraphConfig(use_event_weights=True))
    cut = [whole.slice(0, 0), whole.slice(0, 50), whole.slice(50, 1), whole.slice(51)]
    assert (
        vars(stats.count_partition(cut, shape, NUM_ITEMS)).keys()
        == vars(stats.count_partition([whole], shape, NUM_ITEMS)).keys()
    )
    for name, value in vars(stats.count_partition([whole], shape, NUM_ITEMS)).items():
        np.testing.assert_array_equal(getattr(stats.count_partition(cut, shape, NUM_ITEMS), name), value)


def test_bad_weights_are_counted():
    batch = make_batches(random_units(seed=14, num_units=1))[0]
    bad = pa.array([[1.0, float("nan"), -1.0, float("inf"), 0.0]], pa.list_(pa.float32()))
    items = pa.array([[1, 2, 3, 4, 5]], pa.list_(pa.int32()))
    batch = pa.RecordBatch.from_arrays([items, bad, *batch.columns[2:]], batch.schema.names)
    assert stats.count_partition([batch], unit_shape(GraphConfig(use_event_weights=True)), NUM_ITEMS).bad_weights == 3
    assert stats.count_partition([batch], unit_shape(GraphConfig()), NUM_ITEMS).bad_weights == 0


def test_a_block_holds_no_more_than_planned():
    """What really arrives at each block, against the bound that memory is planned by."""
    for seed, longest in ((16, 4), (17, 25)):
        some_units = random_units(seed, longest=longest)
        _, plan = run(some_units, GraphConfig(), num_blocks=5)
        counted = stats.count_partition(make_batches(some_units), plan.shape, NUM_ITEMS)
        costs = blocks.byte_costs(False, True, False)
        arrived = {}
        for batch in shuffle.pack_batches(make_batches(some_units), plan):
            for row in batch.to_pylist():
                num_events, num_units = len(row["items"]) // 4, len(row["lengths"]) // 4
                held = (
                    2 * (len(row["items"]) + len(row["lengths"]) + len(row["weights"]) + 8 * num_units) + 4 * num_events
                )
                arrived[row["block"]] = arrived.get(row["block"], 0) + held
        for block in range(plan.blocks.num_blocks):
            cost = int(counted.costs[plan.blocks.block_of == block].sum())
            assert 0 < arrived[block] <= blocks._held_bytes(cost, counted, costs)


COMPILE = """
from recspark.config.graph import GraphConfig
from recspark.graph import kernel, top_n
from recspark.graph.warm_up import compile_kernels
from tests.helpers.graph_oracle import random_units
from tests.unit.test_graph_cooccurrence import WEIGHTS, run

def signatures():
    kernels = vars(kernel) | vars(top_n)
    return {name: len(f.signatures) for name, f in kernels.items() if hasattr(f, "signatures")}

compile_kernels()
before = signatures()
for weights in WEIGHTS.values():
    run(random_units(seed=18), GraphConfig(score="ppmi", **weights), num_blocks=2)
    run(random_units(seed=18), GraphConfig(score="llr", support="user", **weights), num_blocks=2)
assert len(before) > 10, before
assert signatures() == before, (before, signatures())
"""


def test_the_driver_compiles_what_workers_need():
    """Every config uses the signatures that `compile_kernels` puts into the cache, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_an_empty_partition_yields_nothing():
    shape = unit_shape(GraphConfig())
    assert list(stats.count_batches([], shape, 3)) == []
    _, plan = run(random_units(seed=15), GraphConfig())
    assert list(shuffle.pack_batches([], plan)) == []
    assert list(shuffle.reduce_batches([], plan)) == []
