"""Garbage collection of folders: what no release needs any more, and what no release ever needed for a long time.

releases/<id>, indexes/<id>, models/<id>     kept where a kept release, or an index it is built upon, refers to them

Kept releases: the active one, the one before it, the newest few that were published, those that readers have
leased, and what is being published. Rows of the others leave the table in one commit, then their folders go.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

from recspark.errors import LakeError, ReleaseError
from recspark.faults import fault_point
from recspark.lake.folders import folder_uri, list_folders, read_manifest, remove_folder
from recspark.releases.binding import FOLDER, INDEXES, MODELS, list_index_chain
from recspark.releases.leases import drop_expired, list_leases
from recspark.releases.manifest import read_release_manifest
from recspark.releases.registry import (
    ACTIVE,
    BUILDING,
    FAILED,
    READY,
    RETIRED,
    Registry,
    ReleaseRow,
    Rows,
    action_record,
    change_registry,
    now,
    read_registry,
)

KINDS = (FOLDER, INDEXES, MODELS)


@dataclass(frozen=True)
class Garbage:
    """What a collection would remove, and why the rest stays."""

    kept: dict[str, str]
    """release_id -> why it is kept."""
    rows: list[ReleaseRow]
    """Releases to be forgotten."""
    folders: list[tuple[str, str]] = field(default_factory=list)
    """(kind, id) of folders to be removed, releases first."""

    def describe(self, lake: str, is_dry: bool) -> str:
        """For people."""
        verb = "would remove" if is_dry else "removed"
        lines = [f"kept     release {release_id}: {why}" for release_id, why in self.kept.items()]
        lines += [f"{verb} release {row.release_id}: {row.state}, {row.reason}" for row in self.rows]
        lines += [f"{verb} {folder_uri(lake, *folder)}" for folder in self.folders]
        return "\n".join(lines) or "nothing to remove"


def find_garbage(lake: str, keep: int, days: float) -> Garbage:
    """What can go when the ``keep`` newest releases stay, and what belongs to none once it is ``days`` old.

    Raises: ReleaseError where it cannot be told what a kept release needs: then nothing is removed.
    """
    registry = read_registry(lake)
    kept = _choose_kept(registry, keep, days)
    rows = [row for row in registry.rows.values() if row.release_id not in kept]
    needed = {folder for release_id in kept for folder in _list_needed(lake, registry.rows[release_id])}
    released = needed | {folder for row in rows for folder in _list_referenced(lake, row)}
    return Garbage(kept, rows, list(_find_folders(lake, needed, released, days)))


def collect_garbage(lake: str, keep: int, days: float) -> Garbage:
    """Removes it: rows in one commit, then folders; a collection that was killed is gone on with by the next.

    Raises: ReleaseError as `find_garbage`, and where a release has changed meanwhile.
    """
    garbage = find_garbage(lake, keep, days)
    if garbage.rows:
        _forget(lake, garbage.rows)
        garbage = _take_back(lake, garbage)
    fault_point("gc.rows")
    for kind, folder_id in garbage.folders:
        remove_folder(lake, kind, folder_id)
        fault_point("gc.folder")
    drop_expired(lake)
    return garbage


def _choose_kept(registry: Registry, keep: int, days: float) -> dict[str, str]:
    """release_id -> the first reason that holds."""
    reasons: dict[str, str] = {}
    active = registry.active
    if active:
        reasons[active.release_id] = "active"
        if active.previous_id in registry.rows:
            reasons.setdefault(str(active.previous_id), "where a rollback goes")
    for lease in list_leases(registry.lake):
        if lease.release_id in registry.rows:
            until = lease.expires_at.isoformat(timespec="minutes")
            reasons.setdefault(lease.release_id, f"leased by {lease.holder} until {until}")
    published = [row for row in registry.rows.values() if row.state in (READY, RETIRED)]
    for row in published[-keep:] if keep else ():
        reasons.setdefault(row.release_id, f"one of the newest {keep}")
    for row in registry.rows.values():
        if row.state in (BUILDING, FAILED) and not _is_older(row.changed_at, days):
            reasons.setdefault(row.release_id, row.reason)
    return reasons


def _list_needed(lake: str, row: ReleaseRow) -> list[tuple[str, str]]:
    """Folders of a kept release.

    Raises: ReleaseError when its manifest, or that of an index of it, cannot be read.
    """
    own = [(FOLDER, row.release_id), (MODELS, row.model_id)]
    try:
        chain = [(INDEXES, index_id) for index_id in list_index_chain(lake, row.index_id)]
        folders = read_release_manifest(lake, row).inputs["folders"] if row.manifest_sha256 else ()
    except (LakeError, ReleaseError) as error:
        raise ReleaseError(f"gc: cannot tell what a kept release needs, so nothing is removed: {error}") from error
    return [*own, *chain, *map(_split, folders)]


def _list_referenced(lake: str, row: ReleaseRow) -> list[tuple[str, str]]:
    """Folders of a release that is forgotten."""
    own = [(FOLDER, row.release_id), (MODELS, row.model_id)]
    return own + [(INDEXES, index_id) for index_id in _list_readable_chain(lake, row.index_id)]


def _list_readable_chain(lake: str, index_id: str) -> list[str]:
    """An index that nobody keeps and what it is built upon, as far as its manifest can be read."""
    try:
        return list_index_chain(lake, index_id)
    except LakeError:
        return [index_id]


def _list_models(lake: str, index_id: str) -> list[str]:
    """The model whose vectors an index holds, as far as its manifest can be read."""
    try:
        manifest = read_manifest(lake, INDEXES, index_id)
    except LakeError:
        return []
    return [manifest.inputs["model_id"]] if manifest and "model_id" in manifest.inputs else []


def _find_folders(
    lake: str, needed: set[tuple[str, str]], released: set[tuple[str, str]], days: float
) -> Iterator[tuple[str, str]]:
    """Folders that nobody needs: of forgotten releases at once, of no release when they are old.

    What a young index was made of, the model and the index it is built upon, is needed to release it.
    """
    there = {(kind, folder_id): newest for kind in KINDS for folder_id, newest in list_folders(lake, kind).items()}
    young = {folder for folder, newest in there.items() if folder not in released and not _is_older(newest, days)}
    bases = {
        (INDEXES, index_id)
        for kind, folder_id in needed | young
        if kind == INDEXES
        for index_id in _list_readable_chain(lake, folder_id)
    }
    models = {(MODELS, model) for kind, index_id in young if kind == INDEXES for model in _list_models(lake, index_id)}
    unneeded = there.keys() - needed - young - bases - models
    yield from sorted(unneeded, key=lambda folder: (KINDS.index(folder[0]), folder[1]))


def _forget(lake: str, rows: list[ReleaseRow]) -> None:
    """Takes rows out of the table.

    Raises: ReleaseError where one of them is not as it was.
    """
    gone = {row.release_id for row in rows}

    def change(registry: Registry) -> Rows:
        for row in rows:
            found = registry.rows.get(row.release_id)
            if found and (found.state == ACTIVE or found.changed_at != row.changed_at):
                raise ReleaseError(f"gc: release {row.release_id} became {found.state} meanwhile; run it again")
        return {release_id: row for release_id, row in registry.rows.items() if release_id not in gone}

    change_registry(lake, change, action_record("gc", "", forgotten=sorted(gone)))


def _take_back(lake: str, garbage: Garbage) -> Garbage:
    """What is left to go once the releases are back that readers have leased since they were looked for.

    A reader looks for its row again after it has taken its lease: either it finds that gone, or its lease is seen here.

    Raises: ReleaseError where it cannot be told what such a release needs: then nothing is removed.
    """
    leased = {lease.release_id: lease.holder for lease in list_leases(lake)}
    back = {row.release_id: row for row in garbage.rows if row.release_id in leased}
    if not back:
        return garbage
    change_registry(lake, lambda registry: back | registry.rows, action_record("gc", "", taken_back=sorted(back)))
    needed = {folder for row in back.values() for folder in _list_needed(lake, row)}
    return Garbage(
        garbage.kept | {release_id: f"leased meanwhile by {leased[release_id]}" for release_id in back},
        [row for row in garbage.rows if row.release_id not in back],
        [folder for folder in garbage.folders if folder not in needed],
    )


def _is_older(time: dt.datetime, days: float) -> bool:
    return now() - time >= dt.timedelta(days=days)


def _split(name: str) -> tuple[str, str]:
    kind, _, folder_id = name.partition("/")
    return kind, folder_id
