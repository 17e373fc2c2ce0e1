"""A trained model: made from this run's versions, vectors only of what has train events, users from train items only.

Negatives are drawn by `items.num_events`, which has a check of its own: the model's inputs say of which version.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.leak.histories import TrainParts
from recspark.evaluate.leak.inputs import Audited, check_ids, check_inputs, is_sampled
from recspark.evaluate.leak.report import Check, Finding, not_applicable
from recspark.evaluate.leak.towers import encode_again
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.user_tower_file import FACT
from recspark.lake.arrow import TableAt, stream_table

MAX_USERS = 1_000
"""Users whose vectors are computed again."""
_BATCH_ROWS = 50_000
_TOLERANCE = 1e-3
"""Of the components of a mean of unit vectors, which ranks add up in float32."""
_CORPUS_TABLES = {"walks": "walks", "sessions": "sessions", "histories": "user_histories"}


def check_model(audited: Audited, item_events: NDArray[np.int64], train: TrainParts | None) -> list[Check]:
    """Checks `train.inputs`, `train.model`, `train.items`, `train.users`; ``train`` is None without users."""
    tables, vectors = audited.tables, audited.tables["item_embeddings"]
    needed = _needed(vectors, audited.has_events)
    checks = [check_inputs("train.inputs", vectors, vectors.record.inputs, tables, needed)]
    if audited.models is None:
        checks.append(not_applicable("train.model", "the model's folder is not there"))
    else:
        checks.append(check_inputs("train.model", vectors, audited.models, tables, needed))
    checks.append(_check_items(vectors, item_events))
    if train is None or "user_embeddings" not in tables:
        return [*checks, not_applicable("train.users", "there are no users")]
    return [*checks, _check_users(tables, train)]


def _needed(vectors: TableAt, has_users: bool) -> set[str]:
    """The tables that a training must say it has read."""
    config = vectors.record.config
    corpus = config.get("training", {}).get("corpus", {})
    explicit = config.get("model", {}).get("towers", {}).get("negatives", {}).get("explicit")
    beside = [*(["user_histories"] if has_users else []), *(["user_negatives"] if explicit else [])]
    return {"items", *(_CORPUS_TABLES[name] for name in corpus), *beside}


def _check_items(vectors: TableAt, item_events: NDArray[np.int64]) -> Check:
    """Whether items without train events have no vector, or only one that a warm start brought."""
    start = vectors.record.facts.get("warm_start")
    known = "train events" if start is None else f"train events, or come from model {start['model_id']}"
    by_features = bool(vectors.record.facts.get("item_features"))
    known += " or features" if by_features else ""
    finding = Finding("train.items", vectors, f"items with a vector have {known}", "vectors")
    num_started = 0
    for batch in _stream_model(vectors, [c.IDX, c.VECTOR]):
        idx = batch[c.IDX].to_numpy()
        check_ids("item_embeddings", c.IDX, idx, len(item_events))
        is_unknown = (item_events[idx] == 0) & _matrix(batch[c.VECTOR]).any(axis=1)
        num_started += int(is_unknown.sum())
        finding.look(is_unknown & (start is None and not by_features), _naming("item", idx))
    told = "the warm start" if start else "their features alone" if by_features else ""
    return finding.check(f"{num_started:,} of them by {told}" if told else "")


def _check_users(tables: Mapping[str, TableAt], train: TrainParts) -> Check:
    """Whether users with a vector have train events, and the sampled ones' is the mean over their train items."""
    vectors, users = tables["item_embeddings"], tables["user_embeddings"]
    is_tower = FACT in vectors.record.facts
    what = "what the user tower makes of" if is_tower else "the mean over"
    finding = Finding("train.users", users, f"a user's vector is {what} the train history", "vectors")
    total, idx, found = len(train.user_events), [], []
    for batch in _stream_model(users, [c.IDX, c.VECTOR]):
        user_idx = batch[c.IDX].to_numpy()
        check_ids("user_embeddings", c.USER_IDX, user_idx, total)
        finding.look(train.user_events[user_idx] == 0, _naming("without train events: user", user_idx))
        kept = np.flatnonzero(is_sampled(user_idx, total, MAX_USERS) & (train.user_events[user_idx] > 0))
        idx.append(user_idx[kept])
        found.append(_matrix(batch[c.VECTOR].take(pa.array(kept))))
    sampled = np.concatenate(idx or [np.empty(0, np.int32)])
    if len(sampled):
        histories, context = _histories_of(sampled, train)
        expected: NDArray[Any] = (
            encode_again(vectors, histories, sampled, context) if is_tower else _mean_vectors(histories, vectors)
        )
        distance = np.abs(np.concatenate(found) - expected).max(axis=1)
        for place in np.flatnonzero(distance > _TOLERANCE * max(1.0, float(np.abs(expected).max()))):
            finding.fail(
                f"user {sampled[place]}: off by {distance[place]:.2g} from {'it' if is_tower else 'that mean'}"
            )
    return finding.check(f"{len(sampled):,} computed again")


