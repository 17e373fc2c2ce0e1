"""Kept sums without Spark: days added and taken away in any order against the full build, bit by bit."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.config.graph import GraphConfig
from recspark.errors import DataError, LakeError
from recspark.graph import blocks, pair_sums, shuffle, stats
from recspark.graph.kernel import PLAIN
from recspark.graph.pair_sums import SUMS_SCHEMA, ScorePlan, merge_sums, reduce_to_sums, score_sums
from recspark.graph.pairs import DAILY_SHIFT, pair_weights, unit_shape
from recspark.graph.scores import score_counts, score_rule
from tests.helpers.graph_oracle import assert_same_graph, build_graph, random_units, rows_of
from tests.unit.test_graph_cooccurrence import NUM_ITEMS, make_batches, run

SCORES = ("count", "cosine", "jaccard", "lift", "ppmi", "llr")
WEIGHTS = {
    "plain": {"length_power": 0},
    "length": {},
    "all": {"use_event_weights": True, "distance_decay": 0.8, "window": 4, "max_session_items": 8},
}
NUM_DAYS = 6


def make_config(weights, score, **more):
    return GraphConfig.model_validate(
        {"incremental": True, "num_neighbours": 6, "min_support": 2, "score": score, **WEIGHTS[weights], **more}
    )


def make_days(seed=3):
    """Units by day; some items are in one day only."""
    days = [random_units(seed * 100 + n, num_units=40) for n in range(NUM_DAYS)]
    days[2].append(random_units(1, num_units=1)[0])
    days[2][-1].items, days[2][-1].weights = [38, 39, 37], [1.0, 2.0, 1.0]
    return days


def weights_of(some_units, config):
    counted = stats.count_partition(make_batches(some_units), unit_shape(config), NUM_ITEMS)
    max_weight = counted.max_item_weight if config.use_event_weights else 1.0
    return pair_weights(config, counted.num_units, counted.longest, max_weight, 0), counted


def sums_of(some_units, config, num_blocks=3):
    """Rows of sums of these units, as Spark's tasks make them."""
    weights, counted = weights_of(some_units, config)
    costs = blocks.byte_costs(unit_shape(config).ordered, weights.rule.mode != PLAIN, config.use_event_weights)
    plan = blocks.plan_blocks(counted, costs, num_cores=2, task_memory_mb=512, num_blocks=num_blocks)
    scores = score_rule(config, *score_counts(config, counted), np.zeros(NUM_ITEMS))
    graph_plan = shuffle.GraphPlan(unit_shape(config), weights, plan, scores)
    half = len(some_units) // 2
    packed = [
        b for p in (some_units[:half], some_units[half:]) for b in shuffle.pack_batches(make_batches(p), graph_plan)
    ]
    rows = pa.Table.from_batches(packed)
    parts = [rows.filter(pa.compute.equal(rows["block"], task)).combine_chunks() for task in range(plan.num_tasks)]
    found = [b for part in parts for b in reduce_to_sums(part.to_batches(), graph_plan)]
    held = np.flatnonzero(counted.unit_counts)
    nothing = [[]] * len(held)
    values = [
        held.astype(np.int32),
        counted.unit_counts[held],
        np.zeros(len(held), np.int64),
        nothing,
        nothing,
        nothing,
    ]
    counts = pa.Table.from_arrays(
        [pa.array(v, f.type) for v, f in zip(values, SUMS_SCHEMA, strict=True)], schema=SUMS_SCHEMA
    )
    return pa.concat_tables([counts, pa.Table.from_batches(found, SUMS_SCHEMA).cast(SUMS_SCHEMA)])


def negate(sums):
    lists = {name: [[-v for v in row] for row in sums[name].to_pylist()] for name in ("sum", "count")}
    for name, values in {"num_units": [-n for n in sums["num_units"].to_pylist()], **lists}.items():
        place = SUMS_SCHEMA.get_field_index(name)
        sums = sums.set_column(place, SUMS_SCHEMA.field(name), pa.array(values, SUMS_SCHEMA.field(name).type))
    return sums


