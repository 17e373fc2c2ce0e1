"""Rows of CSV, Parquet and JSON lines; lines that cannot be parsed come along as ``bad_line``, never vanish.

u,i,t                        row {u: "7", i: "85123A", t: "2010-12-01"}, bad_line NULL
7,85123A,2010-12-01   ->     row {u: "7", i: "8512", t: NULL},           bad_line "7,8512"
7,8512
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from recspark.errors import SourceError, first_line, full_text
from recspark.lake.source_state import SOURCE_KEY, list_files, open_files, split_glob
from recspark.lake.storage import join, open_filesystem
from recspark.sources.headers import find_header, name_columns
from recspark.sources.rows import BAD_LINE_READ, as_rows, quoted
from recspark.sources.wanted import gone_file, no_json, retyped_column

_GLOB_CHARACTER = re.compile(r"[\\*?\[\]{}]")
"""What Hadoop would not take as it stands."""
_LINE = "value"
"""The one column of Spark's text reader."""
_NO_COMMON_TYPE = "CANNOT_MERGE"
_COMPARED_FILES = 1000
_INFER_PARTITIONS = "spark.sql.sources.partitionColumnTypeInference.enabled"


def read_files(
    spark: SparkSession, path: str, file_format: str, separator: str = ",", only: Sequence[str] | None = None
) -> DataFrame:
    """The rows of a file, folder or glob in the common shape; ``only`` of the files so named, as `list_files` does.

    CSV needs a header, the same in every file; a quoted value ends on its line. Parquet files may have more columns or
    fewer, JSON lines more keys or fewer: what a row has not is NULL.

    Raises: SourceError when there is nothing to read, a file is gone, the header is unusable or a column has two types.
    """
    frame = read_frame(spark, path, file_format, separator, only=only)
    return as_rows(frame, F.col("_metadata.file_path"))


def read_frame(
    spark: SparkSession, path: str, file_format: str, separator: str = ",", key: str = SOURCE_KEY,
    only: Sequence[str] | None = None,
) -> DataFrame:  # fmt: skip
    """The columns as the files have them (CSV and JSON values as text), and unparsable lines in a column of theirs."""
    files, is_whole = _files_to_read(path, key, only, skips_empty=file_format == "parquet")
    where, places = f"{key} {path}", _places(path, files) if is_whole else _exact_places(path, files)
    reader = spark.read.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", BAD_LINE_READ)
    if not any("=" in part for name in files for part in name.split("/")[:-1]):
        reader = reader.option("recursiveFileLookup", "true")  # else nested folders would be left out silently
    elif not is_whole:
        reader = reader.option("basePath", join(path))  # else single files would have no columns from their folders
    with _partition_values_as_text(spark):
        if file_format == "csv":
            header = find_header(*open_files(path, files), separator, where)
            return _read_csv(reader, places, header, separator)
        if file_format == "jsonl":
            return _read_jsonl(reader, places, where)
        return _read_parquet(reader, places, _exact_places(path, files), where)


def _files_to_read(path: str, key: str, only: Sequence[str] | None, skips_empty: bool) -> tuple[list[str], bool]:
    """Names of the files to read, and whether that is all there is at the path.

    Files without a byte, which hold no footer, are left out of Parquet.

    Raises: SourceError for a file that was listed when the run was planned and is gone.
    """
    there = {name: size for name, size, _ in list_files(path, key)}
    files = list(there if only is None else only)
    if gone := [name for name in files if name not in there]:
        raise SourceError(f"{key} {path}: {gone_file(gone[0])}")
    filled = [name for name in files if there[name]] if skips_empty else files
    return filled or files, only is None and len(filled) == len(files)


@contextmanager
def _partition_values_as_text(spark: SparkSession) -> Iterator[None]:
    """Keeps the values in folder names such as ``shop=01`` as they are; Spark would read numbers."""
    before = spark.conf.get(_INFER_PARTITIONS)
    spark.conf.set(_INFER_PARTITIONS, "false")
    try:
        yield
    finally:
        spark.conf.set(_INFER_PARTITIONS, str(before))


def _read_csv(reader: DataFrameReader, places: list[str], header: list[str], separator: str) -> DataFrame:
    schema = StructType([StructField(name, StringType()) for name in [*name_columns(header), BAD_LINE_READ]])
    return (
        reader.schema(schema)
        .option("header", "true")
        .option("sep", separator)
        .option("escape", '"')  # RFC 4180: a quote inside quotes is doubled
        # Spark compares every header with the schema, which a nameless column would fail: those we compare ourselves.
        .option("enforceSchema", "true" if "" in header else "false")
        .csv(places)
    )


def _read_jsonl(reader: DataFrameReader, places: list[str], where: str) -> DataFrame:
    """Keys differ from line to line, so all lines are read once for the columns; then each line is one row.

    Numbers become text as Spark writes them: 1.50 is "1.5".
    """
    found = reader.option("primitivesAsString", "true").json(places).schema
    lines = reader.text(places)
    in_folders = [name for name in lines.columns if name != _LINE]
    own = [field for field in found.fields if field.name not in (BAD_LINE_READ, *in_folders)]
    if not own:
        raise no_json(where)
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


def _read_parquet(reader: DataFrameReader, places: list[str], files: list[str], where: str) -> DataFrame:
    """All columns of all files: Spark alone would take those of one file and leave out what others have more.

    Raises: SourceError for a column whose type is not the same in all files.
    """
    try:
        return reader.option("mergeSchema", "true").parquet(*places)
    except (PySparkException, Py4JJavaError) as error:  # a job of its own reads the footers: its failure is the latter
        if _NO_COMMON_TYPE not in full_text(error):
            raise
        raise SourceError(f"{where}: {_find_retyped(reader, files) or first_line(error)}") from error


def _find_retyped(reader: DataFrameReader, files: list[str]) -> str | None:
    """Which column has two types, and in which files; None where the first files agree."""
    seen: dict[str, tuple[str, str]] = {}
    for file in files[:_COMPARED_FILES]:
        for field in reader.option("mergeSchema", "false").parquet(file).schema.fields:
            found = field.dataType.simpleString()
            wanted, first = seen.setdefault(field.name, (found, file))
            if wanted != found:
                return retyped_column(field.name, wanted, first, found, file)
    return None


def _places(path: str, files: list[str]) -> list[str]:
    """What Spark is given to read; local paths absolute, as the JVM's working directory may be another one.

    A glob is resolved as the run's fingerprint resolved it: Spark's own would open hidden folders too.
    """
    folder, pattern = split_glob(path)
    if not pattern:
        return [join(path)]
    found = {"/".join(name.split("/")[: len(pattern)]) for name in files}
    return [join(folder, _GLOB_CHARACTER.sub(r"\\\g<0>", name)) for name in sorted(found)]


def _exact_places(path: str, files: list[str]) -> list[str]:
    """The files themselves: what has come since they were listed is not read."""
    folder, pattern = split_glob(path)
    if not pattern and open_files(path, files)[1] == [open_filesystem(path)[1]]:
        return [join(path)]
    return [join(folder, _GLOB_CHARACTER.sub(r"\\\g<0>", name)) for name in files]
