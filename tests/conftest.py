"""Shared fixtures: one lazy Spark for all tests, a lake in a temporary folder, the public data where it is there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Short-lived JVMs: the second compiler costs more than it gives back. Inherited by every process a test starts.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def spark() -> Iterator["SparkSession"]:  # noqa: F821
    """One local Spark for the whole test session: starting a JVM costs more than most tests."""
    from recspark.config import RunConfig, plan_run
    from recspark.lake.spark import build_spark

    config = RunConfig.model_validate(
        {
            "run": {"name": "tests"},
            "split": {"kind": "time", "cut": "2026-01-01"},
            "spark": {"master": "local[2]", "driver_memory": "1g", "conf": {"spark.sql.shuffle.partitions": "2"}},
        }
    )
    session = build_spark(plan_run(config, {"fingerprint": "tests"}))
    yield session
    session.stop()


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """An empty lake."""
    return str(tmp_path / "lake")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data sets beside the checkout; skips the test where they are not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("public data sets are not beside this checkout (../shared/data)")
    return SHARED_DATA
