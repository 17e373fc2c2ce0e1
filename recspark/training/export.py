"""From a trained model to what others read: the model folder, then user_embeddings, then item_embeddings, the marker.

models/<model_id>/vectors.safetensors    input, output float32 [V, dim] in item_idx order, is_trained uint8 [V], and
                                         input_squares, output_squares float32 [V] for a warm start
models/<model_id>/manifest.json          counts, config, input versions, facts (metric, backend, readout ...)
user_embeddings, item_embeddings         one commit each; item_embeddings' means done
"""

import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.manifest import FileEntry
from recspark.contracts.tables import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from recspark.errors import LakeError
from recspark.faults import fault_point
from recspark.lake.arrow import read_ids, read_table, write_table
from recspark.lake.folders import check_file, find_flaw, folder_uri, publish_folder, read_manifest, unpublish_folder
from recspark.lake.storage import open_filesystem
from recspark.logs import log
from recspark.training.earlier_model import MODELS, VECTORS_FILE
from recspark.training.inputs import TrainInputs
from recspark.training.readout import Readout, ReadoutSpec, mean_user_vectors, read_out
from recspark.training.tables import SkipGramTables


@dataclass(frozen=True)
class TrainedModel:
    """A finished training: its tables, what was counted, and what readers need to know."""

    tables: SkipGramTables
    counts: dict[str, Any]
    facts: dict[str, Any]


def find_model(run: Run) -> TrainedModel | None:
    """The model a run has published before its embeddings were committed, None where there is no whole one.

    Raises: LakeError when a file's SHA-256 is not the manifest's.
    """
    model_id = run.stages["train"].id
    if find_flaw(run.lake, MODELS, model_id):
        return None
    manifest = read_manifest(run.lake, MODELS, model_id)
    assert manifest, "a folder without one has a flaw"
    filesystem, path = open_filesystem(check_file(run.lake, MODELS, model_id, manifest.file(VECTORS_FILE)))
    with tempfile.TemporaryDirectory() as folder:
        pafs.copy_files(path, f"{folder}/{VECTORS_FILE}", filesystem, pafs.LocalFileSystem())
        arrays = load_file(f"{folder}/{VECTORS_FILE}")
    tables = SkipGramTables(arrays["input"], arrays["output"], arrays["is_trained"].astype(bool))
    return TrainedModel(tables, manifest.counts, manifest.facts)


def publish_model(run: Run, model: TrainedModel, versions: dict[str, int]) -> bool:
    """Writes the model folder, from whose manifest on the training need not be repeated.

    True where it holds what the manifest of a damaged one before it says: committed embeddings then still are its.
    """
    stage = run.stages["train"]
    before = _read_old_entry(run)
    unpublish_folder(run.lake, MODELS, stage.id)
    arrays = {
        "input": np.ascontiguousarray(model.tables.input),
        "output": np.ascontiguousarray(model.tables.output),
        "is_trained": model.tables.is_trained.astype(np.uint8),
    }
    squares = {"input_squares": model.tables.input_squares, "output_squares": model.tables.output_squares}
    arrays |= {name: np.ascontiguousarray(array) for name, array in squares.items() if array is not None}
    filesystem, path = open_filesystem(folder_uri(run.lake, MODELS, stage.id))
    filesystem.create_dir(path, recursive=True)
    with tempfile.TemporaryDirectory() as folder:
        save_file(arrays, os.path.join(folder, VECTORS_FILE))
        pafs.copy_files(f"{folder}/{VECTORS_FILE}", f"{path}/{VECTORS_FILE}", pafs.LocalFileSystem(), filesystem)
    published = publish_folder(
        run.lake, MODELS, stage.id, [VECTORS_FILE], counts=model.counts, config=stage.sections, inputs=versions,
        facts=model.facts, run_id=run.run_id,
    )  # fmt: skip
    fault_point("train.model")
    return published.file(VECTORS_FILE) == before


def _read_old_entry(run: Run) -> FileEntry | None:
    """What the manifest that is to be replaced says of the vectors, None where it says nothing."""
    try:
        manifest = read_manifest(run.lake, MODELS, run.stages["train"].id)
        return manifest.file(VECTORS_FILE) if manifest else None
    except (LakeError, KeyError):
        return None


