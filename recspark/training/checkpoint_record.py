"""What a checkpoint says of itself: its files with their hashes, where training stood, what it was made from.

    <checkpoint>/step-0000500/RECORD    {"folder": "step-0000500", "files": [...], "state": {...}, "facts": {...}}
    <checkpoint>/LATEST                 the record of the newest one

Both are written at once: by replacing a file locally, by one object on a store.
"""

import json
import os
from dataclasses import asdict
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from recspark.config import Run
from recspark.contracts.manifest import FileEntry
from recspark.lake.storage import join, open_filesystem, read_bytes, write_bytes

FORMAT_VERSION = 2
LATEST, RECORD = "LATEST", "RECORD"
_FOLDERS = "step-"


class Record(NamedTuple):
    """One whole checkpoint. ``state`` are the numbers of the trainer, ``step`` among them."""

    folder: str
    files: tuple[FileEntry, ...]
    state: dict[str, Any]
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])

    def to_json(self) -> bytes:
        """As it is written."""
        plain = self._asdict() | {"files": [asdict(file) for file in self.files]}
        return json.dumps(plain, indent=1, sort_keys=True).encode()


class Difference(NamedTuple):
    """A fact that a checkpoint was made from and this run has otherwise, such as config.training.window."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"  {self.name}: the checkpoint has {self.old}, this run has {self.new}"


def checkpoint_uri(run: Run) -> str:
    """Where a run's checkpoints and metrics are."""
    return join(run.lake, "checkpoints", run.stages["train"].key)


def parse_record(content: bytes | None) -> Record | None:
    """The record in a file's bytes, None where there are none, or they are no record of ours."""
    try:
        found = json.loads(content or b"")
        files = found["files"]
        # Records of format 1 have sizes alone: they are still compared with, though nothing goes on from them.
        entries = tuple(FileEntry(**file) for file in files) if isinstance(files, list) else ()
        is_record = isinstance(found["facts"], dict) and isinstance(found["folder"], str) and "step" in found["state"]
        return Record(found["folder"], entries, found["state"], found["facts"]) if is_record else None
    except (ValueError, KeyError, TypeError):
        return None


def read_records(uri: str) -> list[Record]:
    """The readable records below a folder or URI: the one LATEST names, then older ones, newest first.

    Where LATEST is lost, those of all folders that became whole.
    """
    latest = parse_record(read_bytes(join(uri, LATEST)))
    names = sorted((name for name in list_folders(uri) if name.startswith(_FOLDERS)), reverse=True)
    older = [name for name in names if latest is None or name < latest.folder]
    found = [latest, *(parse_record(read_bytes(join(uri, name, RECORD))) for name in older)]
    return [record for record in found if record is not None]


def find_record(uri: str) -> Record | None:
    """The newest readable record below a folder or URI; whether its files are whole is for who resumes to find."""
    return next(iter(read_records(uri)), None)


def compare_facts(
    found: dict[str, Any], wanted: dict[str, Any], prefix: str = "", ignored: tuple[str, ...] = ()
) -> list[Difference]:
    """The facts that differ, by name."""
    differences = []
    for name in sorted((set(found) | set(wanted)) - set(ignored)):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += compare_facts(old, new, f"{prefix}{name}.")
        elif old != new:
            differences.append(Difference(f"{prefix}{name}", old, new))
    return differences


def write_at_once(uri: str, content: bytes) -> None:
    """Writes a small file so that a reader sees the old one or the new one, never a part."""
    filesystem, path = open_filesystem(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        write_bytes(uri, content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)


def list_folders(uri: str) -> list[str]:
    """Names of the folders in one."""
    filesystem, path = open_filesystem(uri)
    found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.type == pafs.FileType.Directory]
