"""The peer of `cooccurrence_spark` against the stage, and what a piece of work on Spark cost."""

import pytest
from deltalake import DeltaTable

from benchmarks.graph_rows import compare_rows, rows_from_table
from benchmarks.session_data import make_sessions
from benchmarks.spark_cost import folder_bytes, measure
from benchmarks.spark_join import PEERS, build_graph, read_units
from benchmarks.spark_lakes import plan_lake, write_sessions
from recspark.graph.job import build_graph as build_graph_stage
from recspark.lake.arrow import find_table, table_uri
from recspark.lake.spark import read_table

pytestmark = pytest.mark.spark
CAPPED = {"graph": {"num_neighbours": 5, "max_session_items": 12}}


def test_both_ways_to_write_the_peer_find_what_the_stage_finds(spark, tmp_path):
    run = plan_lake(str(tmp_path), CAPPED)
    write_sessions(spark, run, make_sessions(300, 40))
    build_graph_stage(spark, run)
    ours = rows_from_table(DeltaTable(table_uri(run.lake, "item_graph")).to_pyarrow_table())
    units = read_units(read_table(spark, find_table(run.lake, run.stages["sessions"], "sessions")), run.config.graph)
    for pairs in PEERS.values():
        theirs = rows_from_table(build_graph(units, pairs(units), 5).toArrow())
        found = compare_rows(ours, theirs)
        assert (found["rows"], found["neighbours"]) == (40, 200)


def test_work_is_measured_with_what_it_shuffled(spark, tmp_path):
    without = measure(spark, lambda: spark.range(1000).write.parquet(str(tmp_path / "a")))
    with_shuffle = measure(spark, lambda: spark.range(1000).repartition(2, "id").write.parquet(str(tmp_path / "b")))
    assert without["shuffle_bytes"] == 0
    assert with_shuffle["shuffle_bytes"] > 1000
    assert min(without["wall"], without["cpu"]) > 0
    assert folder_bytes(str(tmp_path / "a")) > 1000
    assert folder_bytes(str(tmp_path / "none")) == 0
