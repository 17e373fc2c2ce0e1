"""From a trained model to what others read: the model folder, then user_embeddings, then item_embeddings, the marker.

Every rank writes the rows of its own items, and those of every n-th piece of users; rank 0 commits the files of all
ranks at once. No rank ever holds more than its part of the vectors and one piece of users.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.ragged import Ragged
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt, read_ids, read_table, stream_table
from recspark.lake.parts import PartFile, PartWriter, commit_parts
from recspark.logs import log
from recspark.training.inputs import TrainInputs
from recspark.training.model_files import TrainedModel
from recspark.training.readout import (
    Readout,
    ReadoutSpec,
    mean_of_sums,
    read_out,
    sum_user_vectors,
)
from recspark.training.towers.result import TowerResult
from recspark.training.world import World

_ITEMS_AT_ONCE = 200_000
_USERS_AT_ONCE = 50_000

Counts = dict[str, int]


def write_embeddings(run: Run, model: TrainedModel, inputs: TrainInputs, world: World) -> None:
    """Commits user_embeddings (where there are users) and then item_embeddings. Collective."""
    stage = run.stages["train"]
    slice_ = {c.MODEL_ID: stage.id}
    num_events = inputs.num_events[model.items.start : model.items.stop]
    items = read_out(model.tables, num_events, ReadoutSpec.from_facts(model.facts), world.sum_over_ranks)
    counts, tables = dict(model.counts), {}
    if inputs.users is not None and inputs.user_histories is not None:
        writer = PartWriter(run.lake, USER_EMBEDDINGS, slice_, world.rank)
        if model.towers:
            users = write_tower_users(inputs.users, inputs.user_histories, model.towers, writer, world)
        else:
            users = write_user_rows(inputs.users, inputs.user_histories, items, model.items.start, writer, world)
        parts, user_counts = _gather(world, writer.close(), users)
        counts |= user_counts
        if world.rank == 0:
            record = run.record("train", is_marker=False, inputs=inputs.versions, counts=user_counts, facts=model.facts)
            tables["user_embeddings"] = commit_parts(run.lake, USER_EMBEDDINGS, slice_, parts, record)
            fault_point("train.user_embeddings")
    writer = PartWriter(run.lake, ITEM_EMBEDDINGS, slice_, world.rank)
    own_counts = write_item_rows(inputs, items, model.items.start, writer)
    parts, item_counts = _gather(world, writer.close(), own_counts)
    if world.rank == 0:
        counts |= item_counts
        record = run.record(
            "train", is_marker=True, tables=tables, inputs=inputs.versions, counts=counts, facts=model.facts
        )
        version = commit_parts(run.lake, ITEM_EMBEDDINGS, slice_, parts, record)
        log("train", f"done at version {version}", **counts)


def _gather(world: World, part: PartFile | None, counts: Counts) -> tuple[list[PartFile | None], Counts]:
    """(files of all ranks, the sums of their counts). Collective."""
    found = world.gather_objects((part, counts))
    return [file for file, _ in found], {name: sum(own[name] for _, own in found) for name in counts}


def write_item_rows(inputs: TrainInputs, items: Readout, first_item: int, writer: PartWriter) -> Counts:
    """Writes this rank's rows of item_embeddings; their counts.

    Items that training never touched are left out, since nothing is known about them; an edge list's nodes are all
    there, those with zero vectors.
    """
    is_listed = np.ones_like(items.is_trained) if inputs.users is None else items.is_trained
    listed = np.flatnonzero(is_listed)
    ids = _read_item_ids(inputs.items, first_item, len(is_listed))
    for start in range(0, len(listed), _ITEMS_AT_ONCE):
        rows = listed[start : start + _ITEMS_AT_ONCE]
        query = items.query[rows] if items.has_query else None
        own_ids = ids.take(pa.array(rows))
        writer.write(_embedding_rows(rows + first_item, own_ids, items.vector[rows], query, items.bias[rows]))
    is_known = inputs.num_events[first_item : first_item + len(is_listed)] > 0
    return {
        "items": len(listed),
        "items_trained": int(items.is_trained.sum()),
        "items_untrained": int((is_known & ~items.is_trained).sum()),
        "items_without_train_events": int((~is_known).sum()),
    }


def _read_item_ids(items: TableAt, first_item: int, num_items: int) -> pa.ChunkedArray:
    """The outside ids of a range of items, in order."""
    own = [(c.ITEM_IDX, ">=", first_item), (c.ITEM_IDX, "<", first_item + num_items)]
    return read_table(items, [c.ITEM_IDX, c.ITEM_ID], own).sort_by(c.ITEM_IDX)[c.ITEM_ID].cast(pa.string())


def write_user_rows(
    users: TableAt, histories: TableAt, items: Readout, first_item: int, writer: PartWriter, world: World
) -> Counts:
    """Writes every n-th piece of user_embeddings; counts of what this rank wrote. Collective.

    A user is the mean of query vectors (`user_parts`) over the train history, weighted as the model says; one without
    a trained item there has no row. All ranks read all histories and add up what each knows of a piece: the vectors
    stay where they are.
    """
    ids, parts = read_ids(users, c.USER_IDX, c.USER_ID), items.user_parts
    is_trained = np.concatenate(world.gather_objects(items.is_trained))
    num_rows = num_missing = 0
    for piece, (user_idx, item_idx, starts, num_train) in enumerate(_stream_histories(histories)):
        own = sum_user_vectors(item_idx, starts, num_train, parts, is_trained, items.history_weights, first_item)
        vectors, has_vector = mean_of_sums(world.sum_arrays(own))
        if piece % world.world_size != world.rank:
            continue
        listed = user_idx[has_vector]
        order = np.argsort(listed)
        bias = np.zeros(len(order), np.float32)
        own_ids = ids.take(pa.array(listed[order]))
        writer.write(_embedding_rows(listed[order], own_ids, vectors[has_vector][order], None, bias))
        num_rows += len(order)
        num_missing += int((~has_vector).sum())
    return {"users": num_rows, "users_without_history": num_missing}


def write_tower_users(
    users: TableAt, histories: TableAt, towers: TowerResult, writer: PartWriter, world: World
) -> Counts:
    """Writes every n-th piece of user_embeddings by the user tower; counts of what this rank wrote.

    A user of several vectors (interests) has no row: one vector cannot stand for them.
    """
    ids = read_ids(users, c.USER_IDX, c.USER_ID)
    spec = towers.users.spec
    columns = [c.USER_IDX, c.ITEM_IDX, c.NUM_TRAIN, *spec.event_columns]
    num_rows = num_missing = 0
    for piece, batch in enumerate(stream_table(histories, columns, _USERS_AT_ONCE)):
        if piece % world.world_size != world.rank:
            continue
        user_idx = batch[c.USER_IDX].to_numpy()
        history, context = _read_train(pa.Table.from_batches([batch]), spec.event_columns)
        vectors = towers.encode_users(history, user_idx, context.at(spec.until_us, len(history)))
        if vectors.ndim == 3:
            vectors = np.zeros((len(user_idx), vectors.shape[2]), np.float32)
        listed = np.flatnonzero(vectors.any(axis=1))
        listed = listed[np.argsort(user_idx[listed])]
        own_ids = ids.take(pa.array(user_idx[listed]))
        bias = np.zeros(len(listed), np.float32)
        writer.write(_embedding_rows(user_idx[listed], own_ids, vectors[listed], None, bias))
        num_rows, num_missing = num_rows + len(listed), num_missing + len(user_idx) - len(listed)
    return {"users": num_rows, "users_without_history": num_missing}


def _read_train(rows: pa.Table, event_columns: list[str]) -> tuple[Ragged, HistoryContext]:
    """(train items of each user, what else is known of these events)."""
    events = Ragged.from_arrow(rows[c.ITEM_IDX])
    is_train = events.place_of_value < np.repeat(rows[c.NUM_TRAIN].to_numpy(), events.lengths)
    return events.where(is_train), HistoryContext.from_rows(rows, event_columns).pick(is_train)


def _stream_histories(histories: TableAt) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """(user_idx, items of all, where each user's start, how many of them are train) piece by piece."""
    for batch in stream_table(histories, [c.USER_IDX, c.ITEM_IDX, c.NUM_TRAIN], _USERS_AT_ONCE):
        lists = batch[c.ITEM_IDX]
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        values = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
        yield batch[c.USER_IDX].to_numpy(), values, starts, batch[c.NUM_TRAIN].to_numpy()


def _embedding_rows(
    idx: NDArray[Any], ids: pa.ChunkedArray, vectors: NDArray[np.float32], query: NDArray[np.float32] | None,
    bias: NDArray[np.float32],
) -> pa.Table:  # fmt: skip
    columns = {
        c.IDX: pa.array(idx.astype(np.int32)),
        c.ID: ids,
        c.VECTOR: _lists(vectors),
        c.QUERY_VECTOR: pa.nulls(len(idx), pa.list_(pa.float32())) if query is None else _lists(query),
        c.BIAS: pa.array(bias),
    }
    return pa.table(columns)


def _lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """One list a row; pieces are small enough for 32 bit offsets."""
    num_rows, dim = vectors.shape
    offsets = np.arange(num_rows + 1, dtype=np.int32) * np.int32(dim)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(vectors).ravel()))
