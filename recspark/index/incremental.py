"""An index that goes on from an earlier one: its shards are kept, what changed is a delta shard and tombstones.

    base    shard-00000  shard-00001     items 1 2 3 4 5
    today   item 3 has another vector, 5 is gone, 6 is new
        ->  shard-00002 (the delta) with 3 and 6, tombstones 3 and 5; the manifest names the base's files by SHA-256

The delta has the base's quantizers, so an opened index is the one faiss would have, had all items been added to them.
A base stands alone itself: the delta of a later day holds all that changed since then, and the shares add up.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from recspark.config.index import IncrementalIndexConfig
from recspark.contracts.manifest import Manifest
from recspark.contracts.stages import PlannedStage
from recspark.errors import IndexReadError
from recspark.index import store
from recspark.index.build import BuiltShard, Trained, add_shard, read_built
from recspark.index.files import FOLDER, read_array, write_array
from recspark.index.ids import ItemIds, read_ids
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import Space
from recspark.index.plan import plan_from_facts
from recspark.index.refine import RefineVectors
from recspark.index.vectors import digest_vectors
from recspark.lake.folders import folder_uri, hash_file
from recspark.lake.storage import join, open_filesystem
from recspark.logs import log

_MOST_TRIED = 3
"""Bases whose files are read through before all is built anew."""


@dataclass(frozen=True)
class Changes:
    """What differs from the base: ``gone`` are the base's item_idx that no longer stand for what it holds (removed, or
    with another vector), ``added`` the rows of today's items that it does not hold so, ``row`` [M] each item's place in
    its shard, ``shard`` [M] that shard.
    """

    gone: NDArray[np.int64]
    added: NDArray[np.int64]
    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    num_changed: int

    @property
    def counts(self) -> dict[str, int]:
        """New, changed and removed items."""
        return {
            "new": len(self.added) - self.num_changed,
            "changed": self.num_changed,
            "removed": len(self.gone) - self.num_changed,
        }

    @property
    def share(self) -> float:
        """Items that are new, changed or removed, of all there are."""
        return sum(self.counts.values()) / max(len(self.shard), 1)


@dataclass(frozen=True)
class BaseIndex:
    """An index that stands alone, with its files checked and its id map read."""

    manifest: Manifest
    ids: ItemIds
    trained: Trained

    @property
    def num_shards(self) -> int:
        """Its shards; the delta is the next."""
        return self.trained.plan.num_shards


def find_base(
    lake: str, stage: PlannedStage, items: ItemVectors, config: IncrementalIndexConfig
) -> tuple[BaseIndex, Changes] | None:
    """The newest index of the same knobs and metric that a delta will do for, and the changes; None without one.

    Of several models in one lake each has its own; a few are tried, and the log says why one would not do.
    """
    for manifest in _list_roots(lake, stage, items)[:_MOST_TRIED]:
        try:
            base = open_base(lake, manifest)
            changes = find_changes(base, items)
            reason = find_rebuild_reason(base, items, changes, config)
        except IndexReadError as error:
            reason = str(error)
        if reason is None:
            return base, changes
        log("index", f"index {manifest.id} is no base: {reason}")
    return None


def open_base(lake: str, manifest: Manifest) -> BaseIndex:
    """An index as a base.

    Raises: IndexReadError when a file of it is missing or damaged.
    """
    for entry in manifest.files:
        store.check_entry(lake, manifest.id, entry, verify=True)
    folder, facts = folder_uri(lake, FOLDER, manifest.id), manifest.facts
    plan, space = plan_from_facts(facts["plan"]), Space(**facts["space"])
    trained = Trained(folder, plan, space, facts["quantizer_fingerprint"], {"sample": facts["sample"]}, manifest.files)
    return BaseIndex(manifest, read_ids(join(folder, store.IDS), facts["build"]), trained)


def find_changes(base: BaseIndex, items: ItemVectors) -> Changes:
    """What of today's items the base does not hold as it is, and what of the base's is no more."""
    ids, digest = base.ids, digest_vectors(items)
    assert ids.digest is not None
    place = np.minimum(np.searchsorted(ids.item_idx, items.item_idx), len(ids) - 1)
    is_there = ids.item_idx[place] == items.item_idx
    is_kept = is_there & (ids.digest[place] == digest)
    added = np.flatnonzero(~is_kept)
    row = np.where(is_kept, ids.row_in_shard[place], 0)
    row[added] = np.arange(len(added))
    return Changes(
        gone=np.setdiff1d(ids.item_idx, items.item_idx[is_kept]),
        added=added,
        shard=np.where(is_kept, ids.shard[place], base.num_shards).astype(np.int32),
        row=row,
        num_changed=int((is_there & ~is_kept).sum()),
    )


def find_rebuild_reason(
    base: BaseIndex, items: ItemVectors, changes: Changes, config: IncrementalIndexConfig
) -> str | None:
    """Why all has to be built anew, None where a delta will do."""
    plan, space = base.trained.plan, base.trained.space
    if plan.kind == "hnsw":
        return "an hnsw graph cannot forget items"
    if changes.share > config.max_delta_share:
        told = ", ".join(f"{number:,} {name}" for name, number in changes.counts.items())
        return (
            f"{told} of {len(items):,} items are more than index.incremental.max_delta_share {config.max_delta_share}"
        )
    vectors, bias = items.vectors[changes.added], items.bias[changes.added]
    if misfit := space.find_misfit(vectors, bias):
        return misfit
    if plan.refine == "none":
        return None
    scale = read_array(join(base.trained.folder, store.REFINE_SCALE))
    return RefineVectors([], scale).find_misfit(plan.refine, space.comparable(vectors))


def add_delta(folder: str, build: str, items: ItemVectors, base: BaseIndex, changes: Changes, backend: str) -> None:
    """Writes the delta shard and the tombstones."""
    add_shard(folder, build, items, base.trained, base.num_shards, changes.added, backend)
    write_array(changes.gone, join(folder, store.TOMBSTONES))


def describe_delta(folder: str, build: str, items: ItemVectors, base: BaseIndex, changes: Changes) -> dict[str, Any]:
    """What the manifest says of base, delta and all shards."""
    delta = _read_delta(folder, build, base)
    facts = base.manifest.facts
    plan = replace(base.trained.plan, num_vectors=len(items))
    files = [{"path": e.path, "bytes": e.bytes, "sha256": e.sha256} for e in base.manifest.files if e.path != store.IDS]
    return {
        "plan": plan.to_facts(),
        "shards": [*facts["shards"], delta.to_facts()],
        "base": {"index_id": base.manifest.id, "num_shards": base.num_shards, "files": files},
        "delta": changes.counts | {"share": round(changes.share, 5)},
    }


def delta_files(folder: str, build: str, base: BaseIndex) -> dict[str, str]:
    """{file: SHA-256} of the incremental index's own files but the id map."""
    delta = _read_delta(folder, build, base)
    own = {entry.path: entry.sha256 for entry in delta.files}
    return own | {store.TOMBSTONES: hash_file(folder, store.TOMBSTONES).sha256}


