"""Stage `evaluate`: the trained model and every baseline on the same users.

pinned user_histories, items, users, item_embeddings (index, item_graph) -> recommendations -> metrics
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.baselines.item_knn import build_score_matrix, rank_by_neighbours
from recspark.baselines.popularity import rank_by_popularity
from recspark.config import Run
from recspark.config.schema import EvaluateConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import METRICS, RECOMMENDATIONS
from recspark.errors import LakeError
from recspark.evaluate.histories import Cases, CaseSpec, build_cases
from recspark.evaluate.inputs import read_num_events, take_ids, to_recommendations
from recspark.evaluate.measure import MetricValue, measure, overall, to_metrics_table
from recspark.evaluate.top_k import FloatArray, Ranked, blocks, concatenate, rank_all
from recspark.faults import fault_point
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import TableAt, find_table, read_ids, read_table, write_table
from recspark.lake.folders import rebuild_command
from recspark.logs import Progress, log, timed
from recspark.retrieval.query import find_exact_reason
from recspark.retrieval.recommend import Searcher, recommend

STAGE = "evaluate"
PURPOSE = "test"
ORACLE = "oracle"
BLOCK_USERS = 10_000
"""Users ranked between two lines of progress."""
RankBlock = Callable[[int, int], Ranked]
"""(start, stop) of the cases -> their lists."""

_TABLES = ("user_histories", "items", "users", "item_embeddings")
_HISTORY_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT]


@dataclass(frozen=True)
class _Setting:
    """What all models of one evaluation share."""

    run: Run
    config: EvaluateConfig
    tables: dict[str, TableAt]
    cases: Cases
    num_events: NDArray[np.int64]
    item_ids: pa.ChunkedArray
    user_ids: pa.ChunkedArray
    """Of the users scored, in the order of ``cases``."""

    @property
    def k(self) -> int:
        """Length of the lists."""
        return max(self.config.ks)


@dataclass(frozen=True)
class _Evaluated:
    """One model's lists and numbers."""

    label: str
    model_id: str
    ranked: Ranked
    values: list[MetricValue]


def evaluate(run: Run) -> None:
    """Writes the run's evaluation: one commit of `recommendations`, then the marker `metrics`.

    Raises: DataError when no user can be scored; LakeError when an earlier stage has not run.
    """
    setting = _open_setting(run)
    log(STAGE, "scores users", **setting.cases.counts)
    models = [_evaluate_model(setting, label, build) for label, build in _choose_models(setting).items()]
    version = _write_recommendations(setting, models)
    fault_point("evaluate.between_tables")
    key = run.stages[STAGE].key
    record = run.record(
        STAGE,
        is_marker=True,
        tables={RECOMMENDATIONS.name: version},
        inputs=_describe_inputs(setting),
        counts=setting.cases.counts | {"short_lists": {m.label: _count_short(m.ranked) for m in models}},
        facts=_describe_results(setting, models),
    )
    table = to_metrics_table(key, {m.model_id: m.values for m in models})
    write_table(run.lake, METRICS, table, record, replace=f"{c.STAGE_KEY} = '{key}'")


def model_id_of(run: Run, label: str) -> str:
    """The trained model's own id; for a baseline one that no other evaluation in this lake has."""
    return run.stages["train"].id if label == run.config.model.kind else f"{label}-{run.stages[STAGE].key[:8]}"


def _open_setting(run: Run) -> _Setting:
    config = run.config.evaluate
    assert config, "a run has this stage only with the section"
    tables = {name: find_table(run.lake, run.producer(name), name) for name in _TABLES}
    if "item_knn_graph" in run.stages:
        tables["item_graph"] = find_table(run.lake, run.stages["item_knn_graph"], "item_graph")
    num_events = read_num_events(tables["items"])
    spec = CaseSpec(config.split, config.history, config.mask_seen, config.max_users)
    cases = build_cases(read_table(tables["user_histories"], _HISTORY_COLUMNS), num_events, spec)
    item_ids = read_ids(tables["items"], c.ITEM_IDX, c.ITEM_ID)
    user_ids = take_ids(read_ids(tables["users"], c.USER_IDX, c.USER_ID), cases.user_idx)
    return _Setting(run, config, tables, cases, num_events, item_ids, user_ids)


def _choose_models(setting: _Setting) -> dict[str, Callable[[_Setting], RankBlock]]:
    """What builds each model's ranker, by label, in the order of the report."""
    known = {"item_knn": _build_item_knn, "popularity": _build_popularity}
    models: dict[str, Callable[[_Setting], RankBlock]] = {setting.run.config.model.kind: _build_trained}
    models |= {name: build for name, build in known.items() if name in setting.run.config.baselines.names}
    if setting.run.config.source.kind == "synthetic":
        models[ORACLE] = _build_oracle
    return models