def write_embeddings(run: Run, model: TrainedModel, inputs: TrainInputs) -> int:
    """Commits user_embeddings (where there are users) and then item_embeddings; the latter's version."""
    stage = run.stages["train"]
    slice_ = f"{c.MODEL_ID} = '{stage.id}'"
    items = read_out(model.tables, inputs.num_events, ReadoutSpec.from_facts(model.facts))
    counts, tables = dict(model.counts), {}
    if inputs.users is not None and inputs.user_histories is not None:
        users, user_counts = build_user_rows(inputs, items, stage.id)
        counts |= user_counts
        record = run.record("train", is_marker=False, inputs=inputs.versions, counts=user_counts, facts=model.facts)
        tables["user_embeddings"] = write_table(run.lake, USER_EMBEDDINGS, users, record, slice_)
        fault_point("train.user_embeddings")
    rows, item_counts = build_item_rows(inputs, items, stage.id)
    counts |= item_counts
    record = run.record(
        "train", is_marker=True, tables=tables, inputs=inputs.versions, counts=counts, facts=model.facts
    )
    version = write_table(run.lake, ITEM_EMBEDDINGS, rows, record, slice_)
    log("train", f"done at version {version}", **counts)
    return version


def build_item_rows(inputs: TrainInputs, items: Readout, model_id: str) -> tuple[pa.Table, dict[str, int]]:
    """Rows of item_embeddings and their counts.

    Items that training never touched are left out, since nothing is known about them; an edge list's nodes are all
    there, those with zero vectors.
    """
    is_listed = np.ones_like(items.is_trained) if inputs.users is None else items.is_trained
    listed = np.flatnonzero(is_listed)
    ids = read_ids(inputs.items, c.ITEM_IDX, c.ITEM_ID).take(pa.array(listed))
    query = items.query[listed] if items.has_query else None
    rows = _embedding_rows(listed, ids, items.vector[listed], query, items.bias[listed], model_id)
    is_known = inputs.num_events > 0
    return rows, {
        "items": len(listed),
        "items_trained": int(items.is_trained.sum()),
        "items_untrained": int((is_known & ~items.is_trained).sum()),
        "items_without_train_events": int((~is_known).sum()),
    }


def build_user_rows(inputs: TrainInputs, items: Readout, model_id: str) -> tuple[pa.Table, dict[str, int]]:
    """Rows of user_embeddings and their counts; users without a trained item in their train history have none."""
    assert inputs.users is not None
    assert inputs.user_histories is not None
    histories = read_table(inputs.user_histories, [c.USER_IDX, c.ITEM_IDX, c.NUM_TRAIN])
    lists = histories[c.ITEM_IDX]  # stays in chunks: the offsets of one list array end at 2^31 values
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    vectors, has_vector = mean_user_vectors(
        pc.list_flatten(lists).to_numpy(), starts, histories[c.NUM_TRAIN].to_numpy(), items
    )
    user_idx = histories[c.USER_IDX].to_numpy()[has_vector]
    order = np.argsort(user_idx)
    ids = read_ids(inputs.users, c.USER_IDX, c.USER_ID).take(pa.array(user_idx[order]))
    bias = np.zeros(len(order), np.float32)
    rows = _embedding_rows(user_idx[order], ids, vectors[has_vector][order], None, bias, model_id)
    return rows, {"users": len(order), "users_without_history": int((~has_vector).sum())}


def _embedding_rows(
    idx: NDArray[Any], ids: pa.ChunkedArray, vectors: NDArray[np.float32], query: NDArray[np.float32] | None,
    bias: NDArray[np.float32], model_id: str,
) -> pa.Table:  # fmt: skip
    columns = {
        c.IDX: pa.array(idx.astype(np.int32)),
        c.ID: ids,
        c.VECTOR: _lists(vectors),
        c.QUERY_VECTOR: pa.nulls(len(idx), pa.list_(pa.float32())) if query is None else _lists(query),
        c.BIAS: pa.array(bias),
        c.MODEL_ID: pc.cast(pa.repeat(model_id, len(idx)), pa.string()),
    }
    return pa.table(columns)


def _lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """One list a row; offsets are 32 bit, so large tables come in several chunks of a chunked array."""
    num_rows, dim = vectors.shape
    rows_at_once = max(1, (2**31 - 1) // max(dim, 1))
    chunks = []
    for start in range(0, max(num_rows, 1), rows_at_once):
        part = np.ascontiguousarray(vectors[start : start + rows_at_once])
        offsets = np.arange(len(part) + 1, dtype=np.int32) * np.int32(dim)
        chunks.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(part.ravel())))
    return pa.chunked_array(chunks)