def add(*parts):
    rows = pa.concat_tables(parts).sort_by("src_idx").combine_chunks()
    merged = pa.Table.from_batches(list(merge_sums(rows.to_batches(max_chunksize=7))), SUMS_SCHEMA)
    return merged.filter(pa.compute.greater(merged["num_units"], 0))


def score(sums, some_units, config):
    """Rows of `item_graph` from sums alone; ``some_units`` only say how many there are."""
    rule = weights_of(some_units, config)[0].rule
    items = sums["src_idx"].to_numpy()
    counts, row_sums = np.zeros(NUM_ITEMS, np.int64), np.zeros(NUM_ITEMS, np.int64)
    counts[items], row_sums[items] = sums["num_units"].to_numpy(), sums["row_sum"].to_numpy()
    scores = score_rule(config, counts, sum(bool(u.items) for u in some_units), row_sums / rule.scale)
    return rows_of(list(score_sums(sums.to_batches(), ScorePlan(rule, scores, NUM_ITEMS))))


@pytest.mark.parametrize("score_name", SCORES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_any_sequence_of_days_equals_the_full_build(weights, score_name, monkeypatch):
    """Row for row and bit by bit; after each step, against the build of just the days that are in."""
    if score_name == "jaccard" and weights == "all":
        pytest.skip("jaccard takes no event weights")
    monkeypatch.setattr(blocks, "HOT_SHARE", 1 / 7)
    monkeypatch.setattr(pair_sums, "MERGE_PAIRS", 200)
    config, days = make_config(weights, score_name), make_days()
    sums_by_day = [sums_of(day, config) for day in days]
    random = np.random.default_rng(7)
    present = {2}
    sums = add(sums_by_day[2])
    for _ in range(8):
        day = int(random.integers(NUM_DAYS))
        is_leaving = day in present and len(present) > 1
        sums = (
            add(sums, negate(sums_by_day[day]) if is_leaving else sums_by_day[day])
            if day not in present or is_leaving
            else sums
        )
        present = present - {day} if is_leaving else present | {day}
        held = [unit for n in sorted(present) for unit in days[n]]
        full = run(held, config, num_partitions=2, num_blocks=2)[0]
        assert score(sums, held, config) == full
    assert_same_graph(full, build_graph(held, config), rtol=1e-5)


def test_what_is_taken_away_leaves_no_trace():
    config, days = make_config("all", "count"), make_days()
    before = add(*(sums_of(day, config) for day in days[:2]))
    after = add(add(before, sums_of(days[2], config)), negate(sums_of(days[2], config)))
    assert after == before
    assert 39 not in after["src_idx"].to_pylist()
    assert before["row_sum"].to_pylist() == [sum(row) for row in before["sum"].to_pylist()]


def test_taking_away_more_than_was_added_is_refused():
    config, days = make_config("length", "count"), make_days()
    with pytest.raises(LakeError, match="item_pair_sums: more would be taken away than was added"):
        add(sums_of(days[0], config), negate(sums_of(days[1], config)))


def test_the_fixed_point_is_the_same_for_all_days():
    config = make_config("length", "count")
    assert {pair_weights(config, n, 50, 1.0, 0).rule.scale for n in (1, 10**6)} == {2.0**DAILY_SHIFT}
    with pytest.raises(DataError, match=r"graph.incremental: .* need more than 63 bits; raise graph.length_power"):
        pair_weights(config, 10**10, 50, 1.0, 0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"group": "user"}, "a history grows by the day"),
        ({"half_life_days": 3}, "every weight changes with the newest day"),
        ({"support": "user"}, "a user's days overlap"),
        ({"max_user_events": 3}, "a new day cuts old ones"),
    ],
)
def test_what_cannot_be_added_by_days_is_refused(settings, reason):
    with pytest.raises(ValueError, match=f"incremental does not go with .*{reason}.* or turn it off"):
        GraphConfig.model_validate({"incremental": True, **settings})
