"""Delta tables through Spark: the session, reading a pinned version, writing a table in one commit."""

import os
import sys
from pathlib import Path
from typing import Any

import pyspark
from pyspark import SparkConf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from recspark.config import Run
from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import TableSpec
from recspark.cpus import count_cpus
from recspark.errors import LakeError
from recspark.lake.arrow import TABLE_PROPERTIES, TableAt, find_commit, open_table, table_uri
from recspark.lake.jars import add_delta_jars, check_packages, check_pair, check_runtime, has_delta_jars
from recspark.lake.java import use_java

_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",  # all our times are UTC
    # Rows of a popular item's sums, and long sessions, are large: 50,000 of them would not fit a worker.
    "spark.sql.execution.arrow.maxBytesPerBatch": "67108864",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",  # a flipped bit is an error, not another value
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # delta-rs and pyarrow read no INT96
}
_MERGE_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
"""Where a MERGE, which has no writer options, takes ``userMetadata`` from."""
_LOCAL_SETTINGS = {
    "spark.sql.shuffle.partitions": "4",  # 200 tasks cost seconds on a laptop
    "spark.databricks.delta.snapshotPartitions": "2",  # the default 50 costs seconds a commit
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
}


def build_spark(run: Run) -> SparkSession:
    """The Spark session of a run; under spark-submit, the submitted settings win over ours.

    Raises: SetupError without a usable Java, or with a wrong Spark/Delta pair, installed or among ``spark.conf``.
    """
    submitted = _submitted_settings()
    is_delta_there = _has_delta(submitted)
    if is_delta_there:
        check_runtime(pyspark.__version__)
    else:
        check_pair()
    check_packages(run.config.spark.conf.get("spark.jars.packages", ""))
    wanted = dict(_SETTINGS)
    if not submitted:
        use_java()
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
        wanted |= _LOCAL_SETTINGS | {
            "spark.master": run.config.spark.master or f"local[{count_cpus()}]",
            "spark.driver.memory": run.config.spark.driver_memory,
        }
    wanted |= run.config.spark.conf
    if not is_delta_there and "spark.jars.packages" not in submitted and "spark.jars" not in submitted:
        wanted = add_delta_jars(wanted)
    builder = SparkSession.builder.appName(f"recspark {run.config.run.name}")
    for name, value in wanted.items():
        if name not in submitted:
            builder = builder.config(name, value)
    return builder.getOrCreate()


def _submitted_settings() -> dict[str, str]:
    """What spark-submit was told; empty in a plain Python process, where no JVM runs yet."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    from pyspark import SparkContext

    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


def _has_delta(submitted: dict[str, str]) -> bool:
    """Whether the Spark that runs us ships Delta: an image with the jars baked in, a vendor's runtime."""
    if has_delta_jars():
        return True
    if not submitted or "spark.jars.packages" in submitted or "spark.jars" in submitted:
        return False
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
    from pyspark import SparkContext

    jvm = SparkContext._jvm
    assert jvm, "a submitted process has its JVM"
    try:
        jvm.java.lang.Class.forName(_SETTINGS["spark.sql.extensions"])
    except Py4JJavaError:  # ClassNotFoundException
        return False
    return True


def spark_schema(spec: TableSpec) -> StructType:
    """The table's contract as Spark types, without features."""
    schema: StructType = from_arrow_schema(spec.schema)
    return schema


def read_table(spark: SparkSession, table: TableAt) -> DataFrame:
    """The rows of a pinned table."""
    return spark.read.format("delta").option("versionAsOf", table.version).load(table.uri)


def number_rows(ordered: DataFrame, name: str) -> DataFrame:
    """Adds an int column with each row's place, from 0; ``ordered`` is sorted by a total order, as reruns must agree.

    Unlike a window over all rows, it needs no task that sees them all.
    """
    return ordered.zipWithIndex("_place").withColumn(name, F.col("_place").cast("int")).drop("_place")


def write_table(frame: DataFrame, lake: str, spec: TableSpec, record: CommitRecord, replace: str | None = None) -> int:
    """Writes a table (or, with a ``replace`` predicate on partition columns, a slice) in one commit; its version.

    Raises: LakeError when the frame does not fit the contract.
    """
    writer = (
        fit_frame(frame, spec)
        .write.format("delta")
        .mode("overwrite")
        .option("userMetadata", record.to_json())
        .option("overwriteSchema" if replace is None else "replaceWhere", "true" if replace is None else replace)
        .options(**TABLE_PROPERTIES)
        .partitionBy(*spec.partition_by)
    )
    writer.save(table_uri(lake, spec.name))
    found = find_commit(lake, spec.name, record.key, record.run_id)
    if found is None and replace is not None:  # Delta makes no commit where nothing is replaced by nothing
        return int(open_table(lake, spec.name).version())
    assert found, "the commit just made carries its record"
    return found[0]


def merge_table(
    frame: DataFrame, lake: str, spec: TableSpec, record: CommitRecord, within: str, delete_where: str
) -> int:
    """Replaces the rows of a table that is there by those of the same key, and adds new ones; the new version.

    ``within`` is a predicate on partition columns that all rows fulfil. Rows that fulfil ``delete_where`` only delete.
    """
    from delta.tables import DeltaTable

    spark = frame.sparkSession
    condition = " AND ".join([f"t.{within}", *(f"t.{key} = s.{key}" for key in spec.key)])
    merge = (
        DeltaTable.forPath(spark, table_uri(lake, spec.name))
        .alias("t")
        .merge(fit_frame(frame, spec).alias("s"), condition)
        .whenMatchedDelete(f"s.{delete_where}")
        .whenMatchedUpdateAll()
        .whenNotMatchedInsertAll(f"NOT s.{delete_where}")
    )
    execute_merge(spark, merge, record)
    found = find_commit(lake, spec.name, record.key, record.run_id)
    assert found, "the commit just made carries its record"
    return found[0]


def execute_merge(spark: SparkSession, merge: Any, record: CommitRecord) -> None:
    """Runs a MERGE whose commit carries a record: its builder takes no options, so a setting is lent to it."""
    spark.conf.set(_MERGE_METADATA, record.to_json())
    try:
        merge.execute()
    finally:
        spark.conf.unset(_MERGE_METADATA)


def fit_frame(frame: DataFrame, spec: TableSpec) -> DataFrame:
    """The contract's columns in order, then features; types must agree already."""
    wanted = spark_schema(spec)
    found = {f.name: f.dataType.simpleString() for f in frame.schema.fields}
    problems = [
        f"{f.name}: expected {f.dataType.simpleString()}, got {found.get(f.name, 'no such column')}"
        for f in wanted.fields
        if found.get(f.name) != f.dataType.simpleString()
    ]
    if problems:
        raise LakeError(f"{spec.name}: rows do not fit the table's contract: {'; '.join(problems)}")
    features = sorted(n for n in found if n.startswith("f_")) if spec.has_features else []
    return frame.select(*wanted.fieldNames(), *features)
