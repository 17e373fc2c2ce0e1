"""The walk graph as .npy files that every worker maps into memory: read once from disk, shared by all of a machine.

A folder belongs to the process that wrote it, which holds its lock: it goes when the process ends, and what a killed
process left behind goes when the next one starts.
"""

import atexit
import fcntl
import glob
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import SetupError
from recspark.walks.starts import Starts
from recspark.walks.walk_graph import WalkGraph

ARRAYS = (*WalkGraph._fields, *(f"start_{name}" for name in Starts._fields))
_FOLDER_PREFIX, _DRAFT_PREFIX = "recspark-walks-", "recspark-draft-"
_LOCK = "lock"
_held_locks: list[IO[bytes]] = []


@dataclass(frozen=True)
class GraphFiles:
    """Where a worker finds a graph's files: in ``folder``, or under its own name among the files that Spark ships."""

    name: str
    folder: str | None

    def file_name(self, array: str) -> str:
        """The file of one array; unique among all graphs that one Spark application ships."""
        return f"{self.name}-{array}.npy"

    def path(self, array: str) -> str:
        """The file's path on the machine that asks."""
        if self.folder is not None:
            return os.path.join(self.folder, self.file_name(array))
        from pyspark import SparkFiles

        return str(SparkFiles.get(self.file_name(array)))


def write_graph(name: str, graph: WalkGraph, starts: Starts, root: str | None) -> GraphFiles:
    """Writes the arrays into a new folder below ``root`` (by default the system's temporary folder).

    Raises: SetupError when the disk has no room for them.
    """
    root = root or tempfile.gettempdir()
    os.makedirs(root, exist_ok=True)
    remove_leftovers(root)
    arrays: list[NDArray[Any]] = [*graph, *starts]
    needed, free = sum(a.nbytes for a in arrays), shutil.disk_usage(root).free
    if needed > free:
        raise SetupError(
            f"walks: the graph needs {needed:,} bytes on disk in {root}, {free:,} are free; point spark.local.dir to a "
            f"larger disk, or lower graph.num_neighbours or walks.max_degree"
        )
    files = GraphFiles(name, _make_folder(root))
    for array, values in zip(ARRAYS, arrays, strict=True):
        np.save(files.path(array), values)
    return files


def _make_folder(root: str) -> str:
    """A folder that is locked by this process and removed at its end."""
    draft = tempfile.mkdtemp(prefix=_DRAFT_PREFIX, dir=root)
    lock = open(os.path.join(draft, _LOCK), "wb")  # noqa: SIM115 - held until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held_locks.append(lock)
    folder = draft.replace(_DRAFT_PREFIX, _FOLDER_PREFIX)
    os.rename(draft, folder)  # only now may others ask for its lock
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_leftovers(root: str) -> None:
    """Removes folders whose process is gone: nobody holds their lock any more."""
    for path in glob.glob(os.path.join(root, f"{_FOLDER_PREFIX}*", _LOCK)):
        try:
            with open(path, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # alive, or another user's
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)


@lru_cache(maxsize=2)
def open_graph(files: GraphFiles) -> tuple[WalkGraph, Starts]:
    """(graph, starts), mapped read-only; once a worker process, whose tasks then share the mapping."""
    arrays = [open_array(files.path(array)) for array in ARRAYS]
    num_graph = len(WalkGraph._fields)
    return WalkGraph(*arrays[:num_graph]), Starts(*arrays[num_graph:])


def open_array(path: str) -> NDArray[Any]:
    """One array, mapped where there is something to map."""
    array = np.load(path) if _is_empty(path) else np.asarray(np.load(path, mmap_mode="r"))
    array.flags.writeable = False  # numba compiles a kernel for read-only and one for writable arrays: one is enough
    return array


def _is_empty(path: str) -> bool:
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), "numpy writes plain arrays in format 1.0"
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return 0 in shape
