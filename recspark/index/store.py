"""Opening what was published: nothing damaged, edited or foreign is searched.

indexes/<index_id>/  trained.faiss  shard-00000.faiss ...  refine-00000.npy ...  refine-scale.npy  ids.parquet
                     trained.json  shard-00000.json ...   (receipts: what a build that was killed had finished)
                     manifest.json                        (written last)

An incremental index has one delta shard of its own and tombstones.npy; its manifest names the base index whose shards
it shares, each with its SHA-256. faiss loads a file with flipped bits without a word, so every file, the base's too, is
compared with the manifest before faiss sees it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspark.contracts.manifest import FileEntry, Manifest
from recspark.errors import IndexReadError, LakeError
from recspark.index.engine import FaissIndex, faiss, inner_index, rotation_of
from recspark.index.files import FOLDER, REBUILD, read_array, read_faiss
from recspark.index.ids import ItemIds, read_ids
from recspark.index.metric import Space
from recspark.index.refine import RefineVectors
from recspark.index.search import ShardedIndex
from recspark.index.shards import join_shards, remove_items
from recspark.lake.folders import check_file, folder_uri, read_manifest, rebuild_command
from recspark.lake.storage import join, open_filesystem

TRAINED = "trained.faiss"
REFINE_SCALE = "refine-scale.npy"
IDS = "ids.parquet"
TOMBSTONES = "tombstones.npy"
SINGLE = "index.faiss"
"""All shards in one, where `index.single_file` asks for it; for others' eyes, never read here."""


@dataclass(frozen=True)
class Base:
    """The index whose shards an incremental one shares; a fact of its manifest."""

    index_id: str
    num_shards: int
    files: tuple[FileEntry, ...]


def shard_name(shard: int) -> str:
    """File of one shard."""
    return f"shard-{shard:05d}.faiss"


def refine_name(shard: int) -> str:
    """File of one shard's refine codes."""
    return f"refine-{shard:05d}.npy"


def open_index(
    lake: str, index_id: str, verify: bool = True, join_lists: bool = True, item_embeddings: int | None = None
) -> ShardedIndex:
    """A published index, ready to search.

    Args:
        lake: Its lake.
        index_id: Its folder.
        verify: False leaves out the SHA-256 of the files (not their presence and sizes), for a folder that was
            verified before.
        join_lists: False keeps IVF shards apart and asks them one by one, with the same results.
        item_embeddings: The version of the vectors that it has to be made of; any by default.

    Raises: IndexReadError, naming the file, when anything is missing, damaged, edited or of another build.
    """
    manifest = read_index_manifest(lake, index_id)
    if item_embeddings is not None:
        _check_version(lake, manifest, item_embeddings)
    for entry in manifest.files:
        check_entry(lake, index_id, entry, verify)
    base = read_base(manifest.facts)
    for entry in base.files if base else ():
        check_entry(lake, base.index_id, entry, verify)  # type: ignore[union-attr]
    return assemble(folder_uri(lake, FOLDER, index_id), manifest.facts, join_lists)


def read_base(facts: dict[str, Any]) -> Base | None:
    """The base that a manifest's facts name, None in an index that stands alone."""
    found = facts.get("base")
    if found is None:
        return None
    return Base(found["index_id"], found["num_shards"], tuple(FileEntry(**entry) for entry in found["files"]))


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
    if (manifest.kind, manifest.id) != (FOLDER, index_id):
        raise IndexReadError(
            f"{join(uri, 'manifest.json')}: is that of {manifest.kind}/{manifest.id}, in the folder of {index_id}; "
            f"restore it, or {REBUILD}"
        )
    if "build" not in manifest.facts:
        raise IndexReadError(f"{join(uri, 'manifest.json')}: no index, or one of an earlier format; {REBUILD}")
    digest = manifest_digest(manifest.counts, manifest.config, manifest.inputs, manifest.facts)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    if digest != manifest.facts.get("digest") or listed != manifest.facts.get("files"):
        raise IndexReadError(f"{join(uri, 'manifest.json')}: edited since it was written; restore it, or {REBUILD}")
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
    plan, homes = facts["plan"], shard_homes(folder, facts)
    shards = [
        read_shard(home, shard, facts["quantizer_fingerprint"])
        for home, shard in zip(homes, facts["shards"], strict=True)
    ]
    if read_base(facts):
        gone = read_array(join(folder, TOMBSTONES))
        for shard in shards[:-1]:
            remove_items(shard, gone)
    item_ids = read_ids(join(folder, IDS), facts["build"])
    _check_counts(join(folder, IDS), item_ids, sum(int(shard.ntotal) for shard in shards))
    refine = None
    if plan["refine"] != "none":
        codes = [np.asarray(read_array(join(home, refine_name(shard)))) for shard, home in enumerate(homes)]
        refine = RefineVectors(codes, read_array(join(homes[0], REFINE_SCALE)))
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


def shard_homes(folder: str, facts: dict[str, Any]) -> list[str]:
    """The folder that holds each shard: those of a base come first, the delta last."""
    base, num_shards = read_base(facts), len(facts["shards"])
    if base is None:
        return [folder] * num_shards
    return [join(folder.rsplit("/", 1)[0], base.index_id)] * base.num_shards + [folder]


def read_shard(folder: str, shard: dict[str, Any], fingerprint: str) -> FaissIndex:
    """One shard's faiss index.

    Raises: IndexReadError when it has other quantizers, or another number of vectors, than the manifest says.
    """
    uri = join(folder, shard["file"])
    index = read_faiss(uri)
    found = quantizer_fingerprint(index)
    if found != fingerprint:
        raise IndexReadError(
            f"{uri}: a shard of another build (quantizer {found[:12]}, this index has {fingerprint[:12]}); {REBUILD}"
        )
    if index.ntotal != shard["count"]:
        raise IndexReadError(f"{uri}: {index.ntotal} vectors, the manifest says {shard['count']}; {REBUILD}")
    return index


def quantizer_fingerprint(index: FaissIndex) -> str:
    """SHA-256 of what decides an index's codes: class, dimension, rotation, coarse centroids, PQ centroids."""
    rotation, inner = rotation_of(index), inner_index(index)
    digest = hashlib.sha256(f"{type(inner).__name__} {inner.d}".encode())
    if rotation is not None:
        digest.update(faiss.vector_to_array(rotation.A).tobytes())
    if hasattr(inner, "quantizer"):
        digest.update(inner.quantizer.reconstruct_n(0, inner.nlist).tobytes())
    elif hasattr(inner, "index"):
        digest.update(type(faiss.downcast_index(inner.index)).__name__.encode())
    if hasattr(inner, "pq"):
        digest.update(faiss.vector_to_array(inner.pq.centroids).tobytes())
    return digest.hexdigest()


def _check_version(lake: str, manifest: Manifest, version: int) -> None:
    made_of = manifest.inputs.get("item_embeddings")
    if made_of != version:
        raise IndexReadError(
            f"{folder_uri(lake, FOLDER, manifest.id)}: made of item_embeddings at version {made_of}, asked for is "
            f"version {version}; {rebuild_command(FOLDER)}"
        )


def _check_counts(uri: str, item_ids: ItemIds, num_vectors: int) -> None:
    if len(item_ids) != num_vectors:
        raise IndexReadError(f"{uri}: {len(item_ids)} items, the shards hold {num_vectors}; {REBUILD}")
