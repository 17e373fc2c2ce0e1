"""Finished pieces of a build, kept until all are there; then one commit makes them a version of `walks`.

    tables/walks/chunks/5f0c...-2/          a Delta table of its own: one commit a piece, which replaces its units
        epoch=0/unit=0/part-00000-....parquet
    tables/walks/_delta_log                 the marker's commit lists these very files: nothing is written twice

A build that was killed reads from its chunks' log what is left to do. Files that another version of `walks` holds
already (epochs of an earlier build with fewer of them) are listed again, or copied where the newest version has them:
no commit may remove and add one path.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from recspark.contracts import columns as c
from recspark.contracts.commits import CommitRecord, parse_record
from recspark.contracts.tables import WALKS, TableSpec
from recspark.errors import LakeError
from recspark.lake.arrow import TABLE_PROPERTIES, TableAt, find_commit, has_table, open_table, table_uri
from recspark.lake.history import list_commits
from recspark.lake.storage import delta_uri, open_filesystem

UNIT = "unit"
UNITS = "units"
_FOLDER = "chunks"
_TRIES = 5


@dataclass(frozen=True)
class WalkFile:
    """A Parquet file of one epoch's walks; ``path`` is below the table `walks`."""

    path: str
    epoch: int
    num_bytes: int
    num_rows: int


def chunk_table(key: str, num_parts: int) -> TableSpec:
    """The table that keeps the pieces of one build; cut in another way, they are another table's."""
    name = f"{WALKS.name}/{_FOLDER}/{key[:12]}-{num_parts}"
    return TableSpec(name, WALKS.schema.append(pa.field(UNIT, pa.int32())), (), (c.EPOCH, UNIT))


def find_done_units(lake: str, chunks: TableSpec, inputs: dict[str, int]) -> set[int]:
    """The units that commits made of the same ``inputs`` have kept."""
    if not has_table(lake, chunks.name):
        return set()
    records = [parse_record(info.get("userMetadata")) for _, info in list_commits(table_uri(lake, chunks.name))]
    kept: dict[int, bool] = {}
    for record in records:  # newest first
        for unit in record.facts.get(UNITS, ()) if record else ():
            kept.setdefault(unit, record is not None and record.inputs == inputs)
    return {unit for unit, is_same in kept.items() if is_same}


def list_files(lake: str, name: str, version: int | None = None) -> list[WalkFile]:
    """The files of a version of `walks`, or of its chunks' newest."""
    table = open_table(lake, name, version)
    prefix = name.removeprefix(WALKS.name).lstrip("/")
    rows = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return [
        WalkFile(
            f"{prefix}/{row['path']}" if prefix else row["path"],
            int(row[f"partition.{c.EPOCH}"]),
            row["size_bytes"],
            row["num_records"] or 0,
        )
        for row in sorted(rows, key=lambda row: str(row["path"]))
    ]


def find_kept_files(earlier: TableAt, num_epochs: int) -> list[WalkFile]:
    """Files of the first epochs in an earlier version; none where one of them is lost."""
    files = [f for f in list_files(earlier.lake, WALKS.name, earlier.version) if f.epoch < num_epochs]
    filesystem, root = open_filesystem(earlier.uri)
    infos = filesystem.get_file_info([f"{root}/{f.path}" for f in files])
    return files if all(info.type == pafs.FileType.File for info in infos) else []


def commit_files(lake: str, files: Iterable[WalkFile], chunks: TableSpec, record: CommitRecord) -> int:
    """Makes the files all there is in a new version of `walks`, in one commit; its version.

    Raises: LakeError when other builds keep committing in between.
    """
    uri = table_uri(lake, WALKS.name)
    schema, columns = Schema.from_arrow(WALKS.schema), list(WALKS.partition_by)
    commit = CommitProperties(custom_metadata={"userMetadata": record.to_json()})
    files = list(files)
    for _ in range(_TRIES):
        newest = DeltaTable(delta_uri(uri)) if has_table(lake, WALKS.name) else None
        actions = [_to_action(f) for f in _without_paths_of(newest, files, uri, f"{chunks.name}/{record.run_id}")]
        try:
            if newest is None:
                create_table_with_add_actions(
                    delta_uri(uri), schema, actions, "error", columns, configuration=TABLE_PROPERTIES,
                    commit_properties=commit,
                )  # fmt: skip
            else:
                newest.create_write_transaction(actions, "overwrite", schema, columns, commit_properties=commit)
        except DeltaError as error:
            if not (isinstance(error, CommitFailedError) or (newest is None and has_table(lake, WALKS.name))):
                raise
            continue  # another build has committed since `newest`
        found = find_commit(lake, WALKS.name, record.key, record.run_id)
        assert found, "the commit just made carries its record"
        return found[0]
    raise LakeError(f"{uri}: other runs have committed {_TRIES} times while this one tried to; run it again")


def _without_paths_of(newest: DeltaTable | None, files: list[WalkFile], uri: str, folder: str) -> list[WalkFile]:
    """The files, those that the newest version holds as copies below ``folder``."""
    if newest is None:
        return files
    held = set(pa.table(newest.get_add_actions(flatten=True))["path"].to_pylist())
    filesystem, root = open_filesystem(uri)
    found = []
    for file in files:
        if file.path in held:
            copy = f"{folder.removeprefix(WALKS.name + '/')}/{file.path.removeprefix(_FOLDER + '/')}"
            filesystem.create_dir(f"{root}/{copy}".rsplit("/", 1)[0], recursive=True)
            filesystem.copy_file(f"{root}/{file.path}", f"{root}/{copy}")
            file = replace(file, path=copy)
        found.append(file)
    return found


def _to_action(file: WalkFile) -> AddAction:
    stats = json.dumps({"numRecords": file.num_rows})
    return AddAction(file.path, file.num_bytes, {c.EPOCH: str(file.epoch)}, int(time.time() * 1000), True, stats)
