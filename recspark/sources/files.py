"""Rows of CSV, Parquet and JSON lines; lines that cannot be parsed come along as ``bad_line``, never vanish.

u,i,t                        row {u: "7", i: "85123A", t: "2010-12-01"}, bad_line NULL
7,85123A,2010-12-01   ->     row {u: "7", i: "8512", t: NULL},           bad_line "7,8512"
7,8512
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from recspark.errors import SourceError
from recspark.lake.source_state import list_files
from recspark.lake.storage import join, open_filesystem
from recspark.sources.rows import BAD_LINE_READ, as_rows, quoted

_HEADER_BYTES = 1 << 20
_GLOB = "*?["
_LINE = "value"
"""The one column of Spark's text reader."""
_INFER_PARTITIONS = "spark.sql.sources.partitionColumnTypeInference.enabled"


def read_files(spark: SparkSession, path: str, file_format: str, separator: str = ",") -> DataFrame:
    """The rows of a file, folder or glob in the common shape.

    CSV needs a header, the same in every file; a quoted value ends on its line.

    Raises: SourceError when there is nothing to read or the header is unusable.
    """
    frame = read_frame(spark, path, file_format, separator)
    return as_rows(frame, F.col("_metadata.file_path"))


def read_frame(spark: SparkSession, path: str, file_format: str, separator: str = ",") -> DataFrame:
    """The columns as the files have them (CSV and JSON values as text), and unparsable lines in a column of theirs."""
    files = [name for name, _, _ in list_files(path)]
    reader = spark.read.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", BAD_LINE_READ)
    if not any("=" in part for name in files for part in name.split("/")[:-1]):
        reader = reader.option("recursiveFileLookup", "true")  # else nested folders would be left out silently
    with _partition_values_as_text(spark):
        if file_format == "csv":
            return _read_csv(reader, path, files, separator)
        if file_format == "jsonl":
            return _read_jsonl(reader, path)
        return reader.parquet(_spark_path(path))


@contextmanager
def _partition_values_as_text(spark: SparkSession) -> Iterator[None]:
    """Keeps the values in folder names such as ``shop=01`` as they are; Spark would read numbers."""
    before = spark.conf.get(_INFER_PARTITIONS)
    spark.conf.set(_INFER_PARTITIONS, "false")
    try:
        yield
    finally:
        spark.conf.set(_INFER_PARTITIONS, str(before))


def _read_csv(reader: DataFrameReader, path: str, files: list[str], separator: str) -> DataFrame:
    header = _read_header(path, files, separator)
    names = [name or f"_c{place}" for place, name in enumerate(header)]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise SourceError(f"source.path {path}: the CSV header names {', '.join(twice)} more than once; rename them")
    schema = StructType([StructField(name, StringType()) for name in [*names, BAD_LINE_READ]])
    return (
        reader.schema(schema)
        .option("header", "true")
        .option("sep", separator)
        .option("escape", '"')  # RFC 4180: a quote inside quotes is doubled
        # Every file's header is compared with the schema, which a nameless column (pandas' index) would fail.
        .option("enforceSchema", "true" if "" in header else "false")
        .csv(_spark_path(path))
    )


def _read_header(path: str, files: list[str], separator: str) -> list[str]:
    """The first line of the first file that has one."""
    filesystem, root = open_filesystem(_folder_of(path))
    for name in files:
        file = root if root.endswith(name) and len(files) == 1 and filesystem.get_file_info(root).is_file else None
        file = file or f"{root}/{name}"
        try:
            with filesystem.open_input_stream(file, compression="detect") as stream:
                start = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{file}: cannot be read ({error}): damaged or cut short; replace or remove it"
            ) from error
        first = next((line for line in io.StringIO(start) if line.strip()), None)
        if first is not None:
            return next(csv.reader([first], delimiter=separator))
    raise SourceError(f"source.path {path}: the source is empty: no file there has a line; give one with rows")


def _read_jsonl(reader: DataFrameReader, path: str) -> DataFrame:
    """Keys differ from line to line, so all lines are read once for the columns; then each line is one row.

    Numbers become text as Spark writes them: 1.50 is "1.5".
    """
    found = reader.option("primitivesAsString", "true").json(_spark_path(path)).schema
    lines = reader.text(_spark_path(path))
    in_folders = [name for name in lines.columns if name != _LINE]
    own = [field for field in found.fields if field.name not in (BAD_LINE_READ, *in_folders)]
    if not own:
        raise SourceError(f"source.path {path}: no line there is a JSON object; check source.format")
    # Spark's own reader makes any number of rows of a line that holds a list: none would be counted for [].
    schema = StructType([*own, StructField(BAD_LINE_READ, StringType())])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": BAD_LINE_READ}
    parsed = F.from_json(F.when(F.col(_LINE).rlike(r"^\s*\{"), F.col(_LINE)), schema, options)
    is_bad = parsed.isNull() | parsed[BAD_LINE_READ].isNotNull()
    return lines.where(~F.col(_LINE).rlike(r"^\s*$")).select(
        *[parsed[field.name].alias(field.name) for field in own],
        *[quoted(name) for name in in_folders],
        F.when(is_bad, F.col(_LINE)).alias(BAD_LINE_READ),
    )


def _folder_of(path: str) -> str:
    """What `list_files` names files from: the path, or the part before a glob."""
    parts = path.split("/")
    for position, part in enumerate(parts):
        if any(char in part for char in _GLOB):
            return "/".join(parts[:position]) or "."
    return path


def _spark_path(path: str) -> str:
    """Local paths made absolute: the JVM's working directory may be another one."""
    return join(path)
