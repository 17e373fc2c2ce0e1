"""The columns of files, found without a JVM: CSV headers, keys of JSON lines, Parquet footers.

/data/ratings.csv.gz   ->   {"userId": string, "movieId": string, "timestamp": string}

None stands where only Spark can tell: more JSON lines than are read here, a compression or type that pyarrow has not.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from recspark.errors import SourceError, first_line
from recspark.lake.source_state import list_files, open_files
from recspark.sources.headers import check_is_text, check_once, check_same, name_columns, read_headers
from recspark.sources.wanted import DAMAGED, NANOSECONDS, no_json, no_line, no_rows, unreadable_file

Columns = dict[str, pa.DataType]
"""Names and types of a source's columns; text where the format knows no types."""

_NEAR_FILES, _FAR_FILES = 1000, 4
"""Files opened of one place: on this machine's disk, and behind a network."""
_THREADS = 16
_JSON_BYTES = 16 << 20
"""Of JSON lines, over all files of a place."""
_ONLY_SPARK_UNPACKS = (".snappy", ".lz4", ".deflate")
_PARQUET, _ENCRYPTED = b"PAR1", b"PARE"


@dataclass(frozen=True)
class FileColumns:
    """The columns of all files of a place together, and which of the ``num_files`` looked at ``lack`` one of them.

    ``is_all``: there are no other files, which may have more.
    """

    types: Columns
    lack: dict[str, list[str]] = field(default_factory=dict)
    num_files: int = 0
    is_all: bool = True


@dataclass(frozen=True)
class _Files:
    """Files of one place as far as they are looked at; ``is_all`` where that is all that hold anything."""

    filesystem: pafs.FileSystem
    paths: list[str]
    is_all: bool
    folder_names: frozenset[str]


def find_columns(
    path: str, file_format: str, separator: str, key: str, where: str, may_be_empty: bool = False
) -> FileColumns | None:
    """The columns of a file, folder or glob, those that its folders name included; None where only Spark can tell.

    Raises: SourceError for files that are missing, empty, damaged, of another format or of differing headers; it
    begins with ``where``, or with the config ``key`` of a path that is not there.
    """
    files = _choose_files(path, key)
    if not files.paths:
        if files.is_all:
            raise no_line(where)
        return None
    if any(file.endswith(_ONLY_SPARK_UNPACKS) for file in files.paths):
        return None
    if file_format == "csv":
        found = _csv_columns(files, separator, where, may_be_empty)
    elif file_format == "jsonl":
        found = _json_columns(files, where)
    else:
        found = _parquet_columns(files, where, may_be_empty)
    if found is None:
        return None
    in_folders = texts(name for name in files.folder_names if name not in found.types)
    return replace(found, types=found.types | in_folders)


def _choose_files(path: str, key: str) -> _Files:
    """The files to open; those without a byte say nothing."""
    listed = list_files(path, key)
    filesystem, paths = open_files(path, [name for name, _, _ in listed])
    filled = [file for file, (_, size, _) in zip(paths, listed, strict=True) if size]
    limit = _NEAR_FILES if isinstance(filesystem, pafs.LocalFileSystem) else _FAR_FILES
    folders = frozenset(part.partition("=")[0] for name, _, _ in listed for part in name.split("/")[:-1] if "=" in part)
    return _Files(filesystem, filled[:limit], len(filled) <= limit, folders)


def _csv_columns(files: _Files, separator: str, where: str, may_be_empty: bool) -> FileColumns | None:
    headers = read_headers(files.filesystem, files.paths, separator, where)
    filled = [header for header in headers if header.names]
    if not filled:
        if files.is_all:
            raise no_line(where)
        return None
    check_once(filled[0].names, where)
    check_same(headers, where)
    if files.is_all and not may_be_empty and not any(header.has_rows for header in headers):
        raise no_rows(where)
    return FileColumns(texts(name_columns(filled[0].names)))


