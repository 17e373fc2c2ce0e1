"""What a release is bound to: versions of tables with digests of their files, folders with hashes of their manifests.

{"tables":  {"item_graph": {"version": 7, "stage": "graph", "key": "5f0c...", "files": 3, "rows": 2000, "bytes": 9,
                            "digest": "...", "sha256": {"part-00000-....parquet": "...", ...}}},
 "folders": {"indexes/3fa2...": "sha256 of its manifest.json", "models/77ab...": "..."}}

A table's digest hashes names, sizes and row counts of the data files of that version: Delta gives each file a name of
its own, so another version's rows are another digest, told from the log alone. Each file's SHA-256 tells what was
changed in it since, for the price of reading it. A folder's manifest holds the SHA-256 of each of its files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from recspark.contracts.manifest import MANIFEST_NAME
from recspark.contracts.stages import PlannedStage
from recspark.errors import LakeError, ReleaseError
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt, find_done, open_table, read_record, table_uri
from recspark.lake.folders import folder_uri, read_manifest
from recspark.lake.storage import join, open_filesystem, read_bytes
from recspark.releases.contents import hash_files

if TYPE_CHECKING:
    from recspark.config.plan import Run

FOLDER = "releases"
INDEXES, MODELS = "indexes", "models"
_UNBOUND = ("quarantine", "releases", "item_pair_sums")
"""Tables that a release is not made from."""
_SHOWN = 3
_IDS_AT_ONCE = 1_000_000
DataFile = tuple[str, int, int]
"""Path below the table, bytes, rows."""


@dataclass(frozen=True)
class BoundTable:
    """One table at one version, the stage that made it, and what its data files were; ``sha256`` by path."""

    version: int
    stage: str
    key: str
    files: int
    rows: int
    bytes: int
    digest: str
    sha256: dict[str, str]


def bind_tables(run: "Run") -> dict[str, BoundTable]:
    """The tables of all finished stages of a run that a release is made from, by name. Reads all their files once.

    A baseline's own graph goes by its stage's name.
    """
    bound = {}
    for stage in run.stages.values():
        done = find_done(run.lake, stage) if stage.spec.marker and stage.spec.marker not in _UNBOUND else None
        for name, version in _versions_of(stage, done[0], done[1].tables) if done else ():
            label = stage.name if stage.name == "item_knn_graph" else name
            bound[label] = bind_table(run.lake, name, version)
    return bound


def _versions_of(stage: PlannedStage, version: int, tables: dict[str, int]) -> Iterator[tuple[str, int]]:
    named = tables | {str(stage.spec.marker): version}
    return ((name, number) for name, number in named.items() if name not in _UNBOUND)


def bind_table(lake: str, name: str, version: int) -> BoundTable:
    """A table's version with the hashes of its files.

    Raises: LakeError when the version, its record or a file is gone.
    """
    record, files = open_version(lake, name, version).record, list_files(lake, name, version)
    sha256 = hash_files(table_uri(lake, name), [path for path, *_ in files])
    return BoundTable(version, record.stage, record.key, **_count(files), sha256=sha256)


def _count(files: list[DataFile]) -> dict[str, Any]:
    """What the log says of files: how many, rows, bytes, and the digest of the list."""
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    rows, size = sum(file[2] for file in files), sum(file[1] for file in files)
    return {"files": len(files), "rows": rows, "bytes": size, "digest": digest}


def sum_sizes(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Files and bytes of bound tables together: what is read for their contents."""
    return {name: sum(table[name] for table in tables.values()) for name in ("files", "bytes")}


def list_files(lake: str, name: str, version: int) -> list[DataFile]:
    """A version's data files, by path.

    Raises: LakeError when the version is gone.
    """
    actions = pa.table(open_table(lake, name, version).get_add_actions(flatten=True))
    columns = (actions[column].to_pylist() for column in ("path", "size_bytes", "num_records"))
    return sorted((unquote(path), size, rows or 0) for path, size, rows in zip(*columns, strict=True))


