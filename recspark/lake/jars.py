"""The Spark/Delta pair: which versions belong together, and where the Delta jars come from.

python -m recspark.lake.jars        fetches them from Maven Central into the Ivy cache, once
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from recspark.errors import SetupError

SPARK_VERSION = "4.2.0"
DELTA_VERSION = "4.4.0"
SCALA_VERSION = "2.13"
DELTA_PACKAGE = f"io.delta:delta-spark_4.2_{SCALA_VERSION}:{DELTA_VERSION}"
_OLDEST_SPARK = (4, 1)
"""The first with `repartitionById`, which lays out the graph's blocks."""
_ADVICE = "allow access to Maven Central for the first run, or put the jars into $SPARK_HOME/jars"


def check_pair() -> None:
    """Checks the installed pyspark and delta-spark against the tested pair; patch releases have broken it before.

    Raises: SetupError with the pip line that mends it.
    """
    for name, wanted in (("pyspark", SPARK_VERSION), ("delta-spark", DELTA_VERSION)):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            raise SetupError(
                f"{name} is {found}, but pyspark {SPARK_VERSION} and delta-spark {DELTA_VERSION} belong together: "
                f"run `pip install pyspark=={SPARK_VERSION} delta-spark=={DELTA_VERSION}`"
            )


def check_runtime(version: str) -> None:
    """Checks the pyspark of a runtime that brings Delta itself: which two belong together is then its own affair.

    Raises: SetupError for a Spark that lacks what our jobs use.
    """
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST_SPARK:
        oldest = ".".join(map(str, _OLDEST_SPARK))
        raise SetupError(f"this runtime has Spark {version}, but our jobs need {oldest} or later; take a newer runtime")


def check_packages(packages: str) -> None:
    """Checks a ``spark.jars.packages``: another Delta than ours, or a part of another Spark, would be loaded beside it.

    Raises: SetupError naming the wrong ones and what to do.
    """
    named = [one.strip() for one in packages.split(",") if one.strip()]
    if wrong := [one for one in named if _is_foreign(one)]:
        raise SetupError(
            f"spark.jars.packages {', '.join(wrong)}: Spark {SPARK_VERSION} and {DELTA_PACKAGE} belong together; "
            "leave Delta out (its jars are added), and take parts of Spark as "
            f"org.apache.spark:..._{SCALA_VERSION}:{SPARK_VERSION}"
        )


def _is_foreign(package: str) -> bool:
    group, artifact, version, *_ = [*package.split(":"), "", "", ""]
    if group == "io.delta" and artifact.startswith(("delta-spark", "delta-core")):
        return package != DELTA_PACKAGE
    if group == "io.delta" and not artifact.startswith("delta-sharing"):  # which counts its versions by itself
        return version != DELTA_VERSION
    scala = re.search(r"_(2\.\d+)$", artifact)
    return group == "org.apache.spark" and (version != SPARK_VERSION or bool(scala and scala[1] != SCALA_VERSION))


def has_delta_jars(spark_home: str | None = None) -> bool:
    """Whether the Spark installation ships Delta's jars already (images, vendor runtimes)."""
    home = spark_home or os.environ.get("SPARK_HOME")
    return bool(home) and any(Path(str(home), "jars").glob("delta-spark*.jar"))


def ivy_folder() -> Path:
    """Where Ivy keeps what it fetches: below $HOME, which the JVM by itself does not look at."""
    return Path.home() / ".ivy2.5.2"


def find_delta_jars(cache: Path | None = None) -> list[str]:
    """Delta's own jars in the Ivy cache, where an earlier run has fetched them; empty when any is missing.

    Handing them over by path spares each start Ivy's resolution and lets it work without a network. The other
    jars that Ivy lists ship with Spark.
    """
    folder = (cache or ivy_folder()) / "jars"
    needed = [f"io.delta_delta-spark_4.2_2.13-{DELTA_VERSION}.jar"]
    needed += [f"io.delta_delta-{part}-{DELTA_VERSION}.jar" for part in _DELTA_PARTS]
    found = [folder / name for name in needed]
    if not all(jar.is_file() for jar in found):
        return []
    return [str(jar) for jar in [*found, *sorted(folder.glob("io.unitycatalog_*.jar"))]]


def add_delta_jars(settings: dict[str, str]) -> dict[str, str]:
    """The Spark settings with Delta's jars beside those that they name: by path where cached, else to be fetched."""
    jars = find_delta_jars()
    name, ours = ("spark.jars", jars) if jars else ("spark.jars.packages", [DELTA_PACKAGE])
    own = [one.strip() for one in settings.get(name, "").split(",") if one.strip()]
    return {"spark.jars.ivy": str(ivy_folder())} | settings | {name: ",".join(dict.fromkeys([*ours, *own]))}


_DELTA_PARTS = ("storage", "kernel-api", "kernel-defaults", "kernel-unitycatalog")


def fetch_delta_jars() -> list[str]:
    """Lets Spark fetch the jars once, quietly; their paths.

    Raises: SetupError with the end of Ivy's report when it can't.
    """
    from recspark.lake.java import use_java

    check_pair()
    use_java()
    start = (
        "from pyspark.sql import SparkSession as S; "
        f"S.builder.master('local[1]').config('spark.jars.packages', '{DELTA_PACKAGE}')"
        f".config('spark.jars.ivy', {str(ivy_folder())!r})"
        ".config('spark.ui.enabled', 'false').getOrCreate().stop()"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    jars = find_delta_jars()
    if not jars:
        said = (done.stdout + done.stderr).splitlines()
        report = "\n".join([line for line in said if "rror" in line or "not found" in line][:10] or said[-10:])
        raise SetupError(f"Delta's jars ({DELTA_PACKAGE}) could not be fetched; {_ADVICE}. Spark said:\n{report}")
    return jars


def main() -> int:
    """Fetches the jars unless they are there; 2 with a message when that fails."""
    try:
        jars = [] if has_delta_jars() else find_delta_jars() or fetch_delta_jars()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Delta {DELTA_VERSION}: {len(jars)} jars in the Ivy cache" if jars else "Delta's jars ship with this Spark")
    return 0


if __name__ == "__main__":
    sys.exit(main())
