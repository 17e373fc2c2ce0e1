"""Files of an index folder: names, writing, and opening what was published.

indexes/<index_id>/  trained.faiss  shard-00000.faiss ...  refine-00000.npy ...  refine-scale.npy  ids.parquet
                     trained.json  shard-00000.json ...   (receipts: what a build that was killed had finished)
                     manifest.json                        (written last)

faiss loads a file with flipped bits without a word, so every file is compared with the manifest before faiss sees it.
"""

import hashlib
import json
import os
import tempfile
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from recspark.contracts.manifest import FileEntry, Manifest
from recspark.errors import IndexReadError, LakeError
from recspark.index.engine import FaissIndex, faiss
from recspark.index.ids import read_ids
from recspark.index.metric import Space
from recspark.index.refine import RefineVectors
from recspark.index.search import ShardedIndex, join_shards
from recspark.lake.folders import check_file, folder_uri, read_manifest, rebuild_command
from recspark.lake.storage import join, open_filesystem, open_input

FOLDER = "indexes"
TRAINED = "trained.faiss"
REFINE_SCALE = "refine-scale.npy"
IDS = "ids.parquet"
_REBUILD = f"remove its folder and {rebuild_command(FOLDER)}"


def shard_name(shard: int) -> str:
    """File of one shard."""
    return f"shard-{shard:05d}.faiss"


def refine_name(shard: int) -> str:
    """File of one shard's refine codes."""
    return f"refine-{shard:05d}.npy"


def open_index(lake: str, index_id: str, verify: bool = True, join_lists: bool = True) -> ShardedIndex:
    """A published index, ready to search.

    ``verify=False`` leaves out the SHA-256 of the files (not their presence and sizes), for a folder that was
    verified before. ``join_lists=False`` keeps IVF shards apart and asks them one by one, with the same results.

    Raises: IndexReadError, naming the file, when anything is missing, damaged, edited or of another build.
    """
    manifest = read_index_manifest(lake, index_id)
    for entry in manifest.files:
        check_entry(lake, index_id, entry, verify)
    return assemble(folder_uri(lake, FOLDER, index_id), manifest.facts, join_lists)


def read_index_manifest(lake: str, index_id: str) -> Manifest:
    """The manifest of an index.

    Raises: IndexReadError when there is none, or it is not as it was written.
    """
    uri = folder_uri(lake, FOLDER, index_id)
    try:
        manifest = read_manifest(lake, FOLDER, index_id)
    except LakeError as error:
        raise IndexReadError(str(error)) from error
    if manifest is None:
        raise IndexReadError(f"{uri}: no manifest.json, so no finished index; {rebuild_command(FOLDER)}")
    digest = manifest_digest(manifest.counts, manifest.config, manifest.inputs, manifest.facts)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    if digest != manifest.facts.get("digest") or listed != manifest.facts.get("files"):
        raise IndexReadError(f"{join(uri, 'manifest.json')}: edited since it was written; restore it, or {_REBUILD}")
    return manifest


def manifest_digest(
    counts: dict[str, Any], config: dict[str, Any], inputs: dict[str, Any], facts: dict[str, Any]
) -> str:
    """SHA-256 over what a manifest says, its files' hashes (in ``facts``) included; stored as the fact ``digest``."""
    said = {"counts": counts, "config": config, "inputs": inputs}
    said["facts"] = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def check_entry(lake: str, index_id: str, entry: FileEntry, verify: bool) -> None:
    """Compares a file with its manifest entry.

    Raises: IndexReadError when it is missing, of another size or (``verify``) of another SHA-256.
    """
    uri = join(folder_uri(lake, FOLDER, index_id), entry.path)
    try:
        if verify:
            check_file(lake, FOLDER, index_id, entry)
            return
    except LakeError as error:
        raise IndexReadError(str(error)) from error
    filesystem, path = open_filesystem(uri)
    size = filesystem.get_file_info(path).size
    if size != entry.bytes:
        found = "missing" if size is None else f"{size} bytes"
        raise IndexReadError(
            f"{uri}: {found}, the manifest says {entry.bytes} bytes; restore it, or {rebuild_command(FOLDER)}"
        )


def assemble(folder: str, facts: dict[str, Any], join_lists: bool = True) -> ShardedIndex:
    """The index of a folder whose files are known to be whole; ``facts`` as in the manifest.

    Raises: IndexReadError for a shard that faiss cannot read or that another training or build made.
    """
    shards = [read_shard(folder, shard, facts["quantizer_fingerprint"]) for shard in facts["shards"]]
    plan = facts["plan"]
    item_ids = read_ids(join(folder, IDS))
    num_rows = sum(shard["count"] for shard in facts["shards"])
    if len(item_ids) != num_rows:
        raise IndexReadError(f"{join(folder, IDS)}: {len(item_ids)} items, the shards hold {num_rows}; {_REBUILD}")
    refine = None
    if plan["refine"] != "none":
        codes = [read_array(join(folder, refine_name(shard))) for shard in range(plan["num_shards"])]
        refine = RefineVectors(codes, read_array(join(folder, REFINE_SCALE)))
    return ShardedIndex(
        kind=plan["kind"],
        space=Space(**facts["space"]),
        shards=join_shards(plan["kind"], shards) if join_lists else shards,
        item_ids=item_ids,
        effort=facts.get("effort"),
        deep_effort=facts.get("deep_effort"),
        refine=refine,
        refine_factor=plan["refine_factor"],
        facts=facts,
    )


def read_shard(folder: str, shard: dict[str, Any], fingerprint: str) -> FaissIndex:
    """One shard's faiss index.

    Raises: IndexReadError when it has other quantizers, or another number of vectors, than the manifest says.
    """
    uri = join(folder, shard["file"])
    index = read_faiss(uri)
    found = quantizer_fingerprint(index)
    if found != fingerprint:
        raise IndexReadError(
            f"{uri}: a shard of another build (quantizer {found[:12]}, this index has {fingerprint[:12]}); {_REBUILD}"
        )
    if index.ntotal != shard["count"]:
        raise IndexReadError(f"{uri}: {index.ntotal} vectors, the manifest says {shard['count']}; {_REBUILD}")
    return index


def quantizer_fingerprint(index: FaissIndex) -> str:
    """SHA-256 of what decides an index's codes: class, dimension, coarse centroids, PQ centroids."""
    digest = hashlib.sha256(f"{type(index).__name__} {index.d}".encode())
    if hasattr(index, "quantizer"):
        digest.update(index.quantizer.reconstruct_n(0, index.nlist).tobytes())
    elif hasattr(index, "index"):
        digest.update(type(faiss.downcast_index(index.index)).__name__.encode())
    if hasattr(index, "pq"):
        digest.update(faiss.vector_to_array(index.pq.centroids).tobytes())
    return digest.hexdigest()


def write_faiss(index: FaissIndex, uri: str) -> None:
    """Writes a faiss index; through a local file where the lake is remote."""
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        faiss.write_index(index, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "index.faiss")
        faiss.write_index(index, local)
        pafs.copy_files(local, path, pafs.LocalFileSystem(), filesystem)


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
        raise IndexReadError(f"{uri}: faiss cannot read it ({error}); {_REBUILD}") from error


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
