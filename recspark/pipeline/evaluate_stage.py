"""Stage `evaluate`: the trained model and every baseline on the same users.

pinned user_histories, items, users, item_embeddings (index, item_graph) -> recommendations -> metrics
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from recspark.baselines.registry import check_limits
from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import METRICS, RECOMMENDATIONS
from recspark.evaluate.histories import CaseSpec, build_cases
from recspark.evaluate.inputs import read_num_events, take_ids, to_recommendations
from recspark.evaluate.measure import MetricValue, measure, overall, to_metrics_table
from recspark.evaluate.top_k import Ranked, blocks, concatenate
from recspark.evaluate.user_tower_file import find_event_columns
from recspark.faults import fault_point
from recspark.lake.arrow import find_table, read_ids, read_table, write_table
from recspark.logs import Progress, log, timed
from recspark.pipeline.limits import check_scored_slice
from recspark.pipeline.rankers import RankBlock, Setting, choose_builders

STAGE = "evaluate"
PURPOSE = "test"
BLOCK_USERS = 10_000
"""Users ranked between two lines of progress."""

_HISTORY_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.TS, c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT]


@dataclass(frozen=True)
class _Evaluated:
    """One model's lists and numbers."""

    label: str
    model_id: str
    ranked: Ranked
    values: list[MetricValue]


def evaluate(run: Run, facts: Mapping[str, Any] | None = None) -> None:
    """Writes the run's evaluation: one commit of `recommendations`, then the marker `metrics`, which records ``facts``.

    Raises: DataError when no user can be scored; LakeError when an earlier stage has not run; ConfigError, SetupError
    when the catalogue is too large for a baseline; TrainingError when the model knows what it is to be scored on.
    """
    check_scored_slice(run)
    setting = _open_setting(run)
    check_limits(run.config, setting.num_events)
    log(STAGE, "scores users", **setting.cases.counts)
    models = [_evaluate_model(setting, label, build) for label, build in choose_builders(run).items()]
    version = _write_recommendations(setting, models)
    fault_point("evaluate.between_tables")
    key = run.stages[STAGE].key
    record = run.record(
        STAGE,
        is_marker=True,
        tables={RECOMMENDATIONS.name: version},
        inputs=_describe_inputs(setting),
        counts=setting.cases.counts | {"short_lists": {m.label: _count_short(m.ranked) for m in models}},
        facts=_describe_results(setting, models) | dict(facts or {}),
    )
    table = to_metrics_table(key, {m.model_id: m.values for m in models})
    write_table(run.lake, METRICS, table, record, replace=f"{c.STAGE_KEY} = '{key}'")


def model_id_of(run: Run, label: str) -> str:
    """The trained model's own id; for a baseline one that no other evaluation in this lake has."""
    is_trained = label == run.config.model.kind and run.config.model.has_vectors
    return run.stages["train"].id if is_trained else f"{label}-{run.stages[STAGE].key[:8]}"


def _open_setting(run: Run) -> Setting:
    config = run.config.evaluate
    assert config, "a run has this stage only with the section"
    names = ["user_histories", "items", "users", *(["item_embeddings"] if run.config.model.has_vectors else [])]
    tables = {name: find_table(run.lake, run.producer(name), name) for name in names}
    if "item_knn_graph" in run.stages:
        tables["item_graph"] = find_table(run.lake, run.stages["item_knn_graph"], "item_graph")
    if "als" in run.stages:
        tables["als_factors"] = find_table(run.lake, run.stages["als"], "als_factors")
    num_events = read_num_events(tables["items"])
    spec = CaseSpec(config.split, config.history, config.mask_seen, config.max_users)
    more = find_event_columns(tables["item_embeddings"]) if "item_embeddings" in tables else []
    columns = list(dict.fromkeys([*_HISTORY_COLUMNS, *more]))
    cases = build_cases(read_table(tables["user_histories"], columns), num_events, spec, more)
    item_ids = read_ids(tables["items"], c.ITEM_IDX, c.ITEM_ID)
    user_ids = take_ids(read_ids(tables["users"], c.USER_IDX, c.USER_ID), cases.user_idx)
    return Setting(run, config, tables, cases, num_events, item_ids, user_ids)


def _evaluate_model(setting: Setting, label: str, build: Callable[[Setting], RankBlock]) -> _Evaluated:
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


def _write_recommendations(setting: Setting, models: list[_Evaluated]) -> int:
    """All models' lists in one commit that replaces only their own slices; its version."""
    rows = pa.concat_tables(
        to_recommendations(PURPOSE, m.model_id, setting.user_ids, setting.item_ids, m.ranked) for m in models
    )
    slices = ", ".join(f"'{m.model_id}'" for m in models)
    record = setting.run.record(STAGE, is_marker=False, inputs=_describe_inputs(setting))
    predicate = f"{c.PURPOSE} = '{PURPOSE}' AND {c.MODEL_ID} IN ({slices})"
    return write_table(setting.run.lake, RECOMMENDATIONS, rows, record, replace=predicate)


def _describe_inputs(setting: Setting) -> dict[str, Any]:
    inputs: dict[str, Any] = {name: table.version for name, table in setting.tables.items()}
    return inputs | ({"index": setting.run.stages["index"].id} if setting.config.search == "index" else {})


def _describe_results(setting: Setting, models: list[_Evaluated]) -> dict[str, Any]:
    """The facts that a report is printed from: metrics of all users by model label."""
    config = setting.config
    spec = CaseSpec(config.split, config.history)
    return {
        "split": spec.split,
        "history": spec.history_parts,
        "mask_seen": config.mask_seen,
        "search": config.search,
        "k": setting.k,
        "models": [m.label for m in models],
        "trained": setting.run.config.model.kind,
        "model_ids": {m.label: m.model_id for m in models},
        "metrics": {m.label: overall(m.values) for m in models},
    }


def _count_short(ranked: Ranked) -> int:
    return int((ranked.lengths < ranked.ids.shape[1]).sum())
