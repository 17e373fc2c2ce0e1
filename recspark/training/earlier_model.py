"""A published model as another training reads it: its arrays, memory-mapped, and the outside id of each row."""

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.manifest import Manifest
from recspark.errors import TrainingError
from recspark.lake.arrow import TableAt, read_ids
from recspark.lake.folders import check_file
from recspark.lake.storage import readable_copy
from recspark.training.starting_model import MODELS

_ARRAYS = {  # in the file -> in a backend's state
    "input": "input_vectors",
    "output": "output_vectors",
    "input_squares": "input_squares",
    "output_squares": "output_squares",
}
_TYPES = {"F32": np.float32, "U8": np.uint8}


@dataclass(frozen=True)
class EarlierModel:
    """``parts`` in the order of the rows, each with its arrays by their names in a backend's state, float32 [v, dim] or
    [v]: one for each rank that wrote them. ``item_ids`` of all rows' items, None for those that it never learned.
    """

    model_id: str
    parts: tuple[dict[str, NDArray[np.float32]], ...]
    item_ids: pa.Array

    @property
    def num_rows(self) -> int:
        """Items of its vocabulary."""
        return len(self.item_ids)

    def weigh(self, weights: sp.csr_array, prefix: str = "") -> dict[str, NDArray[np.float32]]:
        """``weights`` [n, V] x each array, or those so ``prefix``ed, part by part: float32 [n, dim] or [n], by name."""
        ends = itertools.accumulate((len(next(iter(part.values()))) for part in self.parts), initial=0)
        columns = [weights[:, start:stop] for start, stop in itertools.pairwise(ends)]
        return {
            name: np.asarray(sum(own @ part[name] for own, part in zip(columns, self.parts, strict=True)), np.float32)
            for name in self.parts[0]
            if name.startswith(prefix)
        }

    def find_rows(self, item_ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """The row of each item, -1 for one that it never learned.

        Raises: TrainingError when it knows none of them.
        """
        found = pc.index_in(item_ids, value_set=self.item_ids, skip_nulls=True).fill_null(-1)
        rows = np.asarray(found.to_numpy(), np.int64)
        if not (rows >= 0).any():
            looks = [", ".join(map(str, ids.drop_null().slice(0, 3).to_pylist())) for ids in (item_ids, self.item_ids)]
            raise TrainingError(
                f"training.warm_start: model {self.model_id} knows none of this run's {len(item_ids):,} items: theirs "
                f"are called {looks[0]}, those of the model {looks[1]}; give another model_id, or leave warm_start out"
            )
        return rows


def open_earlier_model(lake: str, manifest: Manifest, items: TableAt, has_output: bool) -> EarlierModel:
    """The published model of a ``manifest`` (`check_start`); ``items`` is any version of that table, ``has_output``
    says whether the rows of this run's output table are items, as those of the model's have to be to be taken over.

    Raises: TrainingError when arrays are missing; LakeError when its files are damaged.
    """
    files = sorted(manifest.files, key=lambda file: file.path)
    found = [map_tensors(check_file(lake, MODELS, manifest.id, file)) for file in files]
    if missing := [name for name in (*_ARRAYS, "is_trained") if name not in found[0]]:
        raise TrainingError(
            f"training.warm_start: model {manifest.id} of {lake} has no {', '.join(missing)}: it was made by another "
            f"version of recspark; train it again, or leave warm_start out"
        )
    has_output &= manifest.config.get("model", {}).get("objective") != "hierarchical_softmax"
    taken = {name: to for name, to in _ARRAYS.items() if has_output or not name.startswith("output")}
    parts = tuple({to: tensors[name] for name, to in taken.items()} for tensors in found)
    ids = read_ids(replace(items, lake=lake, version=manifest.inputs["items"]), c.ITEM_IDX, c.ITEM_ID)
    learned = pa.array(np.concatenate([tensors["is_trained"] for tensors in found]) > 0)
    return EarlierModel(manifest.id, parts, pc.if_else(learned, ids.combine_chunks(), None))


def map_tensors(uri: str) -> dict[str, NDArray[np.float32]]:
    """The float32 and uint8 tensors of a safetensors file, memory-mapped: several ranks of a host share the pages.

    A file on a store is copied first.
    """
    with readable_copy(uri) as path:
        return _map_local(path)  # a mapped file may be unlinked


def _map_local(path: str) -> dict[str, NDArray[np.float32]]:
    with open(path, "rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    return {name: _map_tensor(path, entry, start) for name, entry in header.items()}


def _map_tensor(path: str, entry: dict[str, Any], start: int) -> NDArray[np.float32]:
    shape, dtype = tuple(entry["shape"]), _TYPES[entry["dtype"]]
    if 0 in shape:  # of more ranks than items; nothing cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)
