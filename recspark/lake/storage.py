"""Paths and URIs of a lake, and the one place that turns them into file systems and store options."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs as pafs

from recspark.errors import LakeError, first_line

SCHEMES = ("", "file", "s3", "s3a", "abfss", "gs")
"""What Spark, pyarrow and delta-rs can all reach; the empty one is a local path."""


_EXAMPLES = {
    "": "lake/shop",
    "file": "file:///data/shop",
    "s3": "s3://bucket/shop",
    "s3a": "s3a://bucket/shop",
    "abfss": "abfss://container@account.dfs.core.windows.net/shop",
    "gs": "gs://bucket/shop",
}


def check_uri(uri: str) -> str:
    """The same path or URI.

    Raises: LakeError for a scheme that Spark and delta-rs cannot both reach, or a URI that lacks a part.
    """
    scheme = urlparse(uri).scheme
    if scheme not in SCHEMES:
        raise LakeError(f"{uri}: scheme {scheme!r} is not one of file, s3a, abfss, gs; change paths.lake")
    if flaw := find_uri_flaw(uri):
        raise LakeError(f"paths.lake {uri!r}: {flaw}")
    return uri


def find_uri_flaw(uri: str) -> str | None:
    """What a path or URI of a known scheme lacks, with an example; None for a good one."""
    parts = urlparse(uri)
    flaw = None
    if not uri.strip():
        flaw = "is empty"
    elif uri.startswith("~"):
        return f"~ is not replaced by your home folder; write it out, or as ${{env:HOME}}{uri[1:]}"
    elif parts.scheme and "://" not in uri:
        flaw = f"has no // after {parts.scheme}:"
    elif parts.scheme == "file" and (parts.netloc or not parts.path.strip("/")):
        flaw = f"names {'a host' if parts.netloc else 'no folder'}: a path starts after three slashes"
    elif parts.scheme in ("s3", "s3a", "gs") and not parts.netloc:
        flaw = "names no bucket"
    elif parts.scheme == "abfss" and "@" not in parts.netloc:
        flaw = "names no container@account"
    return flaw and f"{flaw}; expected such as {_EXAMPLES[parts.scheme]}"


def check_lake(uri: str) -> None:
    """Checks that a lake is, or can become, a folder that can be reached.

    Raises: LakeError for a malformed URI, a file in the way, or a store that does not answer.
    """
    check_uri(uri)
    try:
        filesystem, path = open_filesystem(uri)
        found = filesystem.get_file_info(path)
        blocked = found.path if found.is_file else _find_file_above(filesystem, path)
    except (OSError, pa.ArrowException) as error:
        raise LakeError(
            f"paths.lake {uri}: cannot be reached ({first_line(error)}); check the URI, the network and the credentials"
        ) from error
    if blocked:
        raise LakeError(f"paths.lake {uri}: {blocked} is a file, a lake is a folder; choose another place")


def _find_file_above(filesystem: pafs.FileSystem, path: str) -> str | None:
    """A file where a local path wants a folder."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return None
    return next((str(parent) for parent in Path(path).parents if parent.is_file()), None)


def join(uri: str, *parts: str) -> str:
    """A path below a folder or URI; local ones become absolute."""
    if "://" not in uri:
        return os.path.join(os.path.abspath(uri), *parts)
    return "/".join([uri.rstrip("/"), *parts])


def delta_uri(uri: str) -> str:
    """The form delta-rs reads: Hadoop's s3a is its s3."""
    return "s3://" + uri.removeprefix("s3a://") if uri.startswith("s3a://") else uri


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """(file system, path inside it) of a path or URI; credentials come from the environment."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(uri)
    filesystem, path = pafs.FileSystem.from_uri(delta_uri(check_uri(uri)))
    return filesystem, path


def free_disk_bytes(uri: str) -> int | None:
    """Free on the disk where a local folder is or will be; None of a store."""
    filesystem, path = open_filesystem(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return None
    place = next(p for p in (Path(path), *Path(path).parents) if p.exists())
    return shutil.disk_usage(place).free


def read_bytes(uri: str) -> bytes | None:
    """A small file's bytes, None where it does not exist."""
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type != pafs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    return content


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a small file, making its folder."""
    filesystem, path = open_filesystem(uri)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


@contextmanager
def writable_folder(uri: str) -> Iterator[str]:
    """A local folder to write into: the place itself, or one whose files go to the store at the end."""
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        os.makedirs(path, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder
        pafs.copy_files(folder, path, pafs.LocalFileSystem(), filesystem)


@contextmanager
def readable_copy(uri: str) -> Iterator[str]:
    """A local path to read a file or folder from: the place itself, or a copy."""
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, path.rsplit("/", 1)[-1])
        pafs.copy_files(path, local, filesystem, pafs.LocalFileSystem())
        yield local


def open_input(uri: str) -> IO[bytes]:
    """A readable binary stream.

    Raises: FileNotFoundError.
    """
    filesystem, path = open_filesystem(uri)
    return filesystem.open_input_stream(path)  # type: ignore[no-any-return]
