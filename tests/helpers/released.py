"""A lake with two published releases, made once a test session; every test works on a copy of its own."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from recspark.config import Run
from recspark.releases.registry import Registry, ReleaseRow, read_registry
from tests.helpers.release_lake import plan_releasable, release


@dataclass(frozen=True)
class Released:
    """A folder with a lake in it, and its two releases, both READY."""

    folder: Path
    first: str
    second: str

    @property
    def lake(self) -> str:
        """The lake."""
        return str(self.folder / "lake")

    @property
    def registry(self) -> Registry:
        """As it is now."""
        return read_registry(self.lake)

    def run(self, seed: int) -> Run:
        """The run that a release came from: 1 or 2."""
        return plan_releasable(self.folder, seed)

    def row(self, release_id: str) -> ReleaseRow:
        """A release's row as it is now."""
        return self.registry.rows[release_id]

    def file(self, *parts: str) -> Path:
        """A path in the lake."""
        return Path(self.lake, *parts)

    def states(self) -> dict[str, str]:
        """release_id -> state."""
        return {release_id: row.state for release_id, row in self.registry.rows.items()}


def build_released(folder: Path) -> Released:
    """Both releases."""
    return Released(folder, release(folder, 1).release_id, release(folder, 2).release_id)


def copy_released(made: Released, folder: Path) -> Released:
    """A copy to be broken."""
    shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    return Released(folder, made.first, made.second)
