"""From a config and the state of its source to the stages of a run, each with its key."""

import json
import os
import uuid
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recspark import __version__
from recspark.config.baselines import CLOSED_FORM_KINDS, SCORED_BY
from recspark.config.index import NOT_IN_INDEX_KEY
from recspark.config.learning import AUTO
from recspark.config.schema import RunConfig
from recspark.config.trainer import NOT_IN_KEY
from recspark.contracts import stages as s
from recspark.contracts.commits import CommitRecord
from recspark.contracts.stages import PlannedStage, StageSpec, stage_key

RUN_VARIABLE = "RECSPARK_RUN"
"""Set by `recspark run` for the processes it starts: run id and source state as JSON, so that all agree on both; or
``@`` and the path of a file with them, as a list of files may be longer than a variable can be."""

FILES = "files"
"""Of a source state: what each of its files is told by, where they are few enough to be listed."""

_NOT_IN_KEY: dict[str, AbstractSet[str]] = {
    "source": {"max_bad_ratio", "incremental", "version"},  # the version read is part of the source's fingerprint
    "graph": {"num_blocks", "task_memory_mb", "edge_table"},
    "walks": {"mode", "graph_memory_mb", "num_shards", "chunk_tokens"},
    "training": NOT_IN_KEY,
    "index": NOT_IN_INDEX_KEY,
    "release": {"gates"},
}
"""Knobs that decide how a stage works, never what it yields."""