def find_table_flaw(lake: str, label: str, bound: dict[str, Any], with_contents: bool = True) -> str | None:
    """What is wrong with a bound table (as in the manifest), None where its version is as it was.

    Compares the commit's record, the log's file list with the digest, and the presence and size of each file with that
    list; ``with_contents`` reads the files and compares their SHA-256.
    """
    name, version = table_of(label), int(bound["version"])
    uri = table_uri(lake, name)
    where = f"{uri} at version {version}"
    try:
        files, record = list_files(lake, name, version), read_record(lake, name, version)
        found = _count(files) | {"stage": record and record.stage, "key": record and record.key}
        if changed := [field for field, value in found.items() if value != bound[field]]:
            return f"{where}: {', '.join(changed)} differ from what the release was made from: replaced since"
        if lost := _find_lost_files(uri, files):
            return f"{where}: {len(lost)} data files lost or cut short: {_shorten(lost)}"
        if "sha256" not in bound:
            return f"{where}: the release was made before files were hashed; publish it again"
        hashes = hash_files(uri, [path for path, *_ in files]) if with_contents else {}
    except LakeError as error:
        return str(error)
    differ = [path for path, sha256 in hashes.items() if bound["sha256"].get(path) != sha256]
    if differ:
        return f"{where}: SHA-256 differs from what the release was made from: {_shorten(differ)}: damaged or replaced"
    return None


def _shorten(files: list[str]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"{', '.join(files[:_SHOWN])}{more}"


def table_of(label: str) -> str:
    """The table that a bound label names."""
    return "item_graph" if label == "item_knn_graph" else label


def _find_lost_files(uri: str, files: list[DataFile]) -> list[str]:
    filesystem, path = open_filesystem(uri)
    there = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    sizes = {info.path.removeprefix(path).lstrip("/"): info.size for info in there if info.is_file}
    return [file for file, size, _ in files if sizes.get(file) != size]


def bind_folders(run: "Run") -> dict[str, str]:
    """``indexes/<id>`` (and the index it is built upon) and ``models/<id>`` of a run, with their manifests' SHA-256.

    Raises: ReleaseError when one is not there.
    """
    index_id = run.stages["index"].id
    names = [*((INDEXES, one) for one in list_index_chain(run.lake, index_id)), (MODELS, run.stages["train"].id)]
    return {f"{kind}/{folder_id}": hash_manifest(run.lake, kind, folder_id) for kind, folder_id in names}


def list_index_chain(lake: str, index_id: str) -> list[str]:
    """An index and those whose shards it shares, itself first: an incremental one names its base in its facts."""
    chain = [index_id]
    while manifest := read_manifest(lake, INDEXES, chain[-1]):
        base = (manifest.facts.get("base") or {}).get("index_id")
        if base is None or base in chain:
            break
        chain.append(base)
    return chain


def hash_manifest(lake: str, kind: str, folder_id: str) -> str:
    """SHA-256 of a folder's ``manifest.json``.

    Raises: ReleaseError when there is none.
    """
    uri = join(folder_uri(lake, kind, folder_id), MANIFEST_NAME)
    content = read_bytes(uri)
    if content is None:
        raise ReleaseError(f"{uri}: not there, so nothing to release; run `recspark run CONF` again")
    return hashlib.sha256(content).hexdigest()


def find_folder_flaw(lake: str, name: str, sha256: str) -> str | None:
    """What is wrong with a bound folder's manifest, None where it is the one that was bound."""
    kind, _, folder_id = name.partition("/")
    try:
        found = hash_manifest(lake, kind, folder_id)
        read_manifest(lake, kind, folder_id)
    except (LakeError, ReleaseError) as error:
        return str(error)
    if found == sha256:
        return None
    uri = join(folder_uri(lake, kind, folder_id), MANIFEST_NAME)
    return f"{uri}: SHA-256 {found[:12]}, the release was made with {sha256[:12]}: edited, or the folder was built anew"


def hash_vectors(vectors: ItemVectors) -> str:
    """SHA-256 over a model's item vectors as they are searched and named: both ids, both sides, bias, metric."""
    assert vectors.item_id is not None, "read with ids"
    digest = hashlib.sha256(f"{vectors.model_id} {vectors.metric} {vectors.vectors.shape}".encode())
    arrays: list[NDArray[Any]] = [vectors.item_idx, vectors.vectors, vectors.queries, vectors.bias]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    for start in range(0, len(vectors), _IDS_AT_ONCE):
        digest.update(json.dumps(vectors.item_id.slice(start, _IDS_AT_ONCE).to_pylist()).encode())
    return digest.hexdigest()


def open_bound(lake: str, label: str, bound: dict[str, Any]) -> TableAt:
    """A bound table, ready to be read.

    Raises: LakeError when the commit that made it is not in the log any more.
    """
    return open_version(lake, table_of(label), int(bound["version"]))


def open_version(lake: str, name: str, version: int) -> TableAt:
    """A table at a version, with the record of the stage that made it.

    Raises: LakeError when that is gone, or not of a stage.
    """
    record = read_record(lake, name, version)
    if record is None:
        raise LakeError(f"{table_uri(lake, name)}: version {version} has no record of ours; publish a new release")
    return TableAt(lake, name, version, record)
