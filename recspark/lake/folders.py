"""Immutable folders (``models/<id>``, ``indexes/<id>``): files first, ``manifest.json`` last, never a rename.

A folder is there when its manifest is. A writer that died leaves files without one, which the next writer replaces.
Where an index or a model is built again, its manifest waits as ``manifest.before.json``: a folder that has become what
it was is given it back, since releases know folders by the hash of their manifests.
What a folder has lost is seen in two steps: `find_flaw` compares sizes and is cheap enough for every run, `check_file`
reads a whole file and is for those who are about to use it.
"""

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow.fs as pafs

from recspark import __version__
from recspark.contracts.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest, stream_sha256
from recspark.contracts.stages import INDEX_BUILD, RELEASE, TRAIN
from recspark.errors import LakeError
from recspark.lake.storage import join, open_filesystem, read_bytes, write_bytes

_BUILDERS = {stage.folder or stage.side_folder: stage.name for stage in (TRAIN, INDEX_BUILD)}
_REBUILT = tuple(_BUILDERS)
_BEFORE_NAME = "manifest.before.json"
_BUILDERS["releases"] = RELEASE.name


def folder_uri(lake: str, kind: str, folder_id: str) -> str:
    """Where a folder lives, such as ``lake/indexes/3fa2...``."""
    return join(lake, kind, folder_id)


def publish_folder(
    lake: str,
    kind: str,
    folder_id: str,
    files: Sequence[str | FileEntry],
    *,
    counts: dict[str, Any],
    config: dict[str, Any],
    inputs: dict[str, Any],
    facts: dict[str, Any],
    run_id: str,
) -> Manifest:
    """Writes the manifest that makes the folder there; files that are named only are hashed first.

    Of an index or a model that was built again, from the same and with the same files, the earlier manifest.
    """
    folder = folder_uri(lake, kind, folder_id)
    manifest = Manifest(
        kind=kind,
        id=folder_id,
        files=tuple(hash_file(folder, file) if isinstance(file, str) else file for file in files),
        counts=counts,
        config=config,
        inputs=inputs,
        facts=facts,
        run_id=run_id,
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        code_version=__version__,
    )
    before = _read_before(folder) if kind in _REBUILT else None
    if before and _is_rebuilt(before, manifest):
        manifest = before
    write_bytes(join(folder, MANIFEST_NAME), manifest.to_json().encode())
    _remove_file(join(folder, _BEFORE_NAME))
    return manifest


def _read_before(folder: str) -> Manifest | None:
    """The manifest of the folder before it was built again, as far as it can be read."""
    content = read_bytes(join(folder, _BEFORE_NAME))
    with suppress(ValueError):
        return parse_manifest(content.decode()) if content else None
    return None


def _is_rebuilt(before: Manifest, now: Manifest) -> bool:
    """Whether two manifests differ at most in when, by what run, and how fast the folder was built."""
    found = parse_manifest(now.to_json())
    return before == replace(
        found, facts=before.facts, run_id=before.run_id, created_at=before.created_at, code_version=before.code_version
    )


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
    try:
        return _parse(lake, kind, folder_id)
    except ValueError as error:
        uri = join(folder_uri(lake, kind, folder_id), MANIFEST_NAME)
        raise LakeError(f"{uri}: {error}; restore it, or {rebuild_command(kind)} to build again") from error


def find_flaw(lake: str, kind: str, folder_id: str) -> str | None:
    """Why a folder does not count as finished, None where it does.

    Compares the presence and size of every file with the manifest, in one listing: what was lost or cut short is
    built again by the next run. It leaves out their SHA-256, for which a run would have to read all of an index of
    many GiB only to say "already done". A flipped bit is found by whoever uses the file, with `check_file`: a search
    before faiss sees it, a build before it keeps a shard, the train stage before it takes up a published model.
    """
    name, sizes = f"{kind}/{folder_id}", _list_sizes(folder_uri(lake, kind, folder_id))
    try:
        manifest = _parse(lake, kind, folder_id)
    except ValueError as error:
        return f"{name}/{MANIFEST_NAME} cannot be read: {error}"
    if manifest is None:
        return (
            f"{name} has no {MANIFEST_NAME}: its build was stopped, or the manifest is lost" if sizes else f"no {name}"
        )
    flaws = [_describe_size(entry, sizes.get(entry.path)) for entry in manifest.files]
    if base := manifest.facts.get("base"):  # an index that shares files of another
        there = _list_sizes(folder_uri(lake, kind, base["index_id"]))
        shared = [_describe_size(FileEntry(**entry), there.get(entry["path"])) for entry in base["files"]]
        flaws += [f"{kind}/{base['index_id']}/{flaw}" for flaw in shared if flaw]
    return f"{name}: {'; '.join(flaw for flaw in flaws if flaw)}" if any(flaws) else None


