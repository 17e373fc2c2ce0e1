"""A published model as another training reads it: its arrays, memory-mapped, and the outside id of each row."""

import datetime as dt
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import TrainingError
from recspark.lake.arrow import TableAt, read_ids, read_record
from recspark.lake.folders import check_file, read_manifest
from recspark.lake.storage import join, open_filesystem, readable_copy
from recspark.training.model_files import MODELS

_ARRAYS = {  # in the file -> in a backend's state
    "input": "input_vectors",
    "output": "output_vectors",
    "input_squares": "input_squares",
    "output_squares": "output_squares",
}
_TYPES = {"F32": np.float32, "U8": np.uint8}
_SHOWN = 5


@dataclass(frozen=True)
class EarlierModel:
    """``parts`` in the order of the rows, each with its arrays by their names in a backend's state, float32 [v, dim] or
    [v]: one for each rank that wrote them. ``item_ids`` of all rows' items, None for those that it never learned.
    ``split`` is that section of the config it was made by, None for an edge list.
    """

    model_id: str
    parts: tuple[dict[str, NDArray[np.float32]], ...]
    item_ids: pa.Array
    split: dict[str, Any] | None = None

    @property
    def num_rows(self) -> int:
        """Items of its vocabulary."""
        return len(self.item_ids)

    def weigh(self, weights: sp.csr_array) -> dict[str, NDArray[np.float32]]:
        """``weights`` [n, V] x each array, part by part: float32 [n, dim] or [n], by its name."""
        ends = itertools.accumulate((len(next(iter(part.values()))) for part in self.parts), initial=0)
        columns = [weights[:, start:stop] for start, stop in itertools.pairwise(ends)]
        return {
            name: np.asarray(sum(own @ part[name] for own, part in zip(columns, self.parts, strict=True)), np.float32)
            for name in self.parts[0]
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

    def check_split(self, split: dict[str, Any], needs_valid: bool) -> None:
        """Checks that the model has learned from nothing that this run holds out; ``split`` is this run's section.

        ``needs_valid`` says whether something is chosen on the validation slice. Other kinds than time cuts can't be
        compared and have to agree.

        Raises: TrainingError when it has.
        """
        if self.split is None:
            return
        advice = "start from a model that was made with this split, or leave warm_start out"
        cuts = [_to_time(s["cut"]) if s["kind"] == "time" else None for s in (self.split, split)]
        if None in cuts and any(self.split[key] != split[key] for key in ("kind", "cut")):
            raise TrainingError(
                f"training.warm_start: model {self.model_id} was made with split.kind {self.split['kind']}, this run "
                f"has {split['kind']}: it may have learned from what is held out here; {advice}"
            )
        if cuts[0] and cuts[1] and cuts[0] > cuts[1]:
            raise TrainingError(
                f"training.warm_start: model {self.model_id} has learned from events up to {self.split['cut']}, but "
                f"this run holds out what is after {split['cut']}: it would be scored on what it knows; {advice}"
            )
        if needs_valid and self.split["valid"] != split["valid"]:
            raise TrainingError(
                f"training.warm_start: model {self.model_id} was made with split.valid {self.split['valid']}, this run "
                f"has {split['valid']} and chooses its readout there: the model may have learned from that slice; "
                f"{advice}, or give values instead of auto"
            )


def open_earlier_model(lake: str, model_id: str, embedding_dim: int, items: TableAt, has_output: bool) -> EarlierModel:
    """The model ``models/<model_id>`` of a lake; ``items`` is any version of that table, ``has_output`` says whether
    the rows of this run's output table are items, as those of the model's have to be to be taken over.

    Raises: TrainingError when there is none, or its vectors do not fit; LakeError when its files are damaged.
    """
    manifest = read_manifest(lake, MODELS, model_id)
    if manifest is None:
        raise TrainingError(
            f"training.warm_start: no model {model_id} in {join(lake, MODELS)}; {_describe_models(lake)}"
        )
    files = sorted(manifest.files, key=lambda file: file.path)
    found = [map_tensors(check_file(lake, MODELS, model_id, file)) for file in files]
    where = f"training.warm_start: model {model_id} of {lake}"
    if missing := [name for name in (*_ARRAYS, "is_trained") if name not in found[0]]:
        raise TrainingError(
            f"{where} has no {', '.join(missing)} (model.kind {manifest.facts.get('model_kind')}): it takes models of "
            f"the skip-gram family, made by this version; train it again, or leave warm_start out"
        )
    if (dim := found[0]["input"].shape[1]) != embedding_dim:
        raise TrainingError(
            f"{where} has vectors of {dim} floats, model.embedding_dim is {embedding_dim}; set it to {dim}, or leave "
            f"warm_start out"
        )
    has_output &= manifest.config.get("model", {}).get("objective") != "hierarchical_softmax"
    taken = {name: to for name, to in _ARRAYS.items() if has_output or not name.startswith("output")}
    parts = tuple({to: tensors[name] for name, to in taken.items()} for tensors in found)
    ids = read_ids(replace(items, lake=lake, version=manifest.inputs["items"]), c.ITEM_IDX, c.ITEM_ID)
    learned = pa.array(np.concatenate([tensors["is_trained"] for tensors in found]) > 0)
    record = read_record(lake, items.name, manifest.inputs["items"])
    split = record.config.get("split") if record else None
    return EarlierModel(model_id, parts, pc.if_else(learned, ids.combine_chunks(), None), split)


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


def _to_time(text: str) -> dt.datetime:
    """An ISO time, UTC where it names no zone, as the sessions stage reads it."""
    time = dt.datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _describe_models(lake: str) -> str:
    """The published models of a lake, newest first, for a message."""
    filesystem, path = open_filesystem(join(lake, MODELS))
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [e.base_name for e in entries if e.type == pafs.FileType.Directory]
    found = sorted(((m.created_at, n) for n in names if (m := read_manifest(lake, MODELS, n))), reverse=True)
    if not found:
        return "there is none yet; set training.warm_start.lake to where it is"
    shown = ", ".join(name for _, name in found[:_SHOWN])
    return f"there {'is' if len(found) == 1 else 'are'} {shown}{' and others' if len(found) > _SHOWN else ''}"
