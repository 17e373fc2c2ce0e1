"""Files of an index folder, written and read on any file system: faiss indexes and arrays."""

import os
import tempfile
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from recspark.errors import IndexReadError
from recspark.index.engine import FaissIndex, faiss
from recspark.lake.folders import rebuild_command
from recspark.lake.storage import open_filesystem, open_input

FOLDER = "indexes"
REBUILD = f"remove its folder and {rebuild_command(FOLDER)}"
"""What to do about a file that is whole but wrong."""
_CHUNK_BYTES = 1 << 20


def write_faiss(index: FaissIndex, uri: str) -> None:
    """Writes a faiss index, straight into the lake's file system.

    faiss' own writer says nothing of what fails when a file is closed, as on a full disk; here every write is checked.

    Raises: OSError where the file system cannot take it.
    """
    filesystem, path = open_filesystem(uri)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:

        def write(chunk: bytes) -> int:
            stream.write(chunk)
            return len(chunk)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write, _CHUNK_BYTES))


def read_faiss(uri: str) -> FaissIndex:
    """Reads a faiss index.

    Raises: IndexReadError when faiss cannot.
    """
    filesystem, path = open_filesystem(uri)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            return faiss.read_index(path)
        with tempfile.TemporaryDirectory() as scratch:
            local = os.path.join(scratch, "index.faiss")
            pafs.copy_files(path, local, filesystem, pafs.LocalFileSystem())
            return faiss.read_index(local)
    except RuntimeError as error:
        raise IndexReadError(f"{uri}: faiss cannot read it ({error}); {REBUILD}") from error


def write_array(array: NDArray[Any], uri: str) -> None:
    """Writes a .npy file."""
    filesystem, path = open_filesystem(uri)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        np.save(stream, array)


def read_array(uri: str) -> NDArray[Any]:
    """A .npy file: memory-mapped where it is local, read whole elsewhere."""
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
        return mapped
    with open_input(uri) as stream:
        loaded: NDArray[Any] = np.load(BytesIO(stream.read()))
    return loaded