def _evaluate_model(setting: _Setting, label: str, build: Callable[[_Setting], RankBlock]) -> _Evaluated:
    progress = Progress(STAGE, len(setting.cases), f"users by {label}")
    with timed(STAGE, f"scored {label}") as shown:
        rank_block, parts = build(setting), []
        for start, stop in blocks(len(setting.cases), BLOCK_USERS):
            parts.append(rank_block(start, stop))
            progress.update(stop)
        ranked = concatenate(parts, setting.k)
        values = measure(ranked.ids, setting.cases, setting.num_events, setting.config.ks)
        shown.update({k: round(v, 4) for k, v in overall(values).items() if k.startswith("recall")})
    return _Evaluated(label, model_id_of(setting.run, label), ranked, values)


def _build_trained(setting: _Setting) -> RankBlock:
    vectors, index = read_item_vectors(setting.tables["item_embeddings"]), _open_index(setting)
    history, masked = setting.cases.history, setting.cases.masked

    def rank_block(start: int, stop: int) -> Ranked:
        return recommend(vectors, history.block(start, stop), masked.block(start, stop), setting.k, index)

    return rank_block


def _open_index(setting: _Setting) -> Searcher | None:
    if setting.config.search != "index":
        return None
    from recspark.index.store import open_index  # faiss is loaded only where it is asked for

    run = setting.run
    reason = find_exact_reason(run.lake, run.stages["index"].id, setting.tables["item_embeddings"])
    if reason:
        raise LakeError(f"evaluate: evaluate.search is index, but {reason}; {rebuild_command('indexes')}")
    index: Searcher = open_index(run.lake, run.stages["index"].id)
    return index


def _build_popularity(setting: _Setting) -> RankBlock:
    def rank_block(start: int, stop: int) -> Ranked:
        return rank_by_popularity(setting.num_events, setting.cases.masked.block(start, stop), setting.k)

    return rank_block


def _build_item_knn(setting: _Setting) -> RankBlock:
    edges = read_table(setting.tables["item_graph"], [c.SRC_IDX, c.DST_IDX, c.SCORE])
    scores = build_score_matrix(edges, len(setting.num_events))
    history, masked, candidates = setting.cases.history, setting.cases.masked, setting.num_events > 0

    def rank_block(start: int, stop: int) -> Ranked:
        users = history.block(start, stop), masked.block(start, stop)
        return rank_by_neighbours(scores, *users, setting.k, candidates)

    return rank_block


def _build_oracle(setting: _Setting) -> RankBlock:
    """The planted truth's lists, over the same candidates as everyone's: the most that can be reached."""
    from recspark.sources.planted import PlantedWorld, item_number, user_number

    world = PlantedWorld(setting.run.config.source.synthetic, setting.run.seed)
    items = np.array([item_number(i) for i in setting.item_ids.to_pylist()], dtype=np.int64)
    users = np.array([user_number(u) for u in setting.user_ids.to_pylist()], dtype=np.int64)

    def rank_block(start: int, stop: int) -> Ranked:
        def score_block(first: int, last: int) -> FloatArray:
            return world.score_items(users[start + first : start + last])[:, items]

        masked = setting.cases.masked.block(start, stop)
        return rank_all(score_block, masked, len(items), setting.k, setting.num_events > 0)

    return rank_block


def _write_recommendations(setting: _Setting, models: list[_Evaluated]) -> int:
    """All models' lists in one commit that replaces only their own slices; its version."""
    rows = pa.concat_tables(
        to_recommendations(PURPOSE, m.model_id, setting.user_ids, setting.item_ids, m.ranked) for m in models
    )
    slices = ", ".join(f"'{m.model_id}'" for m in models)
    record = setting.run.record(STAGE, is_marker=False, inputs=_describe_inputs(setting))
    predicate = f"{c.PURPOSE} = '{PURPOSE}' AND {c.MODEL_ID} IN ({slices})"
    return write_table(setting.run.lake, RECOMMENDATIONS, rows, record, replace=predicate)


def _describe_inputs(setting: _Setting) -> dict[str, Any]:
    inputs: dict[str, Any] = {name: table.version for name, table in setting.tables.items()}
    return inputs | ({"index": setting.run.stages["index"].id} if setting.config.search == "index" else {})


def _describe_results(setting: _Setting, models: list[_Evaluated]) -> dict[str, Any]:
    """The facts that a report is printed from: metrics of all users by model label."""
    spec = CaseSpec(setting.config.split, setting.config.history)
    return {
        "split": spec.split,
        "history": spec.history_parts,
        "mask_seen": setting.config.mask_seen,
        "search": setting.config.search,
        "k": setting.k,
        "models": [m.label for m in models],
        "trained": setting.run.config.model.kind,
        "model_ids": {m.label: m.model_id for m in models},
        "metrics": {m.label: overall(m.values) for m in models},
    }


def _count_short(ranked: Ranked) -> int:
    return int((ranked.lengths < ranked.ids.shape[1]).sum())
