"""The one-shuffle plan on Spark against brute force, for several numbers of partitions and blocks."""

import pyarrow as pa
import pytest

from recspark.config.graph import GraphConfig
from recspark.contracts.tables import ITEM_GRAPH
from recspark.graph import blocks
from recspark.graph.cooccurrence import build_edges, count_units, plan_graph, plan_work
from recspark.graph.pairs import unit_shape
from recspark.lake.spark import spark_schema
from tests.helpers.graph_oracle import assert_same_graph, build_graph, random_units, rows_of

pytestmark = pytest.mark.spark
NUM_ITEMS = 40
COLD, HOT = 1e9, 1 / 7
CONFIGS = {
    "default": {},
    "ppmi": {"score": "ppmi", "length_power": 0},
    "llr": {"score": "llr", "window": 3},
    "lift": {"score": "lift"},
    "by_user": {"support": "user", "min_support": 2, "score": "llr"},
    "all_weights": {"half_life_days": 20, "use_event_weights": True, "distance_decay": 0.8, "window": 4},
}


def units_frame(spark, some_units, config, num_partitions):
    shape = unit_shape(config)
    columns = {"item_idx": pa.array([u.items for u in some_units], pa.list_(pa.int32()))}
    if shape.use_event_weights:
        columns["weight"] = pa.array([u.weights for u in some_units], pa.list_(pa.float32()))
    if shape.use_times:
        columns["time_us"] = pa.array([u.time_us for u in some_units], pa.int64())
    if shape.by_user:
        columns["user_idx"] = pa.array([u.user for u in some_units], pa.int32())
        by_user = spark.createDataFrame(pa.table(columns)).repartition(num_partitions, "user_idx")
        return by_user.sortWithinPartitions("user_idx")
    return spark.createDataFrame(pa.table(columns)).repartition(num_partitions)


def build_on_spark(spark, some_units, config, num_partitions):
    units = units_frame(spark, some_units, config, num_partitions)
    stats = count_units(units, unit_shape(config), NUM_ITEMS)
    plan = plan_graph(units, stats, config, plan_work(units, stats, config))
    return build_edges(units, plan), plan


@pytest.mark.parametrize(
    ("name", "number", "hot_share"),
    [
        ("default", 1, COLD),
        ("default", 2, COLD),
        ("default", 7, HOT),
        ("all_weights", 2, HOT),
        ("ppmi", 3, HOT),
        ("llr", 2, HOT),
        ("lift", 2, HOT),
        ("by_user", 3, HOT),
    ],
)
def test_the_graph_equals_brute_force(spark, monkeypatch, name, number, hot_share):
    """As many partitions as blocks; every case, kind and number also runs without Spark in tests/unit."""
    monkeypatch.setattr(blocks, "HOT_SHARE", hot_share)
    some_units = random_units(seed=21)
    config = GraphConfig.model_validate({"num_neighbours": 7, "num_blocks": number, **CONFIGS[name]})
    edges, plan = build_on_spark(spark, some_units, config, number)
    assert bool(len(plan.blocks.hot_items)) == (hot_share == HOT)
    assert_same_graph(rows_of(edges.toArrow()), build_graph(some_units, config))


def test_each_block_is_a_task_of_its_own(spark):
    config = GraphConfig(num_blocks=5)
    edges, plan = build_on_spark(spark, random_units(seed=22), config, 3)
    assert edges.schema == spark_schema(ITEM_GRAPH)
    rows = edges.selectExpr("src_idx", "spark_partition_id() as task").toArrow().to_pylist()
    assert {r["src_idx"] for r in rows} == set(range(39))
    assert plan.blocks.hot_items.tolist() == [0]
    for row in rows:
        assert row["task"] == (plan.blocks.block_of[row["src_idx"]] if row["src_idx"] else 5)


def test_nothing_in_gives_counts_of_nothing(spark):
    config = GraphConfig()
    empty = units_frame(spark, random_units(seed=23), config, 2).where("false")
    stats = count_units(empty, unit_shape(config), NUM_ITEMS)
    assert (stats.num_units, stats.num_events, stats.num_pairs, stats.pair_cost) == (0, 0, 0, 0)
    assert len(stats.unit_counts) == NUM_ITEMS
