"""Delta tables through delta-rs: find a version by stage key, read it, write a small one. No JVM.

Downstream never reads "latest": `find_table` turns (stage, key) into a pinned version.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from recspark.contracts.commits import CommitRecord, parse_record
from recspark.contracts.stages import PlannedStage
from recspark.contracts.tables import TableSpec
from recspark.errors import LakeError, first_line
from recspark.lake.folders import find_flaw, read_manifest
from recspark.lake.history import commit_uri, list_commits, read_commit
from recspark.lake.storage import delta_uri, join, open_filesystem

_COLOUR = re.compile(r"\x1b\[\d*m")
KEEP_FOREVER = "interval 3650 days"
TABLE_PROPERTIES = {
    # Keys live in the history, and Spark refuses time travel beyond the file retention (7 days by default).
    "delta.deletedFileRetentionDuration": KEEP_FOREVER,
    "delta.logRetentionDuration": KEEP_FOREVER,
    # Trainers read the Parquet files themselves.
    "delta.enableDeletionVectors": "false",
}
_MAPPED_COLUMNS = ("name", "id")
"""Values of delta.columnMapping.mode under which the files name columns in another way than the table."""


@dataclass(frozen=True)
class TableAt:
    """One table pinned at one version, with the record of the stage that made it."""

    lake: str
    name: str
    version: int
    record: CommitRecord

    @property
    def uri(self) -> str:
        """Where the table lives."""
        return table_uri(self.lake, self.name)


def table_uri(lake: str, name: str) -> str:
    """Where a table of a lake lives."""
    return join(lake, "tables", name)


def open_table(lake: str, name: str, version: int | None = None) -> DeltaTable:
    """A table, at a version or its newest.

    Raises: LakeError when table or version is not there.
    """
    uri = table_uri(lake, name)
    try:
        return DeltaTable(delta_uri(uri), version=version)
    except TableNotFoundError as error:
        raise LakeError(f"{uri}: no such table; run the stage that writes it") from error
    except Exception as error:
        if version is None and not isinstance(error, DeltaError):
            raise
        if version is None:
            raise _damaged_log(uri, error) from error
        found = first_line(error)
        raise LakeError(f"{uri}: version {version} is gone or unreadable ({found}); run the stage again") from error


def has_table(lake: str, name: str) -> bool:
    """Whether a table is there.

    Raises: LakeError when the store cannot be asked.
    """
    uri = table_uri(lake, name)
    try:
        is_there: bool = DeltaTable.is_deltatable(delta_uri(uri))
    except OSError as error:
        causes = [line.strip(" ↳") for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
        raise LakeError(
            f"{uri}: the store cannot be asked ({causes[0]}: ... {causes[-1]}); "
            f"check paths.lake, the network and the store's credentials in the environment"
        ) from error
    return is_there


def list_records(lake: str, name: str) -> Iterator[tuple[int, CommitRecord]]:
    """(version, record) of our commits of a table, newest first; none where there is no table.

    Raises: LakeError when its log is damaged.
    """
    if not has_table(lake, name):
        return
    uri = table_uri(lake, name)
    open_table(lake, name)  # says what is wrong with a damaged log
    try:
        for version, info in list_commits(uri):
            if record := parse_record(info.get("userMetadata")):
                yield version, record
    except ValueError as error:
        raise _damaged_log(uri, error) from error


def _damaged_log(uri: str, error: Exception) -> LakeError:
    return LakeError(
        f"{uri}: the log of this Delta table is damaged ({first_line(error)}); restore {uri}/_delta_log, "
        f"or remove {uri} and run `recspark run CONF` again: what wrote the table is built anew"
    )


def list_data_files(table: DeltaTable, uri: str, partition: Mapping[str, str] | None = None) -> list[str]:
    """Paths of an open table's data files, sorted; those of one ``partition`` (values as text), or of all.

    The log has paths as they stand in URLs, and delta-rs's own list has the whole table's path so too: neither would
    open below a folder called `my lake`.
    """
    wanted = partition or {}
    columns = ["path", *(f"partition.{name}" for name in wanted)]
    files = pa.table(table.get_add_actions(flatten=True)).select(columns).to_pylist()
    chosen = [f for f in files if all(str(f[f"partition.{name}"]) == value for name, value in wanted.items())]
    return sorted(join(uri, unquote(file["path"])) for file in chosen)


def find_commit(lake: str, name: str, key: str, run_id: str | None = None) -> tuple[int, CommitRecord] | None:
    """(version, record) of the newest commit of a stage key, of one run where ``run_id`` is given; None without one."""
    for version, record in list_records(lake, name):
        if record.key == key and run_id in (None, record.run_id):
            return version, record
    return None


def read_record(lake: str, name: str, version: int) -> CommitRecord | None:
    """The record of one version of a table, None where the commit is not ours.

    Raises: LakeError when the log has no such commit (any more), or it is damaged.
    """
    uri = table_uri(lake, name)
    try:
        info = read_commit(uri, version)
    except ValueError as error:
        raise _damaged_log(uri, error) from error
    if info is None:
        raise LakeError(
            f"{commit_uri(uri, version)}: not there, so what version {version} of the table was made from is not "
            f"known; restore this file"
        )
    return parse_record(info.get("userMetadata"))


def find_done(lake: str, stage: PlannedStage) -> tuple[int, CommitRecord] | None:
    """(version, record) of a finished stage, None where it has to run. A folder's version counts as 0.

    A folder with a file too few or cut short is not finished (`find_flaw`). A stage's side folder is left out here:
    readers of its tables need none of it.
    """
    if stage.spec.folder:
        if find_flaw(lake, stage.spec.folder, stage.id):
            return None
        manifest = read_manifest(lake, stage.spec.folder, stage.id)
        if manifest is None:
            return None
        record = CommitRecord(
            stage.name, stage.key, manifest.run_id, True, manifest.code_version, {}, manifest.inputs, manifest.counts,
            manifest.facts, manifest.config,
        )  # fmt: skip
        return 0, record
    assert stage.spec.marker
    found = find_commit(lake, stage.spec.marker, stage.key)
    if found is None or not found[1].is_marker:
        return None
    return found if all(has_table(lake, name) for name in found[1].tables) else None


def list_markers(lake: str, name: str, stage: str) -> Iterator[CommitRecord]:
    """The records of the finished versions of a stage under any key, newest first."""
    yield from (record for _, record in list_marked(lake, name, stage))


def list_marked(lake: str, name: str, stage: str) -> Iterator[tuple[int, CommitRecord]]:
    """(version, record) of the finished versions of a stage under any key, newest first."""
    for version, record in list_records(lake, name):
        if record.is_marker and record.stage == stage:
            yield version, record


def find_newest_marker(lake: str, name: str, stage: str) -> CommitRecord | None:
    """The record of the newest finished version of a stage under any key, None where there is none."""
    return next(list_markers(lake, name, stage), None)


def find_table(lake: str, stage: PlannedStage, name: str) -> TableAt:
    """A stage's table at the version this run's key stands for.

    Raises: LakeError when the stage has not finished under this key.
    """
    found = find_done(lake, stage)
    if found is None:
        raise LakeError(
            f"{table_uri(lake, name)}: no version for this config (stage {stage.name}, key {stage.id}); "
            f"run `recspark run CONF --to {stage.name}` first"
        )
    version, record = found
    return TableAt(lake, name, version if name == stage.spec.marker else record.tables[name], record)


def read_table(table: TableAt, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """The rows of a pinned table in memory; ``filters`` as in `pyarrow.parquet.read_table`.

    Raises: LakeError when the version, or one of its files, is gone or damaged.
    """
    import pyarrow.parquet as pq  # with pandas, which who only asks for versions does without

    opened = open_table(table.lake, table.name, table.version)
    dataset = opened.to_pyarrow_dataset(filesystem=_table_files(table.uri))
    chosen = None if filters is None else pq.filters_to_expression(filters)
    with _naming_lost_files(table):
        return dataset.to_table(columns=columns, filter=chosen, fragment_scan_options=_verified())


def stream_table(table: TableAt, columns: list[str], batch_rows: int, where: Any = None) -> Iterator[pa.RecordBatch]:
    """The rows of a pinned table, at most so many at a time, in the same order on every machine.

    ``where`` is an expression of `pyarrow.compute`; files that cannot hold such rows are not read.

    Raises: LakeError when the version, or one of its files, is gone or damaged.
    """
    opened = open_table(table.lake, table.name, table.version)
    dataset = opened.to_pyarrow_dataset(filesystem=_table_files(table.uri))
    with _naming_lost_files(table):
        for fragment in sorted(dataset.get_fragments(filter=where), key=lambda f: str(f.path)):
            yield from fragment.to_batches(
                dataset.schema, columns, filter=where, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1,
                fragment_scan_options=_verified(),
            )  # fmt: skip


def count_rows(table: TableAt) -> int:
    """Rows of a pinned table, from its log.

    Raises: LakeError when the version is gone.
    """
    return int(open_table(table.lake, table.name, table.version).count())


def count_values(table: TableAt, column: str) -> int:
    """Values of a list column in all rows, from the files' footers; an empty list counts as one.

    Raises: LakeError when the version, or one of its files, is gone or damaged.
    """
    opened = open_table(table.lake, table.name, table.version)
    dataset = opened.to_pyarrow_dataset(filesystem=_table_files(table.uri))
    with _naming_lost_files(table):
        groups = [g for fragment in dataset.get_fragments() for g in _row_groups(fragment.metadata)]
    columns = (group.column(place) for group in groups for place in range(group.num_columns))
    return sum(found.num_values for found in columns if found.path_in_schema.split(".")[0] == column)


def _row_groups(footer: Any) -> list[Any]:
    return [footer.row_group(place) for place in range(footer.num_row_groups)]


def _verified() -> Any:
    """Makes a flipped bit in a page an error where its writer left a checksum, as Spark and `lake.parts` do."""
    import pyarrow.dataset as pads

    return pads.ParquetFragmentScanOptions(pre_buffer=True, page_checksum_verification=True)


@contextmanager
def _naming_lost_files(table: TableAt) -> Iterator[None]:
    """Turns errors of reading into one that says which version of which table has lost a file."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(
            f"{table.uri}: a data file of version {table.version} is lost or damaged ({first_line(error)}); "
            f"restore it, or remove {table.uri} and run again"
        ) from error