@dataclass(frozen=True)
class Run:
    """One run: its config, its id, the state of its source and its stages in order."""

    config: RunConfig
    run_id: str
    source: dict[str, Any]
    stages: dict[str, PlannedStage] = field(default_factory=dict)

    @property
    def lake(self) -> str:
        """``paths.lake``."""
        return self.config.paths.lake

    @property
    def source_facts(self) -> dict[str, Any]:
        """The source's state without the list of its files."""
        return {name: value for name, value in self.source.items() if name != FILES}

    @property
    def seed(self) -> int:
        """``run.seed``."""
        return self.config.run.seed

    def producer(self, table: str) -> PlannedStage:
        """The stage of this run that writes a table (``item_graph``: the graph of the walks, not a baseline's).

        Raises: KeyError when no stage of this run does.
        """
        for stage in self.stages.values():
            if table in stage.spec.tables and table != "quarantine":
                return stage
        raise KeyError(f"no stage of this run writes {table}")

    def record(
        self,
        stage: str,
        *,
        is_marker: bool,
        tables: dict[str, int] | None = None,
        inputs: dict[str, Any] | None = None,
        counts: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> CommitRecord:
        """The record for one commit of a stage; the marker's lists the versions of the side ``tables``."""
        planned = self.stages[stage]
        return CommitRecord(
            stage=stage,
            key=planned.key,
            run_id=self.run_id,
            is_marker=is_marker,
            code_version=__version__,
            tables=tables or {},
            inputs=inputs or {},
            counts=counts or {},
            facts=facts or {},
            config=planned.sections,
        )

    def to_environment(self, folder: Path | None = None) -> dict[str, str]:
        """What a child process needs to be part of this run; without a ``folder``, all but the list of files."""
        if folder is None:
            return {RUN_VARIABLE: json.dumps({"run_id": self.run_id, "source": self.source_facts})}
        path = folder / "run.json"
        path.write_text(json.dumps({"run_id": self.run_id, "source": self.source}))
        return {RUN_VARIABLE: f"@{path}"}


def plan_run(config: RunConfig, source: dict[str, Any]) -> Run:
    """The run of a config; inside a `recspark run` its id and source state come from there.

    ``source`` is the state of the source (`lake.source_state`), with a ``fingerprint`` that its key hangs on.
    """
    parent = _read_parent()
    source = parent.get("source", source)
    run_id = parent.get("run_id") or uuid.uuid4().hex[:12]
    return Run(config, run_id, source, _plan_stages(config, source["fingerprint"]))


def inherited_source() -> dict[str, Any] | None:
    """The source state that `recspark run` handed down, None in a job started on its own."""
    found: dict[str, Any] | None = _read_parent().get("source")
    return found


def _read_parent() -> dict[str, Any]:
    """Run id and source state of the `recspark run` that started this process; empty without one."""
    text = os.environ.get(RUN_VARIABLE, "{}")
    found: dict[str, Any] = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    return found


def _plan_stages(config: RunConfig, fingerprint: str) -> dict[str, PlannedStage]:
    planned: dict[str, PlannedStage] = {}

    def add(spec: StageSpec, sections: dict[str, Any], upstream: tuple[str, ...]) -> None:
        keys = {name: planned[name].key for name in upstream} or {"source": fingerprint}
        planned[spec.name] = PlannedStage(spec, stage_key(spec, sections, keys), sections, keys)

    def section(*names: str) -> dict[str, Any]:
        return {name: _without(config.section(name), _NOT_IN_KEY.get(name, set())) for name in names}

    seed, model = {"seed": config.run.seed}, config.model
    has_events = config.source.kind != "edges"
    base, graph = "ingest", "ingest"
    add(s.INGEST if has_events else s.INGEST_EDGES, _source_sections(config), ())
    if has_events:
        base = "sessions"
        add(s.SESSIONS, section("clean", "sessions", "vocabulary", "split", "features"), ("ingest",))
    if model.kind == AUTO:  # the rest is planned once the data have been seen
        return planned
    if has_events:
        if config.graph and model.has_corpus and not model.has_towers:
            graph = "graph"
            add(s.with_sums(s.GRAPH) if config.graph.incremental else s.GRAPH, section("graph"), ("sessions",))
        if config.evaluate and "item_knn" in config.scored_kinds:
            knobs = config.baselines.item_knn.graph
            own_graph = _without(knobs.model_dump(mode="json"), _NOT_IN_KEY["graph"])
            spec = s.with_sums(s.ITEM_KNN_GRAPH) if knobs.incremental else s.ITEM_KNN_GRAPH
            add(spec, {"graph": own_graph}, ("sessions",))
        if config.evaluate and "als" in config.scored_kinds:
            add(s.ALS, _knobs_of(config, "als") | {"embedding_dim": model.embedding_dim} | seed, ("sessions",))
        if explicit := model.explicit_negatives:
            shown = explicit.model_dump(mode="json", include={"event_types", "max_events"})
            add(s.NEGATIVES, {"negatives": shown}, ("ingest", "sessions"))
    if config.graph and config.graph.edge_table and ("graph" in planned or not has_events):
        add(s.GRAPH_EDGES, {}, (graph,))
    if config.walks and model.has_corpus and not model.has_towers and (config.graph or not has_events):
        add(s.WALKS, section("walks") | seed, (graph,))
    if model.is_closed_form:
        add(
            s.TRAIN,
            {"model": _without(section("model")["model"], {"towers"})}
            | {"baselines": _knobs_of(config, model.kind)}
            | seed,
            (base,),
        )
    elif model.has_corpus:
        training = section("training")["training"] | _backend_in_key(config) | _warm_start_in_key(config)
        own = {"model": section("model")["model"], "training": training}
        if not model.has_ranking_head:
            own["model"] = own["model"] | {"towers": _without(own["model"]["towers"], {"ranking"})}
        if not model.has_towers:  # what no other kind reads is none of its key
            own = {"model": _without(own["model"], {"towers"}), "training": _without(training, {"tables"})}
        add(s.TRAIN, own | seed, (base, *_training_reads(config, graph)))
    if config.index and model.has_vectors:
        add(s.INDEX_BUILD, section("index") | seed, ("train", *_index_reads(config, base, graph)))
    if config.evaluate and has_events:
        searched = ("index",) if config.evaluate.search == "index" else ()
        own_stages = tuple(n for n in ("item_knn_graph", "als") if n in planned)
        upstream = ("train" if model.has_vectors else base, *searched, *own_stages)
        add(s.EVALUATE, section("evaluate") | _scored_sections(config), upstream)
    if config.release and "index" in planned:
        add(s.RELEASE, section("release"), ("index", *(n for n in ("evaluate",) if n in planned)))
    return planned


def _source_sections(config: RunConfig) -> dict[str, Any]:
    source = _without(config.section("source"), _NOT_IN_KEY["source"] | {"privacy"})
    if config.source.privacy:  # the key's fingerprint, not the name under which it is found
        source["privacy"] = config.source.privacy.to_record()
    synthetic = source.pop("synthetic")
    if config.source.kind != "synthetic":
        return {"source": source}
    return {"source": source | {"synthetic": _without(synthetic, {"num_partitions"})}, "seed": config.run.seed}


def _backend_in_key(config: RunConfig) -> dict[str, str]:
    """Several processes mean torch: its arithmetic is not the CPU kernel's."""
    return {"backend": "torch" if config.training.num_processes > 1 else config.training.backend}


def _knobs_of(config: RunConfig, kind: str, *, beside: bool = False) -> dict[str, Any]:
    """What decides one baseline, but for its graph (that is upstream, by key) and, unless ``beside`` a model, but for
    how its vectors are scored: a model of that kind says so in section `model`.
    """
    knobs = getattr(config.baselines, kind).model_dump(mode="json", exclude={"graph", "max_items"})
    if kind not in CLOSED_FORM_KINDS:
        return {kind: knobs}
    if beside:
        return {kind: knobs | {"embedding_dim": config.model.embedding_dim, "seed": config.run.seed}}
    return {kind: _without(knobs, set(SCORED_BY))}


def _scored_sections(config: RunConfig) -> dict[str, Any]:
    """What `evaluate` builds by itself: the baselines, and the model where it only ranks lists."""
    kind, names = config.model.kind, set(config.baselines.names)
    built = names - {kind} if config.model.has_vectors else names | {kind}
    knobs = {k: v for name in sorted(built) for k, v in _knobs_of(config, name, beside=True).items()}
    return {"baselines": knobs} | ({} if config.model.has_vectors else {"model": {"kind": kind}})


def _warm_start_in_key(config: RunConfig) -> dict[str, Any]:
    """The earlier model by its id, wherever it lies."""
    start = config.training.warm_start
    return {"warm_start": None if start is None else start.model_dump(mode="json", exclude={"lake"})}


def _training_reads(config: RunConfig, graph: str) -> list[str]:
    """Stages beside the base that training reads."""
    start = config.training.warm_start
    reads_graph = start is not None and start.neighbours and graph == "graph"
    reads_negatives = config.model.explicit_negatives is not None
    return ["walks"] * ("walks" in config.training.corpus) + ["graph"] * reads_graph + ["negatives"] * reads_negatives


def _index_reads(config: RunConfig, base: str, graph: str) -> tuple[str, ...]:
    """Stages beside training that the index reads to fill in vectors."""
    fill = config.index.fill if config.index else ()
    return ((base,) if fill else ()) + ((graph,) if "neighbours" in fill and graph != base else ())


def _without(section: Any, names: AbstractSet[str]) -> Any:
    return {k: v for k, v in section.items() if k not in names} if isinstance(section, dict) else section
