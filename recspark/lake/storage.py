"""Paths and URIs of a lake, and the one place that turns them into file systems and store options."""

import os
from typing import IO
from urllib.parse import urlparse

import pyarrow.fs as pafs

from recspark.errors import LakeError

SCHEMES = ("", "file", "s3", "s3a", "abfss", "gs")
"""What Spark, pyarrow and delta-rs can all reach; the empty one is a local path."""


def check_uri(uri: str) -> str:
    """The same path or URI.

    Raises: LakeError for a scheme that Spark and delta-rs cannot both reach.
    """
    scheme = urlparse(uri).scheme
    if scheme not in SCHEMES:
        raise LakeError(f"{uri}: scheme {scheme!r} is not one of file, s3a, abfss, gs; change paths.lake")
    return uri


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


def open_input(uri: str) -> IO[bytes]:
    """A readable binary stream.

    Raises: FileNotFoundError.
    """
    filesystem, path = open_filesystem(uri)
    return filesystem.open_input_stream(path)  # type: ignore[no-any-return]
