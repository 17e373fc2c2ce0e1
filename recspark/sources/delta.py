"""Rows of a foreign Delta table, at the version that the run pinned when it was planned."""

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.errors import SourceError
from recspark.lake.storage import join
from recspark.sources.rows import as_rows


def read_delta(spark: SparkSession, path: str, version: int) -> DataFrame:
    """The table's rows at a version, in the common shape; Spark reads deletion vectors and mapped columns itself.

    Raises: SourceError when the version is gone.
    """
    try:
        frame = spark.read.format("delta").option("versionAsOf", version).load(join(path))
    except AnalysisException as error:
        first = str(error).splitlines()[0]
        raise SourceError(
            f"source.path {path}: version {version} cannot be read ({first}); set source.version to one that is kept"
        ) from error
    return as_rows(frame, F.col("_metadata.file_path"))
