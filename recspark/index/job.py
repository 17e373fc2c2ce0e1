"""Stage `index`: pinned item vectors in, ``indexes/<index_id>/`` out.

    item_embeddings at version 3  ->  plan -> train once -> shard by shard -> recall sweep -> manifest.json

Nothing is published before the manifest, and a killed build goes on with the next shard.
"""

from typing import Any

from recspark.config.plan import Run
from recspark.config.schema import IndexConfig
from recspark.contracts.commits import find_stale_input
from recspark.contracts.stages import PlannedStage
from recspark.errors import IndexBuildError
from recspark.index import store
from recspark.index.backends import describe_backend
from recspark.index.build import (
    Trained,
    add_shards,
    build_digest,
    collect_shards,
    item_ids,
    read_trained,
    train_quantizers,
)
from recspark.index.ids import write_ids
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.index.plan import IVF_KINDS, IndexPlan, check_memory, plan_index
from recspark.index.recall import DEPTHS, CurvePoint, ExactSearch, choose_point, measure_recall
from recspark.index.search import ShardedIndex
from recspark.index.store import open_index
from recspark.index.vectors import check_vectors, drop_zero_vectors, hash_sample
from recspark.lake.arrow import TableAt, find_done, find_table
from recspark.lake.folders import folder_uri, hash_file, publish_folder, unpublish_folder
from recspark.lake.storage import join
from recspark.logs import log, timed
from recspark.memory import free_memory_bytes, gib

__all__ = ["build_index", "open_index"]

_STAGE = "index"
_EFFORTS = {"hnsw": (16, 32, 64, 128, 256, 512)}
_QUERY_SEED = 1
"""Added to the run's seed: recall is measured on another draw than the training sample."""


def build_index(run: Run) -> None:
    """Builds and publishes the run's index; keeps finished shards of an earlier attempt whose SHA-256 still holds.

    Raises: IndexBuildError when the vectors, the config and the machine do not fit each other, or recall stays
    below ``index.min_recall``.
    """
    stage, config = run.stages[_STAGE], run.config.index
    assert config, "the stage is planned only where the section is there"
    folder = folder_uri(run.lake, store.FOLDER, stage.id)
    table = find_table(run.lake, run.producer("item_embeddings"), "item_embeddings")
    done = find_done(run.lake, stage)
    if done and find_stale_input(done[1].inputs, table.name, table.version) is None:
        log(_STAGE, "already done", index_id=stage.id)
        return
    items = read_item_vectors(table, with_ids=True)
    check_vectors(items)
    num_rows, items = len(items), drop_zero_vectors(items)
    if len(items) < num_rows:
        log(_STAGE, "zero vectors left out: cosine cannot compare them", num_left_out=num_rows - len(items))
    unpublish_folder(run.lake, store.FOLDER, stage.id)
    build = build_digest(key=stage.key, version=table.version, seed=run.seed, vectors=len(items))
    trained = _train(folder, build, items, config, run.seed)
    add_shards(folder, build, items, trained, range(trained.plan.num_shards))
    _finish(run, stage, folder, build, items, trained, table)


def _train(folder: str, build: str, items: ItemVectors, config: IndexConfig, seed: int) -> Trained:
    found = read_trained(folder, build)
    if found:
        check_memory(found.plan, free_memory_bytes())
        log(_STAGE, f"{found.plan.name}: quantizers kept from an earlier build")
        return found
    plan = plan_index(config, len(items), items.dim, items.metric, bool(items.bias.any()))
    _log_plan(plan)
    check_memory(plan, free_memory_bytes())
    with timed(_STAGE, f"trained {plan.name}") as facts:
        facts["sample"] = plan.train_size
        return train_quantizers(folder, build, items, plan, seed)


def _log_plan(plan: IndexPlan) -> None:
    for reason in plan.reasons:
        log(_STAGE, f"plan: {reason}")
    log(
        _STAGE,
        f"plan: {plan.name}, {plan.num_shards} shards, {plan.code_bytes} bytes an item, "
        f"{gib(plan.build_bytes)} to build, {gib(plan.search_bytes)} to search; {describe_backend(plan)}",
    )


