"""One manifest format for all folders (models, indexes): a folder is there when its ``manifest.json`` is.

{"format_version": 1, "kind": "index", "id": "3fa2...", "files": [{"path": "shard-00000.faiss", "bytes": 9,
 "sha256": "..."}], "counts": {...}, "config": {...}, "inputs": {...}, "facts": {...}, "run_id": "...",
 "created_at": "2026-11-23T16:00:00Z", "code_version": "0.1.0"}
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import IO, Any, get_origin

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT_VERSION = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of a folder: its path below the folder, size and SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder holds and what it was made from."""

    kind: str
    id: str
    files: tuple[FileEntry, ...]
    counts: dict[str, Any]
    config: dict[str, Any]
    inputs: dict[str, Any]
    run_id: str
    created_at: str
    code_version: str
    facts: dict[str, Any] = field(default_factory=dict)
    format_version: int = MANIFEST_FORMAT_VERSION

    def to_json(self) -> str:
        """Readable JSON, keys sorted so that equal manifests are equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, default=str) + "\n"

    def file(self, path: str) -> FileEntry:
        """The entry of one file.

        Raises: KeyError where the manifest lists no such file.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)


def parse_manifest(text: str) -> Manifest:
    """The manifest in a file's text.

    Raises: ValueError when the text is no manifest of this format version; the caller knows the path and says it.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(found, dict) or "format_version" not in found:
        raise ValueError("not a recspark manifest: no object with a format_version")
    if found["format_version"] != MANIFEST_FORMAT_VERSION:
        raise ValueError(f"format_version {found['format_version']}, this code reads {MANIFEST_FORMAT_VERSION}")
    if not isinstance(found.get("files"), list):
        raise ValueError(f"not a recspark manifest: files is {found.get('files')!r}, expected a list")
    try:
        entries = tuple(FileEntry(**entry) for entry in found["files"])
        manifest = Manifest(**(found | {"files": entries}))
    except TypeError as error:
        raise ValueError(f"not a recspark manifest: {error}") from error
    parts: list[Manifest | FileEntry] = [manifest, *entries]
    for part in parts:
        _check_types(part)
    return manifest


def _check_types(part: Manifest | FileEntry) -> None:
    for each in fields(part):
        value, kind = getattr(part, each.name), get_origin(each.type) or each.type
        if isinstance(kind, type) and not isinstance(value, kind):
            raise ValueError(f"not a recspark manifest: {each.name} is {value!r}, expected {kind.__name__}")


def stream_sha256(stream: IO[bytes], chunk_bytes: int = 1 << 20) -> tuple[int, str]:
    """(bytes read, hex SHA-256) of a binary stream."""
    digest, total = hashlib.sha256(), 0
    while chunk := stream.read(chunk_bytes):
        digest.update(chunk)
        total += len(chunk)
    return total, digest.hexdigest()
