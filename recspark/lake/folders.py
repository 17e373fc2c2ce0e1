"""Immutable folders (``models/<id>``, ``indexes/<id>``): files first, ``manifest.json`` last, never a rename.

A folder is there when its manifest is. A writer that died leaves files without one, which the next writer replaces.
"""

import datetime as dt
from typing import Any

from recspark import __version__
from recspark.contracts.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest, stream_sha256
from recspark.errors import LakeError
from recspark.lake.storage import join, open_filesystem, read_bytes, write_bytes


def folder_uri(lake: str, kind: str, folder_id: str) -> str:
    """Where a folder lives, such as ``lake/indexes/3fa2...``."""
    return join(lake, kind, folder_id)


def publish_folder(
    lake: str,
    kind: str,
    folder_id: str,
    files: list[str],
    *,
    counts: dict[str, Any],
    config: dict[str, Any],
    inputs: dict[str, Any],
    facts: dict[str, Any],
    run_id: str,
) -> Manifest:
    """Hashes the files already written below the folder and writes the manifest that makes it there."""
    folder = folder_uri(lake, kind, folder_id)
    manifest = Manifest(
        kind=kind,
        id=folder_id,
        files=tuple(hash_file(folder, name) for name in files),
        counts=counts,
        config=config,
        inputs=inputs,
        facts=facts,
        run_id=run_id,
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        code_version=__version__,
    )
    write_bytes(join(folder, MANIFEST_NAME), manifest.to_json().encode())
    return manifest


def hash_file(folder: str, name: str) -> FileEntry:
    """Size and SHA-256 of one file below a folder."""
    filesystem, path = open_filesystem(join(folder, name))
    with filesystem.open_input_stream(path) as stream:
        size, digest = stream_sha256(stream)
    return FileEntry(name, size, digest)


def read_manifest(lake: str, kind: str, folder_id: str) -> Manifest | None:
    """A folder's manifest, None where the folder is not there.

    Raises: LakeError when the file is no manifest.
    """
    uri = join(folder_uri(lake, kind, folder_id), MANIFEST_NAME)
    content = read_bytes(uri)
    if content is None:
        return None
    try:
        return parse_manifest(content.decode())
    except ValueError as error:
        raise LakeError(f"{uri}: {error}; remove the folder and build it again") from error


def check_file(lake: str, kind: str, folder_id: str, entry: FileEntry) -> str:
    """The URI of a folder's file, after comparing it with the manifest.

    Raises: LakeError when it is missing, of another size or of another SHA-256.
    """
    folder = folder_uri(lake, kind, folder_id)
    uri = join(folder, entry.path)
    advice = f"restore it, or remove {folder} and run again"
    try:
        found = hash_file(folder, entry.path)
    except FileNotFoundError as error:
        raise LakeError(f"{uri}: missing, but listed in the manifest; {advice}") from error
    if found.bytes != entry.bytes:
        raise LakeError(f"{uri}: {found.bytes} bytes, the manifest says {entry.bytes}: cut short or replaced; {advice}")
    if found.sha256 != entry.sha256:
        raise LakeError(f"{uri}: SHA-256 differs from the manifest: damaged or replaced; {advice}")
    return uri