def _finish(
    run: Run, stage: PlannedStage, folder: str, build: str, items: ItemVectors, trained: Trained, table: TableAt
) -> None:
    """The last step: id map, recall of what lies on disk, manifest."""
    config, plan = run.config.index, trained.plan
    assert config
    shards = collect_shards(folder, build, trained)
    write_ids(join(folder, store.IDS), item_ids(items, plan.num_shards))
    facts: dict[str, Any] = {
        "plan": plan.to_facts(),
        "space": trained.space.to_facts(),
        "metric": trained.space.metric,
        "dim": items.dim,
        "padded_dim": plan.padded_dim,
        "quantizer_fingerprint": trained.fingerprint,
        "sample": trained.facts["sample"],
        "shards": [shard.to_facts() for shard in shards],
    }
    chosen, deep, curve = _measure(store.assemble(folder, facts), items, config, run.seed)
    facts |= {"effort": chosen.effort, "deep_effort": deep.effort}
    if plan.effort_name:
        facts |= {plan.effort_name: chosen.effort, f"deep_{plan.effort_name}": deep.effort}
    facts |= {"recall_at_10": round(chosen.recall_at_10, 5), "recall_at_100": round(deep.recall_at_100, 5)}
    facts["curve"] = [point.to_facts() for point in curve]
    hashes = trained.files | {path: sha for shard in shards for path, sha in shard.files.items()}
    _publish(run, stage, folder, hashes, facts, {"item_embeddings": table.version, "model_id": items.model_id})
    log(_STAGE, f"done: {plan.name}", vectors=len(items), recall_at_10=round(chosen.recall_at_10, 4),
        index_id=stage.id, **({plan.effort_name: chosen.effort} if plan.effort_name else {}))  # fmt: skip


def _publish(
    run: Run, stage: PlannedStage, folder: str, hashes: dict[str, str], facts: dict[str, Any], inputs: dict[str, Any]
) -> None:
    hashes[store.IDS] = hash_file(folder, store.IDS).sha256
    counts = {"vectors": facts["plan"]["num_vectors"], "per_shard": [shard["count"] for shard in facts["shards"]]}
    facts["files"] = hashes
    facts["digest"] = store.manifest_digest(counts, stage.sections, inputs, facts)
    publish_folder(
        run.lake, store.FOLDER, stage.id, sorted(hashes), counts=counts, config=stage.sections, inputs=inputs,
        facts=facts, run_id=run.run_id,
    )  # fmt: skip


def _measure(
    index: ShardedIndex, items: ItemVectors, config: IndexConfig, seed: int
) -> tuple[CurvePoint, CurvePoint, list[CurvePoint]]:
    """(point for up to 10 results, point for more, curve) over the config's queries.

    Raises: IndexBuildError when recall@10 stays below ``index.min_recall``.
    """
    rows = hash_sample(items.item_idx, config.num_queries, seed + _QUERY_SEED)
    exact = ExactSearch(items, index.metric)
    asked = min(config.nprobe, index.shards[0].nlist) if config.nprobe and index.kind in IVF_KINDS else None
    target = None if asked else config.target_recall  # beside a fixed nprobe all others are shown
    curve = measure_recall(index, exact, items.queries[rows], items.item_idx[rows], sweep(index, asked), target)
    chosen, deep = (choose_point(curve, k, config.target_recall, asked) for k in DEPTHS[1:])
    if chosen.recall_at_10 < config.min_recall:
        raise IndexBuildError(
            f"recall@10 is {chosen.recall_at_10:.4f} at {index.kind} effort {chosen.effort}, below index.min_recall "
            f"{config.min_recall}; nothing was published: raise index.nprobe, index.m or index.refine_factor"
        )
    if chosen.recall_at_10 < config.target_recall:
        log(_STAGE, f"recall@10 {chosen.recall_at_10:.4f} stays below index.target_recall {config.target_recall}: "
            "raise index.m or index.refine_factor")  # fmt: skip
    return chosen, deep, curve


def sweep(index: ShardedIndex, asked: int | None) -> list[int | None]:
    """Efforts to measure, ascending: powers of two up to nlist (and the one asked for), ef_search, or none."""
    if index.kind == "flat":
        return [None]
    if index.kind in _EFFORTS:
        return [*_EFFORTS[index.kind]]
    nlist = int(index.shards[0].nlist)
    powers = {1 << i for i in range(nlist.bit_length())} | {nlist}
    return [*sorted(powers | ({min(asked, nlist)} if asked else set()))]
