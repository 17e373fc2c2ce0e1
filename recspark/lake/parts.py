"""Several processes write one slice of a table: each its own Parquet file, then one of them commits all at once.

    rank 0   tables/item_embeddings/model_id=3fa2.../part-00000-<unique>.parquet  \\
    rank 1   tables/item_embeddings/model_id=3fa2.../part-00001-<unique>.parquet   > one Delta commit, by rank 0
    ...

No reader sees a file before the commit; what a dead writer leaves is swept up by a vacuum.
"""

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import TableSpec
from recspark.lake.arrow import TABLE_PROPERTIES, find_commit, fit_contract, table_uri
from recspark.lake.storage import delta_uri, join, open_filesystem


@dataclass(frozen=True)
class PartFile:
    """A file that is written but in no version yet; ``path`` is below the table, ``low`` and ``high`` of its key."""

    path: str
    num_bytes: int
    num_rows: int
    low: int | str
    high: int | str


class PartWriter:
    """One process's file of a slice, where all partition columns have the value that ``slice_`` gives.

    Rows come in pieces, so no more than a piece is in memory. The table's key beside the partition columns is one
    column, whose range lets readers skip files. ``repeated``: columns whose values come often, by their Parquet names.
    """

    def __init__(
        self, lake: str, spec: TableSpec, slice_: dict[str, str], part: int, repeated: tuple[str, ...] = ()
    ) -> None:
        self._spec, self._slice, self._uri = spec, slice_, table_uri(lake, spec.name)
        (self._key,) = (name for name in spec.key if name not in spec.partition_by)
        folder = "/".join(f"{name}={quote(slice_[name], safe='')}" for name in spec.partition_by)
        self._path = f"{folder}/part-{part:05d}-{uuid.uuid4().hex}.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._repeated = list(repeated)
        self._num_rows = 0
        self._low: int | str = 0
        self._high: int | str = 0

    def write(self, rows: pa.Table) -> None:
        """Adds rows, without the partition columns.

        Raises: LakeError when they do not fit the contract.
        """
        if len(rows) == 0:
            return
        for name, value in self._slice.items():
            rows = rows.append_column(name, pc.cast(pa.repeat(value, len(rows)), pa.string()))
        fitted = fit_contract(self._spec, rows).drop_columns(list(self._spec.partition_by))
        if self._writer is None:
            filesystem, path = open_filesystem(join(self._uri, self._path))
            filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            self._writer = pq.ParquetWriter(
                path, fitted.schema, filesystem=filesystem, use_dictionary=self._repeated, write_statistics=[self._key],
                write_page_checksum=True,
            )  # fmt: skip
        self._writer.write_table(fitted)
        bounds = pc.min_max(fitted[self._key]).as_py()
        self._low = min(bounds["min"], self._low) if self._num_rows else bounds["min"]
        self._high = max(bounds["max"], self._high) if self._num_rows else bounds["max"]
        self._num_rows += len(rows)

    def close(self) -> PartFile | None:
        """The whole file, None where there were no rows."""
        if self._writer is None:
            return None
        self._writer.close()
        filesystem, path = open_filesystem(join(self._uri, self._path))
        num_bytes = filesystem.get_file_info(path).size
        return PartFile(self._path, num_bytes, self._num_rows, self._low, self._high)


def commit_parts(
    lake: str, spec: TableSpec, slice_: dict[str, str], parts: Iterable[PartFile | None], record: CommitRecord
) -> int:
    """Replaces a slice by files that are written, in one commit; its version. The table is made where it is missing."""
    (key,) = (name for name in spec.key if name not in spec.partition_by)
    actions = [_to_action(part, slice_, key) for part in parts if part]
    uri = delta_uri(table_uri(lake, spec.name))
    schema, columns = Schema.from_arrow(spec.schema), list(spec.partition_by)
    commit = CommitProperties(custom_metadata={"userMetadata": record.to_json()})
    if not DeltaTable.is_deltatable(uri):
        filesystem, path = open_filesystem(table_uri(lake, spec.name))
        filesystem.create_dir(path, recursive=True)
        try:
            create_table_with_add_actions(
                uri, schema, actions, "error", columns, configuration=TABLE_PROPERTIES, commit_properties=commit
            )
        except DeltaError:
            if not DeltaTable.is_deltatable(uri):
                raise
            # Another training has made the table in the meantime.
            _replace_slice(uri, schema, columns, actions, slice_, commit)
    else:
        _replace_slice(uri, schema, columns, actions, slice_, commit)
    found = find_commit(lake, spec.name, record.key, record.run_id)
    assert found, "the commit just made carries its record"
    return found[0]


def _replace_slice(
    uri: str, schema: Schema, columns: list[str], actions: list[AddAction], slice_: dict[str, str],
    commit: CommitProperties,
) -> None:  # fmt: skip
    filters = [(name, "=", value) for name, value in slice_.items()]
    DeltaTable(uri).create_write_transaction(
        actions, "overwrite", schema, columns, partition_filters=filters, commit_properties=commit
    )


def _to_action(part: PartFile, slice_: dict[str, str], key: str) -> AddAction:
    stats = {
        "numRecords": part.num_rows,
        "minValues": {key: part.low},
        "maxValues": {key: part.high},
        "nullCount": {key: 0},
    }
    return AddAction(part.path, part.num_bytes, slice_, int(time.time() * 1000), True, json.dumps(stats))
