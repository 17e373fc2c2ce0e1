"""What a source holds right now: file names, sizes and times, or a Delta version. Its fingerprint is every key's root.

{"fingerprint": "9c1e...", "kind": "files", "num_files": 305, "bytes": 8123456}
"""

import fnmatch
import hashlib
import json
from typing import Any

import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from recspark.errors import SourceError
from recspark.lake.storage import delta_uri, open_filesystem

_GLOB = "*?["


def find_source_state(
    kind: str, path: str | None, version: int | None, extra_paths: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The state of a source of one kind; ``extra_paths`` are feature files, which count as part of it.

    Raises: SourceError when the path or the version is not there.
    """
    state: dict[str, Any] = {"kind": kind}
    extra = [f for p in extra_paths for f in list_files(p)]
    if kind == "delta":
        assert path
        state["version"] = _find_delta_version(path, version)
        decides: Any = [path, state["version"]]
    elif kind == "synthetic":
        decides = []
    else:
        assert path
        files = list_files(path)
        state |= {"num_files": len(files), "bytes": sum(f[1] for f in files)}
        decides = files
    text = json.dumps([kind, decides, extra])
    return state | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def list_files(path: str) -> list[tuple[str, int, int]]:
    """(name, bytes, modified ns) of each file of a file, folder or glob, sorted; hidden and ``_`` files left out.

    Raises: SourceError when there are none.
    """
    folder, pattern = _split_glob(path)
    filesystem, root = open_filesystem(folder)
    found = filesystem.get_file_info(root)
    if found.type == pafs.FileType.File:
        infos = [found]
    elif found.type == pafs.FileType.Directory:
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    else:
        raise SourceError(f"source.path {path}: no such file or folder")
    names = [
        (i.path.removeprefix(root).lstrip("/") or i.base_name, i.size or 0, i.mtime_ns or 0) for i in infos if i.is_file
    ]
    files = sorted(f for f in names if _is_data(f[0]) and (pattern is None or fnmatch.fnmatch(f[0], pattern)))
    if not files:
        raise SourceError(f"source.path {path}: no files there")
    return files


def _split_glob(path: str) -> tuple[str, str | None]:
    parts = path.split("/")
    for position, part in enumerate(parts):
        if any(char in part for char in _GLOB):
            return "/".join(parts[:position]) or ".", "/".join(parts[position:])
    return path, None


def _is_data(name: str) -> bool:
    return not any(part.startswith((".", "_")) for part in name.split("/"))


def _find_delta_version(path: str, version: int | None) -> int:
    try:
        newest = DeltaTable(delta_uri(path)).version()
    except TableNotFoundError as error:
        raise SourceError(f"source.path {path}: no Delta table there") from error
    if version is None or version == newest:
        return int(newest)
    try:
        return int(DeltaTable(delta_uri(path), version=version).version())
    except Exception as error:
        raise SourceError(
            f"source.version {version} of {path} is gone or not there yet; the newest is {newest} ({error})"
        ) from error
