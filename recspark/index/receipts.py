"""Receipts of a build under way: a step writes its files, then `<step>.json`, which a later build can keep.

{"build": "digest of all that the step hangs on", "files": [{"path": ..., "bytes": ..., "sha256": ...}], "facts": {...}}
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from recspark.contracts.manifest import FileEntry
from recspark.lake.folders import hash_file
from recspark.lake.storage import join, read_bytes, write_bytes


@dataclass(frozen=True)
class Receipt:
    """What one finished step of a build wrote; stands beside the files, written after them.

    ``build`` is a digest of all that the step's output hangs on: a receipt of another build does not count.
    """

    build: str
    files: tuple[FileEntry, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def write_receipt(folder: str, name: str, build: str, files: list[str], facts: dict[str, Any]) -> Receipt:
    """Hashes a step's files and writes its receipt."""
    receipt = Receipt(build, tuple(hash_file(folder, file) for file in files), facts)
    write_bytes(join(folder, name), json.dumps(asdict(receipt), sort_keys=True).encode())
    return receipt


def read_receipt(folder: str, name: str, build: str, *, verify: bool = True) -> Receipt | None:
    """A step's receipt, None where the step has to run: no receipt, one of another build, or files that differ.

    ``verify=False`` leaves the files alone, for whoever only waits.
    """
    content = read_bytes(join(folder, name))
    try:
        found = json.loads(content or b"")
        files = tuple(FileEntry(**entry) for entry in found["files"])
        if found["build"] != build or (verify and any(hash_file(folder, entry.path) != entry for entry in files)):
            return None
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return None
    return Receipt(build, files, found["facts"])