def _histories_of(users: NDArray[np.int32], train: TrainParts) -> tuple[Ragged, HistoryContext]:
    """(the train items of each user in order, what else is known of these events)."""
    row_of = np.full(len(train.user_events), -1, np.int64)
    row_of[users] = np.arange(len(users))
    rows = row_of[train.sample.user_idx]
    kept = np.flatnonzero((train.sample.parts == 0) & (rows >= 0))
    kept = kept[np.argsort(rows[kept], kind="stable")]
    history = Ragged.from_lengths(np.bincount(rows[kept], minlength=len(users)), train.sample.item_idx[kept])
    return history, train.sample.context.pick(kept)


def _mean_vectors(histories: Ragged, vectors: TableAt) -> NDArray[np.float64]:
    """The weighted mean of query vectors, of unit length but under l2, over each history; items without a vector do not
    count.
    """
    wanted = np.unique(histories.values)
    idx, rows = [], []
    for batch in _stream_model(vectors, [c.IDX, c.VECTOR, c.QUERY_VECTOR]):
        own = np.flatnonzero(np.isin(batch[c.IDX].to_numpy(), wanted))
        query = pc.coalesce(batch[c.QUERY_VECTOR], batch[c.VECTOR]).take(pa.array(own))
        idx.append(batch[c.IDX].to_numpy()[own])
        rows.append(_matrix(query).astype(np.float64))
    known, parts = np.concatenate(idx), np.concatenate(rows)
    facts = vectors.record.facts
    if facts.get("metric") != "l2":
        parts /= np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1e-12)
    row_of = np.full(int(wanted.max(initial=0)) + 1, -1, np.int64)
    row_of[known] = np.arange(len(known))
    weighing = HistoryWeights(facts.get("history_decay", 1.0), facts.get("history_items"))
    counted, weights = weighing.weigh(histories.where(row_of[histories.values] >= 0))
    sums, totals = np.zeros((len(counted), parts.shape[1])), np.zeros(len(counted))
    np.add.at(sums, counted.row_of_value, parts[row_of[counted.values]] * weights[:, None])
    np.add.at(totals, counted.row_of_value, weights)
    return sums / np.maximum(totals, 1e-12)[:, None]


def _stream_model(table: TableAt, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of this model: a table holds those of all."""
    own = pc.field(c.MODEL_ID) == table.record.key[:12]
    return (b for b in stream_table(table, [*columns, c.MODEL_ID], _BATCH_ROWS, where=own) if b.num_rows)


def _matrix(lists: pa.Array) -> NDArray[np.float32]:
    """Vectors of one length as rows."""
    flat: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), -1) if len(lists) else np.empty((0, 0), np.float32)


def _naming(what: str, idx: NDArray[np.int32]) -> Callable[[int], str]:
    return lambda place: f"{what} {idx[place]}"