def remove_delta(folder: str, build: str, base: BaseIndex) -> None:
    """Takes the files of a delta away that was found wanting."""
    for name in delta_files(folder, build, base):
        filesystem, path = open_filesystem(join(folder, name))
        filesystem.delete_file(path)


def delta_ids(items: ItemVectors, changes: Changes) -> ItemIds:
    """The id map: items lie where the base has them, or in the delta."""
    assert items.item_id is not None
    return ItemIds(items.item_idx, items.item_id, changes.shard, items.bias, digest_vectors(items), changes.row)


def _read_delta(folder: str, build: str, base: BaseIndex) -> BuiltShard:
    delta = read_built(folder, build, base.trained, base.num_shards)
    assert delta, "it has just been written"
    return delta


def _list_roots(lake: str, stage: PlannedStage, items: ItemVectors) -> list[Manifest]:
    """Indexes that stand alone, of the same knobs and metric, those that were last gone on from or built first."""
    manifests = {manifest.id: manifest for manifest in _list_manifests(lake) if manifest.id != stage.id}
    alike = sorted(manifests.values(), key=lambda m: m.created_at, reverse=True)
    alike = [manifest for manifest in alike if _is_alike(manifest, stage, items)]
    bases = [store.read_base(manifest.facts) for manifest in alike]
    roots = [base.index_id if base else manifest.id for manifest, base in zip(alike, bases, strict=True)]
    return [manifests[root] for root in dict.fromkeys(roots) if root in manifests]


def _list_manifests(lake: str) -> list[Manifest]:
    """Of all finished indexes of a lake; folders without a whole manifest do not count."""
    filesystem, path = open_filesystem(join(lake, FOLDER))
    folders = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    found = []
    for name in sorted(info.base_name for info in folders if info.type == pafs.FileType.Directory):
        try:
            found.append(store.read_index_manifest(lake, name))
        except IndexReadError:
            continue
    return found


def _is_alike(manifest: Manifest, stage: PlannedStage, items: ItemVectors) -> bool:
    """Whether an index was built by the same knobs, for the same metric and length."""
    facts = manifest.facts
    return manifest.config == stage.sections and (facts["metric"], facts["dim"]) == (items.metric, items.dim)
