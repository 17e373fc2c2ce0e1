"""What an audit reads: the pinned tables of one run by name, and which rows of large ones.

Everything streams. What stays in memory are arrays over items and users, and the rows of a sample: ids are taken by
hash, all of them in small lakes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.shards import hash_ids
from recspark.errors import LakeError
from recspark.evaluate.leak.report import Check, Finding
from recspark.evaluate.ragged import BoolArray, IntArray
from recspark.lake.arrow import TableAt, read_record

BATCH_ROWS = 20_000
"""Rows held at a time of tables with lists."""


@dataclass(frozen=True)
class Audited:
    """One run: its ``tables`` by name (``item_knn_graph`` is the baseline's `item_graph`), each with the record of the
    stage that made it; ``absent`` says why a stage is not there; ``models`` are the inputs that the model's manifest
    names, None where its folder is not there.
    """

    lake: str
    tables: Mapping[str, TableAt]
    absent: Mapping[str, str]
    models: Mapping[str, Any] | None = None

    @property
    def has_events(self) -> bool:
        """Whether there are users and times: of an edge list there are not."""
        return "sessions" in self.tables


def is_sampled(ids: IntArray, total: int, wanted: int) -> BoolArray:
    """Whether each id is among about ``wanted`` of ``total``, by its hash: the same ones in every table."""
    if total <= wanted:
        return np.ones(len(ids), np.bool_)
    return np.asarray(hash_ids(np.asarray(ids)) < np.uint64(int(wanted / total * 2**64)))


def check_inputs(
    name: str, made: TableAt, inputs: Mapping[str, Any], tables: Mapping[str, TableAt], needed: set[str]
) -> Check:
    """Whether what ``made`` says that it was made from are this run's tables, all of the ``needed`` ones among them.

    A full build repeats to the row, so another version of the same key counts; ids of an increment do not repeat.
    """
    read = {table: version for table, version in inputs.items() if table in tables}
    finding = Finding(name, made, "what it was made from are this run's versions", "inputs")
    for table in sorted(needed - read.keys()):
        finding.fail(f"its record names no version of {table}")
    reasons = [_differs(made.lake, table, read[table], tables[table]) for table in sorted(read)]
    finding.look(np.array([r is not None for r in reasons], np.bool_), lambda place: str(reasons[place]))
    return finding.check(", ".join(f"{table} at {read[table]}" for table in sorted(read)))


def _differs(lake: str, name: str, version: Any, table: TableAt) -> str | None:
    """Why a version holds other rows than the run's table, None where it does not."""
    if version == table.version:
        return None
    wrong = f"made of {name} at version {version}, the run's is {table.version}"
    try:
        record = read_record(lake, name, int(version))
    except LakeError:
        return f"{wrong}; where that came from is not known any more"
    if record is None or record.key != table.record.key:
        return f"{wrong}; it is of key {record.key[:12] if record else '(not ours)'}, not {table.record.key[:12]}"
    is_rebuilt = "built_from" not in record.facts and "built_from" not in table.record.facts
    return None if is_rebuilt else f"{wrong}; their ids may differ"


def check_ids(table: str, column: str, ids: IntArray, total: int) -> None:
    """Checks that dense ids are among 0..total-1.

    Raises: LakeError naming one that is not.
    """
    if len(ids) and (ids.min() < 0 or ids.max() >= total):
        bad, known = ids.min() if ids.min() < 0 else ids.max(), "users" if column == c.USER_IDX else "items"
        raise LakeError(
            f"leak audit: {table} holds {column} {bad}, `{known}` has 0..{total - 1}: these tables are not of one "
            f"build; remove {table} and run `recspark run CONF` again"
        )


def item_counts(table: str, items: IntArray, num_items: int) -> NDArray[np.int64]:
    """How often each item stands there, int64 [num_items].

    Raises: LakeError for an item that is not among them.
    """
    check_ids(table, c.ITEM_IDX, items, num_items)
    return np.bincount(items, minlength=num_items).astype(np.int64, copy=False)
