"""Runs and frames for the tests of `recspark.sources`."""

import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from recspark.config import Run, RunConfig, plan_run
from recspark.config.source import SourceConfig
from recspark.contracts.commits import CommitRecord
from recspark.lake.arrow import find_table, read_table, table_uri
from recspark.lake.source_state import find_source_state
from recspark.sources.mapping import map_rows
from recspark.sources.rows import as_rows


def make_run(lake: str, source: dict[str, Any], **sections: Any) -> Run:
    """A planned run over a source."""
    split = {"split": {"kind": "given"} if source.get("columns", {}).get("split") else {"kind": "leave_last_out"}}
    if source["kind"] == "edges":
        split = {"training": {"corpus": "walks"}}
    config = RunConfig.model_validate({"paths": {"lake": lake}, "source": source} | split | sections)
    features = [(f.name, f.path, f.format) for f in config.features if f.path != "synthetic"]
    state = find_source_state(config.source.kind, config.source.path, config.source.version, features)
    return plan_run(config, state)


def write_lines(path: Path, *lines: str) -> Path:
    """A text file, compressed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def map_table(spark: Any, table: pa.Table, **source: Any) -> list[dict[str, Any]]:
    """What `map_rows` makes of a table, in the table's order; times as naive UTC texts."""
    numbered = table.append_column("_n", pa.array(range(len(table)), pa.int64()))
    config = SourceConfig.model_validate({"kind": "files", "path": "there", "format": "parquet"} | source)
    mapped = map_rows(as_rows(spark.createDataFrame(numbered)), config, config.columns)
    found = mapped.toArrow().to_pylist()
    return [r | {"ts": _show(r["ts"])} for r in found]


def _show(moment: dt.datetime | None) -> str | None:
    return (
        None if moment is None else moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    )


def rows_and_record(run: Run, name: str) -> tuple[list[dict[str, Any]], CommitRecord]:
    """A stage's table at its version, and the record of the stage."""
    table = find_table(run.lake, run.stages["ingest"], name)
    return read_table(table).to_pylist(), table.record


def has_tables(lake: str) -> bool:
    """Whether anything was committed."""
    return any(DeltaTable.is_deltatable(table_uri(lake, n)) for n in ("events", "quarantine", "items", "item_graph"))