def _table_files(uri: str) -> pafs.FileSystem:
    """Arrow's own file system: through delta-rs' one, arrow's threads call Python, and abort a process that ends."""
    filesystem, path = open_filesystem(uri)
    return pafs.SubTreeFileSystem(path, filesystem)


def read_ids(table: TableAt, idx: str, id_: str) -> pa.ChunkedArray:
    """The outside id (text) of each dense idx of `items` or `users`, in idx order."""
    return read_table(table, [idx, id_]).sort_by(idx)[id_].cast(pa.string())


def check_plain_files(table: DeltaTable, uri: str) -> None:
    """Checks that the table's Parquet files hold exactly its rows and columns.

    Raises: LakeError where a file of this version has a deletion vector, or columns are mapped, with the way out.
    """
    if table.metadata().configuration.get("delta.columnMapping.mode", "").lower() in _MAPPED_COLUMNS:
        raise LakeError(
            f"{uri}: column mapping is on: copy the table (CREATE TABLE ... AS SELECT) without delta.columnMapping.mode"
        )
    # The property only says whether new vectors are made: those of earlier deletes stay until the files are rewritten.
    num_files = sum(batch.num_rows for batch in table.deletion_vectors()) if _may_have_vectors(table) else 0
    if num_files:
        raise LakeError(
            f"{uri}: version {table.version()} has deletion vectors on {num_files} of its files, whose deleted rows "
            f"would come back: run ALTER TABLE ... SET TBLPROPERTIES ('delta.enableDeletionVectors' = false), then "
            f"REORG TABLE ... APPLY (PURGE), and read the version that makes"
        )


