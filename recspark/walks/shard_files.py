"""The walk graph in ranges of nodes, as .npy files in the lake: each written by one task, mapped by who walks in it.

    checkpoints/5f0c.../graph-3-8/shard-00004-9a1e.../indptr.npy ...   one folder an attempt: none overwrites another
                                  thresholds/thresholds.npy            of all nodes, for node2vec+
                                  shards.json                          written last: which attempts count

A worker maps a local lake's files in place. From an object store it fetches a shard once a machine.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from recspark.lake.storage import join, open_filesystem, read_bytes, writable_folder, write_bytes
from recspark.walks.graph_files import open_array
from recspark.walks.walk_graph import WalkGraph

MANIFEST = "shards.json"
_THRESHOLDS = "thresholds"
_ARRAYS = tuple(name for name in WalkGraph._fields if name != _THRESHOLDS)
_DAY = 86400


@dataclass(frozen=True)
class ShardFiles:
    """Where the shards of a graph are: shard s has nodes ``bounds[s]``..``bounds[s + 1]`` - 1, in ``names[s]``."""

    folder: str
    names: tuple[str, ...]
    bounds: tuple[int, ...]
    num_edges: tuple[int, ...]
    num_starts: int
    num_bytes: int
    has_thresholds: bool

    @property
    def num_shards(self) -> int:
        """How many there are."""
        return len(self.names)

    def to_json(self) -> bytes:
        """The manifest."""
        return json.dumps(asdict(self)).encode()


def read_manifest(folder: str) -> ShardFiles | None:
    """The shards that an earlier build has finished, None without."""
    content = read_bytes(join(folder, MANIFEST))
    if content is None:
        return None
    found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(content).items()}
    return ShardFiles(**(found | {"folder": folder}))


def write_manifest(files: ShardFiles) -> None:
    """Says that the shards are all there."""
    write_bytes(join(files.folder, MANIFEST), files.to_json())


def write_shard(folder: str, shard: int, graph: WalkGraph) -> str:
    """Writes a shard's arrays into a folder of their own; its name. ``thresholds`` are its own nodes'."""
    name = f"shard-{shard:05d}-{uuid.uuid4().hex}"
    arrays: dict[str, NDArray[Any]] = graph._asdict()
    with writable_folder(join(folder, name)) as place:
        for array, values in arrays.items():
            np.save(os.path.join(place, f"{array}.npy"), values)
    return name


def join_thresholds(folder: str, names: list[str]) -> None:
    """One file of the thresholds of all nodes: 4 bytes a node, streamed shard by shard."""
    filesystem, root = open_filesystem(folder)
    parts = [read_array(f"{root}/{name}/{_THRESHOLDS}.npy", filesystem) for name in names]
    with writable_folder(join(folder, _THRESHOLDS)) as place:
        np.save(os.path.join(place, f"{_THRESHOLDS}.npy"), np.concatenate(parts))


def read_array(path: str, filesystem: pafs.FileSystem) -> NDArray[Any]:
    """An array in memory."""
    with filesystem.open_input_file(path) as stream:
        found: NDArray[Any] = np.load(stream)
    return found


@lru_cache(maxsize=2)
def open_shard(files: ShardFiles, shard: int) -> tuple[WalkGraph, int, int]:
    """(graph, its first node, edges in the shards before), mapped read-only; a process keeps the last two."""
    folder = local_folder(files, files.names[shard])
    arrays = {name: open_array(os.path.join(folder, f"{name}.npy")) for name in _ARRAYS}
    if files.has_thresholds:
        whole = os.path.join(local_folder(files, _THRESHOLDS), f"{_THRESHOLDS}.npy")
    else:
        whole = os.path.join(folder, f"{_THRESHOLDS}.npy")  # empty
    graph = WalkGraph(**arrays, thresholds=open_array(whole))
    return graph, files.bounds[shard], sum(files.num_edges[:shard])


def local_folder(files: ShardFiles, name: str) -> str:
    """A folder of the graph on this machine: the place itself, or a copy that its processes share."""
    filesystem, path = open_filesystem(join(files.folder, name))
    if isinstance(filesystem, pafs.LocalFileSystem):
        return path
    return fetch(filesystem, path, os.path.join(tempfile.gettempdir(), f"recspark-shards-{os.getuid()}"))


def fetch(filesystem: pafs.FileSystem, path: str, cache: str) -> str:
    """A copy of a folder below ``cache``, made by whichever process comes first; copies not used for a day go."""
    os.makedirs(cache, exist_ok=True)
    place = os.path.join(cache, hashlib.sha256(path.encode()).hexdigest()[:32])
    with open(os.path.join(cache, "lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(place):
            _remove_old(cache)
            draft = tempfile.mkdtemp(dir=cache)
            pafs.copy_files(path, draft, filesystem, pafs.LocalFileSystem())
            os.rename(draft, place)
        os.utime(place)
    return place


def _remove_old(cache: str) -> None:
    for entry in os.scandir(cache):
        if entry.is_dir() and entry.stat().st_mtime < time.time() - _DAY:
            shutil.rmtree(entry.path, ignore_errors=True)


def remove_shards(folder: str) -> None:
    """Removes a graph that no walk needs any more."""
    filesystem, path = open_filesystem(folder)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
