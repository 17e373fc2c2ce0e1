"""The active release as what batches of lists are made from."""

from recspark.errors import ReleaseError
from recspark.releases.binding import open_bound
from recspark.releases.leases import Lease, drop_lease, take_lease
from recspark.releases.manifest import check_folders, read_release_manifest
from recspark.releases.registry import ReleaseRow, read_registry
from recspark.retrieval.serving import Pinned

BATCH_HOURS = 72.0
_TABLES = ("items", "users", "user_histories", "item_embeddings")


def pin_active(lake: str) -> tuple[Pinned, Lease]:
    """The tables at the versions that the active release binds, and its index; with a lease for who reads them, to be
    dropped when the batch is done. One that dies without a word leaves a lease of `BATCH_HOURS`.

    Raises: ReleaseError when no release is active, its manifest, index or model is not as it was, or it has no users.
    """
    row = read_registry(lake).active
    if row is None:
        raise ReleaseError(f"{lake}: no release is active; run `recspark release activate CONF` first")
    lease = take_lease(lake, row.release_id, BATCH_HOURS)
    try:
        return _pin(lake, read_registry(lake).find(row.release_id)), lease
    except BaseException:
        drop_lease(lease)
        raise


def _pin(lake: str, row: ReleaseRow) -> Pinned:
    manifest = read_release_manifest(lake, row)
    check_folders(lake, row, manifest)
    bound = manifest.inputs["tables"]
    missing = [table for table in _TABLES if table not in bound]
    if missing:
        raise ReleaseError(f"release {row.release_id}: it has no {', '.join(missing)}, so no users to list items for")
    tables = {table: open_bound(lake, table, bound[table]) for table in _TABLES}
    return Pinned(lake, **tables, index_id=row.index_id)
