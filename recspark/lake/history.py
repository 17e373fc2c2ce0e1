"""The commits of a Delta table, each with its version: the name of its file in the log, which cannot be wrong.

    _delta_log/00000000000000000007.json     one action a line, among them {"commitInfo": {"userMetadata": ...}}

delta-rs numbers a history downwards from the version its table was opened at, but lists every commit: of an older
version, or where another writer came in between, a commit goes by the number of another.
"""

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs

from recspark.lake.storage import join, open_filesystem, open_input

_COMMIT_FILE = re.compile(r"(\d{20})\.json")
_READ_AT_ONCE = 16


def commit_uri(uri: str, version: int) -> str:
    """Where the log of the table at ``uri`` keeps a commit."""
    return join(uri, "_delta_log", f"{version:020d}.json")


def list_commits(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, commitInfo) of the commits whose files the log still has, newest first; read as far as they are asked
    for, some at once.

    Raises: ValueError when a file holds no JSON.
    """
    filesystem, path = open_filesystem(join(uri, "_delta_log"))
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [match for info in infos if (match := _COMMIT_FILE.fullmatch(info.base_name))]
    versions = sorted((int(match[1]) for match in names), reverse=True)
    for start in range(0, len(versions), _READ_AT_ONCE):
        some = versions[start : start + _READ_AT_ONCE]
        with ThreadPoolExecutor(len(some)) as pool:
            found = list(pool.map(lambda version: read_commit(uri, version), some))
        yield from ((version, info) for version, info in zip(some, found, strict=True) if info is not None)


def read_actions(uri: str, version: int) -> list[dict[str, Any]] | None:
    """All actions of one commit; None where the log has no such file any more.

    Raises: ValueError when the file holds no JSON.
    """
    try:
        stream = open_input(commit_uri(uri, version))
    except FileNotFoundError:
        return None
    with stream:
        return [json.loads(line) for line in stream.read().splitlines() if line.strip()]


def read_commit(uri: str, version: int) -> dict[str, Any] | None:
    """The commitInfo of one version, empty where its writer left none; None where the log has no such file any more.

    Raises: ValueError when the file holds no JSON.
    """
    try:
        stream = open_input(commit_uri(uri, version))
    except FileNotFoundError:
        return None
    with stream, io.BufferedReader(stream) as lines:  # type: ignore[type-var]
        for line in lines:  # the first one, by all writers that are known; a large commit is megabytes
            if b'"commitInfo"' in line and (info := json.loads(line).get("commitInfo")):
                return dict(info)
    return {}
