"""One question at a time: items near an item, items for a user, with names and reasons.

similar_items(run, "i00042", 2)  ->  [Neighbour(1, "i00017", "Kettle, 1 l", .93), Neighbour(2, "i00310", ...)]
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recspark.contracts import columns as c
from recspark.contracts.commits import find_stale_input
from recspark.contracts.hidden_ids import hide_id
from recspark.errors import QueryError
from recspark.evaluate.histories import read_by_time
from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.lists import Ranked
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.user_tower_file import find_event_columns
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.lake.arrow import TableAt, find_table, open_table, read_ids, read_table
from recspark.lake.folders import find_flaw, read_manifest
from recspark.logs import log
from recspark.retrieval.close_matches import find_close_matches
from recspark.retrieval.exact import search_exact
from recspark.retrieval.moments import find_moment
from recspark.retrieval.recommend import Searcher, recommend, search_index
from recspark.retrieval.rerank import Reranker, open_reranker
from recspark.retrieval.user_encoder import TowerEncoder, UserEncoder, open_user_encoder
from recspark.retrieval.user_vectors import keep_known

if TYPE_CHECKING:  # the config's engine-free types; nothing of it is needed to answer
    from recspark.config.plan import Run

NAME_COLUMNS = ("f_title", "f_name")
"""Item features shown as names, where the items have them."""
MAX_REASONS = 2
_INDEXES = "indexes"


@dataclass(frozen=True)
class Neighbour:
    """One answer: its place from 1, the item, its name where a feature has one, sim + bias, and why.

    ``because`` names the items of the user's history that are nearest to it; empty for items near an item.
    """

    rank: int
    item_id: str
    name: str | None
    score: float
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Answers:
    """What a query needs of a run: item ids and names by item_idx, the model's vectors, how it makes users and what it
    reads of their events beside items, the index where it is built, and what ranks once more where the model has it.
    """

    item_ids: pa.ChunkedArray
    names: pa.ChunkedArray | None
    vectors: ItemVectors
    index: Searcher | None
    encoder: UserEncoder
    event_columns: list[str]
    reranker: Reranker | None

    def label(self, item_idx: int) -> str:
        """A name to show, the id where there is none."""
        return self.name(item_idx) or str(self.item_ids[item_idx].as_py())

    def name(self, item_idx: int) -> str | None:
        """The item's name, None without one."""
        return None if self.names is None else self.names[item_idx].as_py()

    def list_neighbours(self, ranked: Ranked) -> list[Neighbour]:
        """The first list of ``ranked`` for people."""
        found = zip(ranked.ids[0].tolist(), ranked.scores[0].tolist(), strict=True)
        return [
            Neighbour(rank, self.item_ids[idx].as_py(), self.name(idx), score)
            for rank, (idx, score) in enumerate(((i, s) for i, s in found if i >= 0), 1)
        ]


def similar_items(run: "Run", item_id: str, k: int) -> list[Neighbour]:
    """The k items with the highest score for the item's query vector, itself left out.

    Raises: QueryError for an item that the lake does not know (with close matches) or the model never saw.
    """
    _check_k(k)
    answers = _open_answers(run)
    item_idx = _find_idx(run, answers.item_ids, item_id, "item")
    item_id = str(answers.item_ids[item_idx])
    row = int(answers.vectors.rows_of(np.array([item_idx]))[0])
    if row < 0:
        raise QueryError(
            f"query: item {item_id!r} has no vector in model {answers.vectors.model_id}: it has no event to learn from "
            f"in the training part; ask for another, or move split.cut"
        )
    query, itself = answers.vectors.queries[row : row + 1], Ragged.from_rows([[item_idx]])
    if isinstance(answers.encoder, TowerEncoder):
        query = answers.vectors.vectors[row : row + 1]  # what stands for it in a history is not what it is like
    if not query.any():
        raise QueryError(
            f"query: item {item_id!r} was never trained: its vector in model {answers.vectors.model_id} is zero, as "
            f"that of a node without edges, so nothing is near it; ask for another"
        )
    if answers.index is None:
        return answers.list_neighbours(search_exact(answers.vectors, query, k, itself))
    return answers.list_neighbours(search_index(answers.index, query, k, itself, len(answers.vectors)))


