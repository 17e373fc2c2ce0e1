"""What a source holds right now: its files, or a Delta version. Its fingerprint is every key's root.

    {"fingerprint": "9c1e...", "kind": "files", "num_files": 305, "bytes": 8123456, "files_told_apart_by": "content",
     "files": {"2010-12-01.csv.gz": "b1946ac92492d234...", ...}, "feature_versions": {"films": 4}}

Files of this machine, up to 64 MiB in one place, are told apart by name and content: a copy made anew, a `touch` or a
fresh checkout builds nothing again. To read more than that at each start would cost more than it saves: larger places,
and all behind a network, are told apart by name, size and time of change.
"""

import fnmatch
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from recspark.errors import SourceError, first_line
from recspark.lake.no_delta import explain_no_table
from recspark.lake.storage import SCHEMES, delta_uri, find_uri_flaw, open_filesystem

BY_CONTENT, BY_TIME = "content", "size and time"

SOURCE_KEY = "source.path"
"""The config key that messages name, where it is not a feature's."""

_GLOB = "*?["
_MAX_HASHED_BYTES = 64 << 20
_TOKEN_DIGITS = 32
MAX_LISTED_FILES = 10_000
"""Of more files the state lists none: each commit would carry megabytes. Such sources are read in full."""


def find_source_state(
    kind: str, path: str | None, version: int | None, features: Sequence[tuple[str, str, str]] = ()
) -> dict[str, Any]:
    """The state of a source of one kind; ``features`` are (name, path, format), which count as part of it.

    ``feature_versions`` holds the version of each feature table in Delta, by path.

    Raises: SourceError when a path or the version is not there or cannot be read.
    """
    state: dict[str, Any] = {"kind": kind}
    if kind == "delta":
        assert path
        state["table_id"], state["version"] = _find_delta_version(path, version)
        decides: Any = [path, state["table_id"], state["version"]]
    elif kind == "synthetic":
        decides = []
    else:
        assert path
        files = list_files(path)
        how, decides = _tell_apart(path, files)
        state |= {"num_files": len(files), "bytes": sum(f[1] for f in files), "files_told_apart_by": how}
        if kind == "files" and len(files) <= MAX_LISTED_FILES:
            state["files"] = {name: _to_token(*told) for name, *told in decides}
    extra, state["feature_versions"] = _find_features(features)
    text = json.dumps([kind, decides, extra])
    return state | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def feature_key(name: str) -> str:
    """The config key that messages about a feature's path name."""
    return f"features.{name}.path"


def list_files(path: str, key: str = SOURCE_KEY) -> list[tuple[str, int, int]]:
    """(name, bytes, modified ns) of each file of a file, folder or glob, sorted; hidden and ``_`` files left out.

    A glob is matched segment by segment, as Hadoop does: ``*`` does not cross a ``/``, and a folder that matches brings
    all files below it. Names start at the path, or at the folder before the glob.

    Raises: SourceError when there are none or the place cannot be read; ``key`` is the config key it names.
    """
    folder, pattern = split_glob(path)
    with _reading(key, path):
        filesystem, root = open_filesystem(folder)
        found = filesystem.get_file_info(root)
        if found.type == pafs.FileType.File:
            infos = [found]
        elif found.type == pafs.FileType.Directory:
            infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        else:
            raise SourceError(f"{key} {path}: no such file or folder")
    names = [
        (i.path.removeprefix(root).lstrip("/") or i.base_name, i.size or 0, i.mtime_ns or 0) for i in infos if i.is_file
    ]
    files = sorted(f for f in names if _is_data(f[0]) and _matches(f[0], pattern))
    if not files:
        raise SourceError(f"{key} {path}: no files there")
    return files


def split_glob(path: str) -> tuple[str, list[str]]:
    """The folder before a glob and the glob's segments, of which a plain path has none."""
    parts = path.split("/")
    for position, part in enumerate(parts):
        if any(char in part for char in _GLOB):
            folder = "/".join(parts[:position]) or ("/" if path.startswith("/") else ".")
            return folder, [segment for segment in parts[position:] if segment]
    return path, []


def _matches(name: str, pattern: list[str]) -> bool:
    parts = name.split("/")
    return len(parts) >= len(pattern) and all(
        fnmatch.fnmatchcase(part, segment.replace("[^", "[!")) for part, segment in zip(parts, pattern, strict=False)
    )


