"""The record that every commit of ours carries in Delta's ``userMetadata``.

A stage's marker table is committed last and its record lists all tables the stage wrote: only that record means done.

    {"recspark": 1, "stage": "graph", "key": "5f0c...", "is_marker": true, "tables": {"item_graph": 7},
     "inputs": {"sessions": 3}, "counts": {...}, "run_id": "...", "config": {...}, "code_version": "0.1.0"}
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RECORD_VERSION = 1


@dataclass(frozen=True)
class CommitRecord:
    """What was written by which stage of which run from which versions.

    ``tables`` are the versions of the stage's side tables, known when the marker is committed; the marker's own
    version is that of the commit the record stands in. ``facts`` holds what readers need beside counts (``metric``,
    ``event_types``).
    """

    stage: str
    key: str
    run_id: str
    is_marker: bool
    code_version: str
    tables: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON for ``userMetadata``."""
        return json.dumps({"recspark": RECORD_VERSION, **asdict(self)}, sort_keys=True, default=str)


def find_stale_input(inputs: Mapping[str, Any], table: str, version: int) -> str | None:
    """Why what was made of other rows of a table does not count any more, None where it does.

    Spark stages repeat to the row, a training on many threads does not: vectors of two trainings cannot be compared.
    """
    read = inputs.get(table)
    return None if read in (None, version) else f"made of {table} at version {read}, which is now at {version}"


def parse_record(user_metadata: str | None) -> CommitRecord | None:
    """The record in a commit's ``userMetadata``, or None where the commit is not ours."""
    try:
        found = json.loads(user_metadata or "")
    except ValueError:
        return None
    if not isinstance(found, dict) or found.pop("recspark", None) != RECORD_VERSION:
        return None
    return CommitRecord(**found)
