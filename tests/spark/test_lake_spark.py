"""Tables through Spark: contract held, versions found by key, readable by delta-rs, slices replaced."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import ITEM_EMBEDDINGS, ITEM_GRAPH, QUARANTINE, TABLES
from recspark.errors import LakeError
from recspark.lake import arrow
from recspark.lake.parts import PartWriter, commit_parts
from recspark.lake.spark import read_table, spark_schema, write_table

pytestmark = pytest.mark.spark


@pytest.fixture
def run(lake):
    config = {"split": {"kind": "time", "cut": "2026-01-01"}, "paths": {"lake": lake}}
    return plan_run(RunConfig.model_validate(config), {"fingerprint": "f00"})


def test_every_contract_has_a_spark_schema():
    for spec in TABLES.values():
        assert spark_schema(spec).fieldNames() == spec.schema.names


def test_write_by_spark_read_by_both(spark, run):
    rows = spark.createDataFrame([(0, [1, 2], [0.5, 0.25], [3, 1])], spark_schema(ITEM_GRAPH))
    assert write_table(rows, run.lake, ITEM_GRAPH, run.record("graph", is_marker=True)) == 0
    assert write_table(rows.limit(0), run.lake, ITEM_GRAPH, run.record("item_knn_graph", is_marker=True)) == 1
    table = arrow.find_table(run.lake, run.stages["graph"], "item_graph")
    assert table.version == 0
    expected = [{"src_idx": 0, "dst_idx": [1, 2], "score": [0.5, 0.25], "count": [3, 1]}]
    assert arrow.read_table(table).to_pylist() == expected
    assert [r.asDict() for r in read_table(spark, table).collect()] == expected
    arrow.check_plain_files(arrow.open_table(run.lake, "item_graph", 0), table.uri)


def test_spark_reads_what_several_processes_wrote_and_one_committed(spark, run):
    parts = []
    for part, idx in enumerate(([0, 1], [5])):
        writer = PartWriter(run.lake, ITEM_EMBEDDINGS, {"model_id": "m"}, part)
        empty = pa.nulls(len(idx), pa.list_(pa.float32()))
        vectors = pa.array([[float(i), 0.5] for i in idx], pa.list_(pa.float32()))
        writer.write(
            pa.table({"idx": idx, "id": [f"i{i}" for i in idx], "vector": vectors, "query_vector": empty, "bias": idx})
        )
        parts.append(writer.close())
    record = run.record("train", is_marker=True)
    assert commit_parts(run.lake, ITEM_EMBEDDINGS, {"model_id": "m"}, parts, record) == 0
    found = read_table(spark, arrow.TableAt(run.lake, "item_embeddings", 0, record))
    assert found.schema.names == ITEM_EMBEDDINGS.schema.names
    rows = [tuple(row) for row in found.where("idx >= 1").orderBy("idx").collect()]
    assert rows == [(1, "i1", [1.0, 0.5], None, 1.0, "m"), (5, "i5", [5.0, 0.5], None, 5.0, "m")]


def test_deleted_rows_never_come_back_to_who_reads_the_files(spark, tmp_path):
    """Turning the property off leaves the vectors of earlier deletes where they are; only a purge removes them."""
    uri = str(tmp_path / "foreign")
    rows = spark.range(10).selectExpr("array(cast(id as int)) walk", "id").coalesce(1)
    rows.write.format("delta").option("delta.enableDeletionVectors", "true").save(uri)
    spark.sql(f"DELETE FROM delta.`{uri}` WHERE id = 3")
    spark.sql(f"ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = false)")
    spark.sql(f"REORG TABLE delta.`{uri}` APPLY (PURGE)")
    for version in (1, 2):
        with pytest.raises(LakeError, match=rf"version {version} has deletion vectors on 1 of .*REORG TABLE"):
            arrow.check_plain_files(DeltaTable(uri, version=version), uri)
    for version in (0, 3):
        arrow.check_plain_files(DeltaTable(uri, version=version), uri)
    DeltaTable(uri, version=2).create_checkpoint()
    with pytest.raises(LakeError, match="version 2 has deletion vectors"):
        arrow.check_plain_files(DeltaTable(uri, version=2), uri)


def test_a_slice_is_replaced_alone(spark, run):
    for stage, reason in (("ingest", "a"), ("sessions", "b"), ("ingest", "c")):
        rows = spark.createDataFrame([(stage, "k", reason, "{}", "f", "r")], spark_schema(QUARANTINE))
        record = run.record(stage, is_marker=False)
        write_table(rows, run.lake, QUARANTINE, record, replace=f"stage = '{stage}' and stage_key = 'k'")
    rows = arrow.open_table(run.lake, "quarantine").to_pyarrow_table().to_pylist()
    assert sorted((r["stage"], r["reason"]) for r in rows) == [("ingest", "c"), ("sessions", "b")]


def test_nothing_in_place_of_nothing_is_no_commit(spark, run):
    rows = spark.createDataFrame([("ingest", "k", "a", "{}", "f", "r")], spark_schema(QUARANTINE))
    write_table(rows, run.lake, QUARANTINE, run.record("ingest", is_marker=False), replace="stage = 'ingest'")
    record = run.record("sessions", is_marker=False)
    assert write_table(rows.limit(0), run.lake, QUARANTINE, record, replace="stage = 'sessions'") == 0


def test_rows_that_do_not_fit_are_named(spark, run):
    rows = spark.range(1).selectExpr(
        "cast(id as long) src_idx", "array(1) dst_idx", "array(1.0f) scor", "array(1) count"
    )
    with pytest.raises(
        LakeError, match=r"src_idx: expected int, got bigint; score: expected array<float>, got no such"
    ):
        write_table(rows, run.lake, ITEM_GRAPH, run.record("graph", is_marker=True))


def test_a_rebuilt_lake_log_still_opens_pinned_versions(spark, run):
    """Checkpoints every ten commits must not clean the log that keys live in."""
    import os
    import time

    rows = spark.createDataFrame([(0, [1], [0.5], [3])], spark_schema(ITEM_GRAPH))
    write_table(rows, run.lake, ITEM_GRAPH, run.record("graph", is_marker=True))
    log = os.path.join(run.lake, "tables", "item_graph", "_delta_log")
    long_ago = time.time() - 60 * 86400
    for name in os.listdir(log):
        if os.path.isfile(os.path.join(log, name)):
            os.utime(os.path.join(log, name), (long_ago, long_ago))
    for _ in range(11):
        arrow.write_table(
            run.lake, ITEM_GRAPH, ITEM_GRAPH.schema.empty_table(), run.record("item_knn_graph", is_marker=True)
        )
    arrow.open_table(run.lake, "item_graph").create_checkpoint()
    arrow.open_table(run.lake, "item_graph").cleanup_metadata()
    table = arrow.find_table(run.lake, run.stages["graph"], "item_graph")
    assert table.version == 0
    assert read_table(spark, table).count() == 1
    assert arrow.read_table(table).num_rows == 1
