"""The table `releases`: one row a release, and which of them is active. Every change is one Delta commit.

release_id "3fa2...", state "ACTIVE", reason "activated", model_id, index_id, manifest_sha256, previous_id, times

    BUILDING -> READY -> ACTIVE <-> RETIRED         BUILDING -> FAILED
"""

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from recspark import __version__
from recspark.contracts.commits import CommitRecord
from recspark.contracts.stages import RELEASE
from recspark.contracts.tables import RELEASES
from recspark.errors import LakeError, ReleaseError
from recspark.lake.arrow import TABLE_PROPERTIES, TableAt, fit_contract, has_table, open_table, read_table, table_uri
from recspark.lake.storage import delta_uri

BUILDING, READY, ACTIVE, RETIRED, FAILED = STATES = ("BUILDING", "READY", "ACTIVE", "RETIRED", "FAILED")
_TRIES = 20
_AT_ONCE_OR_NOT = 0
"""Retries of a commit: rows are computed from the version read, so that one must still be the newest."""
_NO_RECORD = CommitRecord(RELEASE.name, "", "", False, __version__)
"""Stands where nobody asks who made a version."""


@dataclass(frozen=True)
class ReleaseRow:
    """One release; the columns of `RELEASES`."""

    release_id: str
    state: str
    reason: str
    model_id: str
    index_id: str
    created_at: dt.datetime
    changed_at: dt.datetime
    manifest_sha256: str | None = None
    previous_id: str | None = None
    activated_at: dt.datetime | None = None

    def moved(self, state: str, reason: str, **more: Any) -> "ReleaseRow":
        """The row in another state, from now on."""
        return replace(self, state=state, reason=reason, changed_at=now(), **more)


Rows = dict[str, ReleaseRow]
"""By release_id, in order of creation."""


@dataclass(frozen=True)
class Registry:
    """All releases of a lake as of one version of the table; -1 where there is no table yet."""

    lake: str
    version: int
    rows: Rows

    @property
    def active(self) -> ReleaseRow | None:
        """The one that readers get, None before the first activation."""
        return next((row for row in self.rows.values() if row.state == ACTIVE), None)

    def find(self, release_id: str) -> ReleaseRow:
        """A release by its id or the unambiguous start of it.

        Raises: ReleaseError for an id that is unknown, or the start of several.
        """
        found = [row for row in self.rows.values() if row.release_id.startswith(release_id)] if release_id else []
        if len(found) == 1:
            return found[0]
        if found:
            raise ReleaseError(f"release {release_id}: {len(found)} ids start so; give more of it")
        known = ", ".join(list(self.rows)[-5:]) or "there is none"
        raise ReleaseError(f"{table_uri(self.lake, RELEASES.name)}: no release {release_id!r}; the newest are: {known}")


def now() -> dt.datetime:
    """The time, UTC."""
    return dt.datetime.now(dt.UTC)


def read_registry(lake: str) -> Registry:
    """The releases as they are now.

    Raises: LakeError when the table is damaged.
    """
    if not has_table(lake, RELEASES.name):
        return Registry(lake, -1, {})
    version = int(open_table(lake, RELEASES.name).version())
    found = read_table(TableAt(lake, RELEASES.name, version, _NO_RECORD), RELEASES.schema.names).to_pylist()
    rows = sorted((ReleaseRow(**row) for row in found), key=lambda row: (row.created_at, row.release_id))
    return Registry(lake, version, {row.release_id: row for row in rows})


def change_registry(lake: str, change: Callable[[Registry], Rows], record: CommitRecord) -> Registry:
    """One commit of what ``change`` makes of the newest rows; asked again where another writer was faster.

    Raises: LakeError when other writers are always faster; whatever ``change`` raises, with nothing committed.
    """
    for _ in range(_TRIES):
        before = read_registry(lake)
        rows = change(before)
        if _commit(before, rows, record):
            return Registry(lake, before.version + 1, rows)
    uri = table_uri(lake, RELEASES.name)
    raise LakeError(f"{uri}: other writers came in between {_TRIES} times; run again when they are done")


def action_record(action: str, release_id: str, **facts: Any) -> CommitRecord:
    """The record of a commit that moves a release: what was done, to which, and why."""
    return CommitRecord(
        stage=RELEASE.name,
        key=f"{action} {release_id}",
        run_id=uuid.uuid4().hex[:12],
        is_marker=False,
        code_version=__version__,
        facts={"action": action, "release_id": release_id, **facts},
    )


def _commit(before: Registry, rows: Rows, record: CommitRecord) -> bool:
    """Whether the rows stand at the version behind the one they were computed from."""
    uri = delta_uri(table_uri(before.lake, RELEASES.name))
    data = fit_contract(RELEASES, pa.Table.from_pylist([asdict(row) for row in rows.values()], RELEASES.schema))
    commit = CommitProperties(custom_metadata={"userMetadata": record.to_json()}, max_commit_retries=_AT_ONCE_OR_NOT)
    try:
        if before.version < 0:
            write_deltalake(uri, data, mode="error", configuration=TABLE_PROPERTIES, commit_properties=commit)
        else:
            table = DeltaTable(uri, version=before.version)
            write_deltalake(table, data, mode="overwrite", commit_properties=commit)
    except CommitFailedError:
        return False
    except DeltaError:
        if before.version < 0 and has_table(before.lake, RELEASES.name):
            return False  # another publisher has made the table in the meantime
        raise
    return True