def _is_data(name: str) -> bool:
    """Whether Spark reads a file too: it leaves hidden ones out, but not folders such as ``_day=1``."""
    return not any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))


def _find_features(features: Sequence[tuple[str, str, str]]) -> tuple[list[Any], dict[str, int]]:
    """What decides the features' content, and the versions of those in Delta by path."""
    decides: list[Any] = []
    versions: dict[str, int] = {}
    for name, path, file_format in features:
        if file_format == "delta":
            table_id, versions[path] = _find_delta_version(path, None, feature_key(name))
            decides.append([path, table_id, versions[path]])
        else:
            key = feature_key(name)
            decides.append(_tell_apart(path, list_files(path, key), key)[1])
    return decides, versions


def _tell_apart(path: str, files: list[tuple[str, int, int]], key: str = SOURCE_KEY) -> tuple[str, list[Any]]:
    """How files are told from other ones, and what does: (name, SHA-256) or (name, bytes, modified ns) of each."""
    with _reading(key, path):
        filesystem, paths = open_files(path, [name for name, _, _ in files])
        is_near = isinstance(filesystem, pafs.LocalFileSystem)
        if not is_near or sum(size for _, size, _ in files) > _MAX_HASHED_BYTES:
            return BY_TIME, files
        return BY_CONTENT, [(name, _hash(place)) for (name, _, _), place in zip(files, paths, strict=True)]


def _to_token(*told: Any) -> str:
    """One short text for what tells a file: the start of its hash, or its size and time."""
    return str(told[0])[:_TOKEN_DIGITS] if len(told) == 1 else "-".join(map(str, told))


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_files(path: str, files: Sequence[str]) -> tuple[pafs.FileSystem, list[str]]:
    """The file system, and where in it the files lie that `list_files` found."""
    folder, pattern = split_glob(path)
    filesystem, root = open_filesystem(folder)
    is_file = not pattern and filesystem.get_file_info(root).is_file
    return filesystem, [root] if is_file else [f"{root.rstrip('/')}/{name}" for name in files]


def _find_delta_version(path: str, version: int | None, key: str = SOURCE_KEY) -> tuple[str, int]:
    """(table id, version): a table that is dropped and made anew at the same path has another id."""
    table = open_delta(path, version, key)
    return table.metadata().id, int(table.version())


def open_delta(path: str, version: int | None, key: str = SOURCE_KEY) -> DeltaTable:
    """A foreign Delta table at a version, or its newest.

    Raises: SourceError when table or version is not there or cannot be read; ``key`` is the config key it names.
    """
    with _reading(key, path):
        try:
            table = DeltaTable(delta_uri(path))
        except DeltaError as error:
            raise SourceError(f"{key} {path}: {_explain_delta(path, key, error)}") from error
    newest = int(table.version())
    if version is not None and version != newest:
        try:
            table = DeltaTable(delta_uri(path), version=version)
        except Exception as error:
            raise SourceError(
                f"source.version {version} of {path} is gone or not there yet; the newest is {newest} ({error})"
            ) from error
    return table


def _explain_delta(path: str, key: str, error: DeltaError) -> str:
    kind_key, format_key = (
        ("source.kind", "source.format") if key == SOURCE_KEY else (None, key.removesuffix("path") + "format")
    )
    if found := explain_no_table(path, kind_key, format_key):
        return f"no Delta table there: {found}"
    if isinstance(error, TableNotFoundError):
        return "no Delta table there (no _delta_log)"
    return f"the log of the Delta table there is damaged ({first_line(error)}); restore _delta_log"


@contextmanager
def _reading(key: str, path: str) -> Iterator[None]:
    """Turns what may go wrong at a path or URI into one message.

    Raises: SourceError naming the key, the path and what was found.
    """
    scheme = urlparse(path).scheme if "://" in path else ""
    if scheme not in SCHEMES:
        known = ", ".join(s for s in SCHEMES if s)
        raise SourceError(f"{key} {path}: scheme {scheme!r} cannot be read; copy the data to one of {known}")
    if flaw := find_uri_flaw(path):
        raise SourceError(f"{key} {path!r}: {flaw}")
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{key} {path}: cannot be reached or read ({first_line(error)}); check the path, its permissions and, of "
            f"a URI, the credentials"
        ) from error
