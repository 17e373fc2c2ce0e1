"""Vacuum of tables: data files that only versions superseded long ago use, and no version that a release pins.

tables/item_graph   versions 0..7, newest 7, release 3fa2... pins 2   ->   files of 2 and 7 stay, those of 0 go
"""

from dataclasses import dataclass, field
from urllib.parse import unquote

import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError

from recspark.contracts.tables import RELEASES, TABLES
from recspark.errors import LakeError, ReleaseError, first_line
from recspark.lake.arrow import has_table, open_table, table_uri
from recspark.lake.storage import open_filesystem
from recspark.releases.binding import table_of
from recspark.releases.manifest import read_release_manifest
from recspark.releases.registry import ACTIVE, READY, RETIRED, read_registry

MIN_DAYS = 1.0
"""Files younger than this may belong to a commit that is about to be made."""
_HELD_BELOW = ("walks",)
"""Tables with tables of their own below them: there only files that the log knows are looked at."""
Pins = dict[str, dict[int, list[str]]]
"""table -> version -> the releases that pin it."""


@dataclass(frozen=True)
class Vacuumed:
    """What was, or would be, freed of one table; ``pinned`` versions are left as they are."""

    table: str
    files: list[str]
    bytes: int
    pinned: dict[int, list[str]] = field(default_factory=dict)

    def describe(self, is_dry: bool) -> str:
        """One line, and one a pinned version."""
        verb = "would free" if is_dry else "freed"
        lines = [f"{self.table:<20} {verb} {len(self.files)} files, {self.bytes:,} bytes"]
        for version, releases in sorted(self.pinned.items()):
            lines.append(f"{'':<20} version {version} is kept: pinned by release {', '.join(releases)}")
        return "\n".join(lines)


def find_pins(lake: str) -> Pins:
    """Which version of which table is pinned by which releases.

    Raises: ReleaseError where a release's manifest cannot be read: then nothing may be freed.
    """
    pins: Pins = {}
    for row in read_registry(lake).rows.values():
        if row.state not in (READY, ACTIVE, RETIRED):
            continue
        for label, bound in read_release_manifest(lake, row).inputs["tables"].items():
            releases = pins.setdefault(table_of(label), {}).setdefault(int(bound["version"]), [])
            releases.append(row.release_id)
    return pins


def vacuum_tables(lake: str, days: float, is_dry: bool) -> list[Vacuumed]:
    """Frees files of all tables but `releases` that no version younger than ``days`` uses and no release pins.

    Raises: ReleaseError for fewer than `MIN_DAYS` days, or a pinned version that cannot be read any more.
    """
    if days < MIN_DAYS:
        raise ReleaseError(f"vacuum: --days must be at least {MIN_DAYS:g}, got {days:g}: younger files may be of a "
                           f"commit that is being made")  # fmt: skip
    pins = find_pins(lake)
    names = [name for name in TABLES if name != RELEASES.name and has_table(lake, name)]
    return [vacuum_table(lake, name, days, pins.get(name, {}), is_dry) for name in names]


def vacuum_table(lake: str, name: str, days: float, pinned: dict[int, list[str]], is_dry: bool) -> Vacuumed:
    """Frees files of one table.

    Raises: ReleaseError naming the release whose pinned version cannot be read: freeing more would hide that.
    """
    for version, releases in pinned.items():
        try:
            open_table(lake, name, version)
        except LakeError as error:
            raise ReleaseError(f"vacuum: release {releases[0]} pins what is gone: {error}") from error
    table = open_table(lake, name)
    how = {"enforce_retention_duration": False, "full": name not in _HELD_BELOW, "keep_versions": sorted(pinned)}
    try:
        files = table.vacuum(round(days * 24), dry_run=True, **how)
        freed = _count_bytes(table_uri(lake, name), files)
        if files and not is_dry:
            table.vacuum(round(days * 24), dry_run=False, **how)
    except DeltaError as error:
        raise LakeError(f"{table_uri(lake, name)}: cannot be vacuumed ({first_line(error)})") from error
    return Vacuumed(name, files, freed, pinned)


def _count_bytes(uri: str, files: list[str]) -> int:
    if not files:
        return 0
    filesystem, path = open_filesystem(uri)
    infos = filesystem.get_file_info([f"{path}/{unquote(file)}" for file in files])
    return sum(info.size for info in infos if info.type == pafs.FileType.File)
