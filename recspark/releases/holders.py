"""Which releases hold a folder: those that were published, or that readers have leased, and refer to it."""

from recspark.errors import LakeError
from recspark.releases.binding import INDEXES, MODELS, list_index_chain
from recspark.releases.leases import list_leases
from recspark.releases.registry import ACTIVE, READY, RETIRED, ReleaseRow, read_registry


def find_holder(lake: str, kind: str, folder_id: str) -> ReleaseRow | None:
    """A release that refers to an index or a model, or to an index built upon it; the active one where that does."""
    rows = read_registry(lake).rows.values()
    leased = {lease.release_id for lease in list_leases(lake)}
    held = [row for row in rows if row.state in (READY, ACTIVE, RETIRED) or row.release_id in leased]
    held.sort(key=lambda row: row.state != ACTIVE)
    return next((row for row in held if _refers(lake, row, kind, folder_id)), None)


def _refers(lake: str, row: ReleaseRow, kind: str, folder_id: str) -> bool:
    if kind == MODELS:
        return row.model_id == folder_id
    try:
        return kind == INDEXES and folder_id in list_index_chain(lake, row.index_id)
    except LakeError:  # a manifest that cannot be read says nothing of a base
        return row.index_id == folder_id