def recommend_for_user(run: "Run", user_id: str, k: int, at: str | None = None) -> list[Neighbour]:
    """The k best items for a user from everything he did (test events too), seen items left out as `evaluate` does.

    Where ids are hidden, the user is asked for by the id that the source has. ``at`` is an ISO time: he is asked for as
    of then, by what came strictly before; by default as of now.

    Raises: QueryError for an unknown user (with close matches), one without an item that has a vector, or a time that
    is none or that the source has not.
    """
    _check_k(k)
    if at is not None and run.config.source.order != "time":
        raise QueryError("query: --at needs times (source.columns.ts), which this source has not")
    until_us = None if at is None else find_moment(at, "query: --at")
    user_ids = _read_user_ids(run)
    user_idx = _find_idx(run, user_ids, user_id, "user")
    user_id = str(user_ids[user_idx])
    answers = _open_answers(run)
    if until_us is None and c.TS in answers.event_columns:
        until_us = find_moment(None, "query")
    history, context = _read_history(run, user_idx, answers.event_columns, until_us)
    known = keep_known(answers.vectors, history)
    if not len(known.values):
        raise QueryError(
            f"query: user {user_id!r} has {len(history.values)} events, none on an item that model "
            f"{answers.vectors.model_id} has a vector for; ask for another user"
        )
    mask_seen = run.config.evaluate is None or run.config.evaluate.mask_seen
    masked = history.distinct() if mask_seen else Ragged.empty(1)
    who = np.array([user_idx])
    ranked = recommend(
        answers.vectors,
        history,
        masked,
        k,
        answers.index,
        answers.encoder,
        who,
        context=context,
        reranker=answers.reranker,
    )
    reasons = _find_reasons(answers, answers.vectors.history_weights.cut(known).values, ranked)
    return [replace(n, because=why) for n, why in zip(answers.list_neighbours(ranked), reasons, strict=True)]


def _find_reasons(answers: _Answers, history: IntArray, ranked: Ranked) -> list[tuple[str, ...]]:
    """For each listed item the history items whose query vectors are nearest to it, the nearest first; none for one
    whose vector only the index has."""
    vectors, history = answers.vectors, np.unique(history)
    listed = vectors.rows_of(ranked.ids[0][ranked.ids[0] >= 0])
    parts = vectors.prepare_queries(vectors.user_parts[vectors.rows_of(history)])
    nearest = np.argsort(-vectors.candidates[listed] @ parts.T, axis=1, kind="stable")[:, :MAX_REASONS]
    return [
        tuple(answers.label(int(history[place])) for place in row) if is_known else ()
        for row, is_known in zip(nearest, listed >= 0, strict=True)
    ]


def _open_answers(run: "Run") -> _Answers:
    if "train" not in run.stages:
        raise QueryError(
            f"query: model.kind {run.config.model.kind} ranks lists without vectors; its lists are in table "
            f"recommendations, or take a kind with vectors, such as skip_gram"
        )
    items = find_table(run.lake, run.producer("items"), "items")
    embeddings = find_table(run.lake, run.producer("item_embeddings"), "item_embeddings")
    name_column = _find_name_column(run, items)
    found = read_table(items, [c.ITEM_IDX, c.ITEM_ID, *([name_column] if name_column else [])]).sort_by(c.ITEM_IDX)
    names = found[name_column].cast(pa.string()) if name_column else None
    item_ids = found[c.ITEM_ID].cast(pa.string())
    vectors = read_item_vectors(embeddings)
    encoder, reranker = open_user_encoder(vectors, embeddings), open_reranker(vectors, embeddings)
    index = _open_built_index(run, embeddings)
    return _Answers(item_ids, names, vectors, index, encoder, find_event_columns(embeddings), reranker)