def has_files(lake: str, kind: str, folder_id: str) -> bool:
    """Whether anything was ever written below a folder."""
    return bool(_list_sizes(folder_uri(lake, kind, folder_id)))


def unpublish_folder(lake: str, kind: str, folder_id: str) -> None:
    """Removes the manifest of a folder that is about to be built again, so that nobody opens it half done."""
    folder = folder_uri(lake, kind, folder_id)
    content = read_bytes(join(folder, MANIFEST_NAME)) if kind in _REBUILT else None
    if content is not None:
        write_bytes(join(folder, _BEFORE_NAME), content)
    _remove_file(join(folder, MANIFEST_NAME))


def _remove_file(uri: str) -> None:
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type == pafs.FileType.File:
        filesystem.delete_file(path)


def list_folders(lake: str, kind: str) -> dict[str, dt.datetime]:
    """Ids of all folders of a kind, finished or not, with the time of the newest file in each."""
    filesystem, path = open_filesystem(join(lake, kind))
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    newest: dict[str, dt.datetime] = {}
    for info in found:
        if info.is_file:
            folder_id = info.path.removeprefix(path).lstrip("/").split("/")[0]
            newest[folder_id] = max(info.mtime, newest.get(folder_id, info.mtime))
    return newest


def remove_folder(lake: str, kind: str, folder_id: str) -> int:
    """Removes a folder, its manifest first, so that nobody opens it half gone; bytes freed."""
    folder = folder_uri(lake, kind, folder_id)
    freed = sum(_list_sizes(folder).values())
    unpublish_folder(lake, kind, folder_id)
    filesystem, path = open_filesystem(folder)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
    return freed


def rebuild_command(kind: str) -> str:
    """What to run so that a folder is built again; the command line fills in its config for CONF."""
    return f"run `recspark run CONF --to {_BUILDERS[kind]}`"


def check_file(lake: str, kind: str, folder_id: str, entry: FileEntry) -> str:
    """The URI of a folder's file, after comparing it with the manifest.

    Raises: LakeError when it is missing, of another size or of another SHA-256.
    """
    folder = folder_uri(lake, kind, folder_id)
    uri, advice = join(folder, entry.path), f"restore it, or {rebuild_command(kind)} to build again"
    try:
        found = hash_file(folder, entry.path)
    except FileNotFoundError as error:
        raise LakeError(f"{uri}: missing, but listed in the manifest; {advice}") from error
    if found.bytes != entry.bytes:
        raise LakeError(f"{uri}: {found.bytes} bytes, the manifest says {entry.bytes}: cut short or replaced; {advice}")
    if found.sha256 != entry.sha256:
        raise LakeError(
            f"{uri}: SHA-256 differs from the manifest: damaged or replaced; restore it, or remove this file and "
            f"{rebuild_command(kind)} to build it again"
        )
    return uri


def _parse(lake: str, kind: str, folder_id: str) -> Manifest | None:
    """None without a manifest; ValueError for one that cannot be read."""
    content = read_bytes(join(folder_uri(lake, kind, folder_id), MANIFEST_NAME))
    return None if content is None else parse_manifest(content.decode())


def _list_sizes(folder: str) -> dict[str, int]:
    """Path below a folder -> bytes."""
    filesystem, path = open_filesystem(folder)
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(path).lstrip("/"): info.size for info in found if info.is_file}


def _describe_size(entry: FileEntry, size: int | None) -> str | None:
    """What is wrong with a file of ``size`` bytes (None: it is not there), None where nothing is."""
    if size is None:
        return f"{entry.path} is missing"
    return None if size == entry.bytes else f"{entry.path} has {size} bytes, the manifest says {entry.bytes}"
