"""Rows of foreign Delta tables, at the versions that the run pinned when it was planned."""

from collections.abc import Sequence

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.errors import SourceError, first_line
from recspark.lake.source_state import SOURCE_KEY
from recspark.lake.storage import join
from recspark.sources.rows import as_rows


def read_delta(spark: SparkSession, path: str, version: int) -> DataFrame:
    """The source table's rows at a version, in the common shape.

    Raises: SourceError when the version is gone.
    """
    return as_rows(read_version(spark, path, version, SOURCE_KEY), F.col("_metadata.file_path"))


def read_appended(spark: SparkSession, path: str, version: int, names: Sequence[str]) -> DataFrame:
    """Those rows of a version that lie in the files so named, in the common shape.

    Raises: SourceError when the version is gone.
    """
    rows = read_version(spark, path, version, SOURCE_KEY).where(F.col("_metadata.file_name").isin(*names))
    return as_rows(rows, F.col("_metadata.file_path"))


def read_version(spark: SparkSession, path: str, version: int, key: str) -> DataFrame:
    """A foreign table at a version; Spark reads deletion vectors and mapped columns itself.

    Raises: SourceError when the version is gone; ``key`` is the config key it names.
    """
    try:
        return spark.read.format("delta").option("versionAsOf", version).load(join(path))
    except AnalysisException as error:
        first = first_line(error)
        advice = "set source.version to one that is kept" if key == SOURCE_KEY else "run again to take the newest one"
        raise SourceError(f"{key} {path}: version {version} cannot be read ({first}); {advice}") from error