def _may_have_vectors(table: DeltaTable) -> bool:
    return "deletionVectors" in (table.protocol().reader_features or [])


def fit_contract(spec: TableSpec, data: pa.Table) -> pa.Table:
    """The rows with the table's columns, in its order and types, and their features where it has some.

    Raises: LakeError when they do not fit.
    """
    features = [f for f in data.schema if f.name.startswith("f_")] if spec.has_features else []
    schema = pa.schema([*spec.schema, *features])
    try:
        return data.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LakeError(f"{spec.name}: rows do not fit the table's contract: {error}") from error


def write_table(lake: str, spec: TableSpec, data: pa.Table, record: CommitRecord, replace: str | None = None) -> int:
    """Writes a table (or, with a ``replace`` predicate on partition columns, a slice) in one commit; its version.

    Raises: LakeError when ``data`` does not fit the contract.
    """
    write_deltalake(
        delta_uri(table_uri(lake, spec.name)),
        fit_contract(spec, data),
        partition_by=list(spec.partition_by) or None,
        mode="overwrite",
        schema_mode=None if replace else "overwrite",
        predicate=replace,
        configuration=TABLE_PROPERTIES,
        commit_properties=CommitProperties(custom_metadata={"userMetadata": record.to_json()}),
    )
    found = find_commit(lake, spec.name, record.key, record.run_id)
    assert found, "the commit just made carries its record"
    return found[0]
