"""The Spark/Delta pair: which versions belong together, and where the Delta jars come from."""

import importlib.metadata
import os
from pathlib import Path

from recspark.errors import SetupError

SPARK_VERSION = "4.2.0"
DELTA_VERSION = "4.4.0"
DELTA_PACKAGE = f"io.delta:delta-spark_4.2_2.13:{DELTA_VERSION}"


def check_pair() -> None:
    """Checks the installed pyspark and delta-spark against the tested pair; patch releases have broken it before.

    Raises: SetupError with the pip line that mends it.
    """
    found = {}
    for name, wanted in (("pyspark", SPARK_VERSION), ("delta-spark", DELTA_VERSION)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
        if found[name] != wanted:
            raise SetupError(
                f"{name} is {found[name]}, "
                f"but pyspark {SPARK_VERSION} and delta-spark {DELTA_VERSION} belong together: "
                f"run `pip install pyspark=={SPARK_VERSION} delta-spark=={DELTA_VERSION}`"
            )


def has_delta_jars(spark_home: str | None = None) -> bool:
    """Whether the Spark installation ships Delta's jars already (images, vendor runtimes)."""
    home = spark_home or os.environ.get("SPARK_HOME")
    return bool(home) and any(Path(str(home), "jars").glob("delta-spark*.jar"))