def _json_columns(files: _Files, where: str) -> FileColumns | None:
    """All keys, None where lines are left that may bring more; a key is only missing when no line has it."""
    found: dict[str, Columns] = {}
    budget, is_all, has_object = _JSON_BYTES, files.is_all, False
    for file in files.paths:
        if budget <= 0:
            is_all = False
            break
        start, is_whole = _read_start(files.filesystem, file, budget, where)
        budget -= len(start)
        check_is_text(start, file, where)
        lines = [line for line in start.splitlines() if line.lstrip().startswith(b"{")]
        has_object |= bool(lines)
        names: dict[str, None] = {}
        are_read = [_add_keys(names, line) for line in lines]
        found[file] = texts(sorted(names))
        is_all = is_all and is_whole and all(are_read)
    if not has_object and is_all:
        raise no_json(where)
    return _join_columns(found) if is_all else None


def _join_columns(found: dict[str, Columns], is_all: bool = True) -> FileColumns:
    """The columns of files that need not have the same; capitals tell none apart, as in Spark."""
    types: Columns = {}
    for columns in found.values():
        types |= {name: columns[name] for name in columns if name not in types}
    known = {file: {name.lower() for name in columns} for file, columns in found.items()}
    lack = {name: [file for file in found if name.lower() not in known[file]] for name in types}
    return FileColumns(types, {name: files for name, files in lack.items() if files}, len(found), is_all)


def _read_start(filesystem: pafs.FileSystem, file: str, num_bytes: int, where: str) -> tuple[bytes, bool]:
    """A file's first bytes, unpacked, and whether that is all of it."""
    try:
        with filesystem.open_input_stream(file, compression="detect") as stream:
            start: bytes = stream.read(num_bytes)
            return start, not stream.read(1)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{where}: {unreadable_file(file, first_line(error))}") from error


def _add_keys(names: dict[str, None], line: bytes) -> bool:
    """Whether the keys of a line could be read; Spark's reader takes more than Python's, such as single quotes."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    names.update(dict.fromkeys(found))
    return True


def _parquet_columns(files: _Files, where: str, may_be_empty: bool) -> FileColumns | None:
    """All columns of the files; every footer is read."""

    def read(file: str) -> pq.FileMetaData | None:
        return _read_footer(files.filesystem, file, where)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(read, files.paths))
    footers = [footer for footer in found if footer is not None]
    if len(footers) < len(found):
        return None
    if files.is_all and not may_be_empty and not any(footer.num_rows for footer in footers):
        raise no_rows(where)
    try:
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
    except pa.ArrowException:  # a type that is newer than this pyarrow
        return None
    columns = [dict(zip(schema.names, schema.types, strict=True)) for schema in schemas]
    return _join_columns(dict(zip(files.paths, columns, strict=True)), files.is_all)


def _read_footer(filesystem: pafs.FileSystem, file: str, where: str) -> pq.FileMetaData | None:
    """A file's footer, None where only Spark can tell.

    Raises: SourceError for a file that is no Parquet, is cut short or holds nanoseconds.
    """
    try:
        with filesystem.open_input_file(file) as opened:
            start: bytes = opened.read(4)
            footer = None if start == _ENCRYPTED else pq.read_metadata(opened)
    except OSError as error:
        raise SourceError(f"{where}: {unreadable_file(file, first_line(error))}") from error
    except pa.ArrowException as error:
        advice = DAMAGED if start == _PARQUET else f"it begins with {start!r}; check its format"
        raise SourceError(f"{where}: {unreadable_file(file, 'is not a Parquet file', advice)}") from error
    if footer is not None and _has_nanoseconds(footer.schema):
        raise SourceError(f"{where}: {unreadable_file(file, 'Illegal Parquet type', NANOSECONDS)}")
    return footer


def _has_nanoseconds(schema: pq.ParquetSchema) -> bool:
    types = [str(schema.column(place).logical_type) for place in range(len(schema))]
    return any(found.startswith("Timestamp") and "timeUnit=nanoseconds" in found for found in types)


def texts(names: Iterable[str]) -> Columns:
    """Columns of text."""
    return dict.fromkeys(names, pa.string())
