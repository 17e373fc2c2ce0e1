"""The steps of a build: train once on a sample, add to shards (any of them, anywhere), collect what was added.

They meet only in the folder: each step leaves its files and then a receipt, and keeps what an earlier, killed build of
the same inputs had finished.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.manifest import FileEntry
from recspark.contracts.shards import shard_of
from recspark.errors import IndexBuildError
from recspark.faults import fault_point
from recspark.index import backends, store
from recspark.index.files import read_array, read_faiss, write_array, write_faiss
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import Space, fit_space
from recspark.index.plan import IndexPlan, plan_from_facts
from recspark.index.receipts import read_receipt, write_receipt
from recspark.index.refine import encode_rows, fit_scale
from recspark.index.vectors import hash_sample
from recspark.lake.storage import join
from recspark.logs import log

_STAGE = "index"
_TRAINED_RECEIPT = "trained.json"


@dataclass(frozen=True)
class Trained:
    """The first step's result: how vectors become points, and whose quantizers every shard shares.

    ``folder`` holds the files; that of the base where an incremental index goes on from one.
    """

    folder: str
    plan: IndexPlan
    space: Space
    fingerprint: str
    facts: dict[str, Any]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class BuiltShard:
    """One finished shard: its faiss file, number of vectors and the entries of all its files."""

    file: str
    count: int
    files: tuple[FileEntry, ...]

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {"file": self.file, "count": self.count}


def build_digest(**decides: Any) -> str:
    """SHA-256 over what a build's output hangs on; receipts carry it."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def read_trained(folder: str, build: str) -> Trained | None:
    """The training of an earlier run of this build, None where it has to run."""
    receipt = read_receipt(folder, _TRAINED_RECEIPT, build)
    if receipt is None:
        return None
    facts = receipt.facts
    plan, space = plan_from_facts(facts["plan"]), Space(**facts["space"])
    return Trained(folder, plan, space, facts["fingerprint"], facts, receipt.files)


def train_quantizers(
    folder: str, build: str, items: ItemVectors, plan: IndexPlan, seed: int, backend: str = "auto"
) -> Trained:
    """Trains on a hash sample and writes the empty trained index (and the refine scale)."""
    space = fit_space(items.metric, items.vectors, items.bias, max(plan.m, 1))
    index = backends.empty_index(plan, seed)
    rows = hash_sample(items.item_idx, plan.train_size, seed)
    backends.train_index(index, plan, space.encode_vectors(items.vectors[rows], items.bias[rows]), backend, seed)
    write_faiss(index, join(folder, store.TRAINED))
    files = [store.TRAINED]
    if plan.refine != "none":
        write_array(fit_scale(plan.refine, space, items.vectors), join(folder, store.REFINE_SCALE))
        files.append(store.REFINE_SCALE)
    facts = {
        "plan": plan.to_facts(),
        "space": space.to_facts(),
        "fingerprint": store.quantizer_fingerprint(index),
        "sample": {"size": len(rows), "sha256": hashlib.sha256(items.item_idx[rows].tobytes()).hexdigest()},
    }
    receipt = write_receipt(folder, _TRAINED_RECEIPT, build, files, facts)
    fault_point("index.trained")
    return Trained(folder, plan, space, facts["fingerprint"], facts, receipt.files)  # type: ignore[arg-type]


def add_shards(
    folder: str, build: str, items: ItemVectors, trained: Trained, shards: Iterable[int], backend: str = "auto"
) -> None:
    """Builds the given shards, or keeps them where their receipts say that they are done.

    ``items`` may leave out those of other shards.
    """
    owners = shard_of(items.item_idx, trained.plan.num_shards)
    for shard in shards:
        if read_built(folder, build, trained, shard):
            log(_STAGE, f"shard {shard} kept from an earlier build")
            continue
        rows = np.flatnonzero(owners == shard)
        add_shard(folder, build, items, trained, shard, rows, backend)
        log(_STAGE, f"shard {shard} built", vectors=len(rows))
        fault_point(f"index.shard:{shard}")


def add_shard(
    folder: str,
    build: str,
    items: ItemVectors,
    trained: Trained,
    shard: int,
    rows: NDArray[np.int64],
    backend: str = "auto",
) -> None:
    """Builds one shard of the items in ``rows`` and writes its receipt."""
    empty = read_faiss(join(trained.folder, store.TRAINED))
    blocks = _encoded_blocks(items, trained.space, rows)
    index = backends.add_blocks(empty, trained.plan, blocks, backend, shard)
    write_faiss(index, join(folder, store.shard_name(shard)))
    files = [store.shard_name(shard)]
    if trained.plan.refine != "none":
        scale = read_array(join(trained.folder, store.REFINE_SCALE))
        codes = encode_rows(trained.plan.refine, trained.space, items.vectors, rows, scale)
        write_array(codes, join(folder, store.refine_name(shard)))
        files.append(store.refine_name(shard))
    facts = {"count": len(rows), "fingerprint": store.quantizer_fingerprint(index)}
    write_receipt(folder, _receipt_name(shard), build, files, facts)


def read_built(folder: str, build: str, trained: Trained, shard: int, *, verify: bool = True) -> BuiltShard | None:
    """A finished shard of this build and this training, None where it has to be built."""
    receipt = read_receipt(folder, _receipt_name(shard), build, verify=verify)
    if receipt is None or receipt.facts["fingerprint"] != trained.fingerprint:
        return None
    return BuiltShard(store.shard_name(shard), receipt.facts["count"], receipt.files)


def list_unfinished(folder: str, build: str, trained: Trained) -> list[int]:
    """The shards that no process has finished, by their receipts alone."""
    shards = range(trained.plan.num_shards)
    return [shard for shard in shards if read_built(folder, build, trained, shard, verify=False) is None]


def collect_shards(folder: str, build: str, trained: Trained) -> list[BuiltShard]:
    """All shards, in order.

    Raises: IndexBuildError naming those that no process has finished.
    """
    found = [read_built(folder, build, trained, shard) for shard in range(trained.plan.num_shards)]
    missing = [str(shard) for shard, built in enumerate(found) if built is None]
    if missing:
        raise IndexBuildError(f"{folder}: shards {', '.join(missing)} are not finished; run the index stage again")
    return [built for built in found if built]


def _encoded_blocks(items: ItemVectors, space: Space, rows: NDArray[np.int64]) -> Iterator[backends.Block]:
    """(ids, points) in ascending item_idx: equal distances then keep the smaller id."""
    for start in range(0, len(rows), backends.ADD_BLOCK):
        part = rows[start : start + backends.ADD_BLOCK]
        yield items.item_idx[part], space.encode_vectors(items.vectors[part], items.bias[part])


def _receipt_name(shard: int) -> str:
    return store.shard_name(shard).replace(".faiss", ".json")