def _open_built_index(run: "Run", embeddings: TableAt) -> Searcher | None:
    """The run's index; None where it is planned without one, or (said aloud) has no finished one of these vectors.

    Raises: LakeError when its manifest cannot be read; IndexReadError when a file of it is lost or damaged.
    """
    stage = run.stages.get("index")
    if stage is None:
        return None
    reason = find_exact_reason(run.lake, stage.id, embeddings)
    if reason is None:
        from recspark.index.store import open_index  # faiss is loaded only where it is needed

        index: Searcher = open_index(run.lake, stage.id)
        return index
    _say_exact(reason)
    return None


def find_exact_reason(lake: str, index_id: str, embeddings: TableAt) -> str | None:
    """Why an index cannot stand for these vectors, None where it is there and made of them."""
    manifest = read_manifest(lake, _INDEXES, index_id)
    if manifest is None:
        return find_flaw(lake, _INDEXES, index_id)
    stale = find_stale_input(manifest.inputs, embeddings.name, embeddings.version)
    return f"{_INDEXES}/{index_id} is {stale}" if stale else None


@cache
def _say_exact(reason: str) -> None:
    """Once a process: a finished run asks several queries."""
    log("query", f"answers by exact search: {reason}; the index stage builds it")


def _find_name_column(run: "Run", items: TableAt) -> str | None:
    there = {field.name for field in open_table(items.lake, items.name, items.version).schema().fields}
    texts = [c.FEATURE_PREFIX + f.name for f in run.config.features if f.of == "item" and f.kind == "text"]
    return next((name for name in (*NAME_COLUMNS, *texts) if name in there), None)


def _read_user_ids(run: "Run") -> pa.ChunkedArray:
    try:
        users = find_table(run.lake, run.producer("users"), "users")
    except KeyError as error:
        raise QueryError(f"query: source.kind {run.config.source.kind} has no users; ask for an item") from error
    return read_ids(users, c.USER_IDX, c.USER_ID)


def _read_history(
    run: "Run", user_idx: int, event_columns: list[str], until_us: int | None
) -> tuple[Ragged, HistoryContext]:
    """One row: all events of a user, the newest last, whatever part of the split they belong to."""
    histories = find_table(run.lake, run.producer("user_histories"), "user_histories")
    columns = list(dict.fromkeys([c.ITEM_IDX, c.TS, *event_columns]))
    found = read_table(histories, columns, [(c.USER_IDX, "=", user_idx)])
    if not found.num_rows:
        return Ragged.empty(1), NO_CONTEXT
    return read_by_time(found, event_columns, until_us)


def _find_idx(run: "Run", ids: pa.ChunkedArray, wanted: str, noun: str) -> int:
    """The place of an id; where ids are hidden, of the one as the source has it, or as the tables do."""
    privacy = run.config.source.privacy
    is_hidden = privacy is not None and privacy.hides(noun)
    idx: int = pc.index(ids, pa.scalar(wanted, pa.string())).as_py()
    if idx < 0 and privacy is not None and is_hidden:
        idx = pc.index(ids, pa.scalar(hide_id(privacy.read_key(), wanted.encode()), pa.string())).as_py()
    if idx >= 0:
        return idx
    if is_hidden:  # what was asked for is not repeated: messages go into logs
        raise QueryError(
            f"query: no {noun} of this id among the {len(ids):,} {noun}s of this run, whose ids are hidden "
            f"(source.privacy); give it exactly as the source has it, or as table {noun}s holds it"
        )
    close = find_close_matches(ids, wanted)
    hint = f"close: {', '.join(close)}" if close else f"they look like {', '.join(ids.slice(0, 3).to_pylist())}"
    raise QueryError(f"query: no {noun} {wanted!r} among the {len(ids):,} {noun}s of this run; {hint}")


def _check_k(k: int) -> None:
    if k < 1:
        raise QueryError(f"query: k must be at least 1, got {k}")
