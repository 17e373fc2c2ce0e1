"""Leases: a reader's word that it still has a release open, so that garbage collection leaves it alone.

leases/<release_id>/<reader>.json     {"holder": "host-3:4711", "expires_at": "2026-11-24T16:00:00+00:00"}

A lease runs out by itself, as readers die without a word; who goes on reading renews it.
"""

import datetime as dt
import json
import os
import socket
import uuid
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from recspark.errors import ReleaseError, first_line
from recspark.lake.storage import join, open_filesystem, read_bytes, write_bytes
from recspark.releases.registry import now

FOLDER = "leases"


@dataclass(frozen=True)
class Lease:
    """One reader's lease on one release."""

    lake: str
    release_id: str
    reader_id: str
    holder: str
    expires_at: dt.datetime

    @property
    def uri(self) -> str:
        """Its file."""
        return join(self.lake, FOLDER, self.release_id, f"{self.reader_id}.json")


def take_lease(lake: str, release_id: str, hours: float, reader_id: str | None = None) -> Lease:
    """A lease from now on; with the ``reader_id`` of an earlier one, that one renewed.

    Raises: ReleaseError when it cannot be written.
    """
    holder = f"{socket.gethostname()}:{os.getpid()}"
    expires_at = now() + dt.timedelta(hours=hours)
    lease = Lease(lake, release_id, reader_id or uuid.uuid4().hex, holder, expires_at)
    said = {"holder": holder, "expires_at": expires_at.isoformat()}
    try:
        write_bytes(lease.uri, json.dumps(said).encode())
    except (OSError, pa.ArrowException) as error:
        raise ReleaseError(
            f"{lease.uri}: the lease cannot be written ({first_line(error)}); open the release with lease_hours=None "
            f"where the lake is read-only, and keep it from garbage collection by `--keep`"
        ) from error
    return lease


def drop_lease(lease: Lease) -> None:
    """Gives a lease back; one that is gone already is no mistake."""
    filesystem, path = open_filesystem(lease.uri)
    if filesystem.get_file_info(path).type == pafs.FileType.File:
        filesystem.delete_file(path)


def list_leases(lake: str) -> list[Lease]:
    """All leases that have not run out. A file that cannot be read counts as a lease without end."""
    return [lease for lease in _read_all(lake) if lease.expires_at > now()]


def drop_expired(lake: str) -> None:
    """Removes the files of leases that have run out."""
    for lease in _read_all(lake):
        if lease.expires_at <= now():
            drop_lease(lease)


def _read_all(lake: str) -> list[Lease]:
    filesystem, path = open_filesystem(join(lake, FOLDER))
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return [_read(lake, info.path) for info in found if info.is_file and info.extension == "json"]


def _read(lake: str, path: str) -> Lease:
    *_, release_id, name = path.split("/")
    reader_id = name.removesuffix(".json")
    content = read_bytes(join(lake, FOLDER, release_id, name))
    try:
        said = json.loads(content or b"")
        return Lease(lake, release_id, reader_id, said["holder"], dt.datetime.fromisoformat(said["expires_at"]))
    except (ValueError, KeyError, TypeError):
        return Lease(lake, release_id, reader_id, "unknown", dt.datetime.max.replace(tzinfo=dt.UTC))
