"""What runs that something went wrong with have left behind."""

import json
from collections.abc import Iterable

from recspark.config import Run
from recspark.lake.arrow import find_table, list_records, read_table

_OF_ONE_RUN = ("run_id", "source_file")


def content(run: Run, stages: Iterable[str]) -> dict[str, list[str]]:
    """stage.table -> its rows as sorted texts, those of this stage's key, without what names the run or a version."""
    found = {}
    for stage in stages:
        planned = run.stages[stage]
        for name in planned.spec.tables:
            rows = read_table(find_table(run.lake, planned, name)).to_pylist()
            own = [row for row in rows if row.get("stage_key", planned.key) == planned.key]
            texts = [{k: v for k, v in row.items() if k not in _OF_ONE_RUN} for row in own]
            found[f"{stage}.{name}"] = sorted(json.dumps(t, default=str, sort_keys=True) for t in texts)
    return found


def count_markers(run: Run, stage: str) -> int:
    """How often a stage has been committed as done under this run's key."""
    planned = run.stages[stage]
    assert planned.spec.marker
    records = list_records(run.lake, planned.spec.marker)
    return sum(record.is_marker and record.key == planned.key for _, record in records)
