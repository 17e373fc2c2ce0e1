"""Stage `index`: pinned item vectors in, ``indexes/<index_id>/`` out.

    item_embeddings at version 3  ->  plan -> train once -> shard by shard -> recall sweep -> manifest.json

Nothing is published before the manifest, and a killed build goes on with the next shard. Several processes, on one host
or many, may share a build (`steps`).
"""

from typing import Any

from recspark.config.plan import Run
from recspark.contracts.shards import shard_of
from recspark.index import incremental
from recspark.index.backends import check_backend, describe_backend
from recspark.index.build import Trained, add_shards, collect_shards, list_unfinished, read_trained, train_quantizers
from recspark.index.files import FOLDER
from recspark.index.finish import (
    Measured,
    check_recall,
    find_drift,
    make_probe,
    measure,
    publish_index,
    write_single_file,
)
from recspark.index.ids import ItemIds
from recspark.index.inputs import Build, count_items, read_items, read_users
from recspark.index.item_vectors import ItemVectors
from recspark.index.plan import IndexPlan, check_disk, check_memory, plan_index
from recspark.index.steps import WHOLE, Share, wait_until_there
from recspark.index.store import open_index
from recspark.index.vectors import digest_vectors
from recspark.lake.arrow import find_table
from recspark.lake.folders import unpublish_folder
from recspark.lake.storage import free_disk_bytes
from recspark.logs import log, timed
from recspark.memory import free_memory_bytes, gib

__all__ = ["build_index", "open_index"]

_STAGE = "index"


def build_index(run: Run, share: Share = WHOLE) -> None:
    """Builds and publishes the run's index, or this process's ``share`` of it; keeps finished shards of an earlier
    attempt whose SHA-256 still holds.

    Raises: IndexBuildError when the vectors, the config and the machine do not fit each other, recall stays below
    ``index.min_recall``, or another process of the build does not come.
    """
    stage, config = run.stages[_STAGE], run.config.index
    assert config, "the stage is planned only where the section is there"
    build = Build(run, stage, config, find_table(run.lake, run.producer("item_embeddings"), "item_embeddings"))
    if build.is_done():
        log(_STAGE, "already done", index_id=stage.id)
        return
    if share.trains or share.finishes:
        _build_whole(build, share)
    else:
        _add_part(build, share)


def _build_whole(build: Build, share: Share) -> None:
    """Of a process that trains or finishes: it needs all vectors."""
    config, free_bytes = build.config, free_memory_bytes()
    _check_before_reading(build, free_bytes)
    items = read_items(build)
    if share.trains:
        unpublish_folder(build.run.lake, FOLDER, build.stage.id)
        if config.incremental and _build_incremental(build, items, free_bytes):
            return
    trained = _train(build, items, free_bytes) if share.trains else _wait_for_training(build)
    if trained is None:
        return
    add_shards(build.folder, build.digest, items, trained, share.shards_of(trained.plan.num_shards), config.backend)
    if share.finishes:
        _finish(build, share, items, trained)


def _check_before_reading(build: Build, free_bytes: int) -> None:
    """The plan by number and length of the vectors alone; a bias, and items that are filled in, come on top."""
    num_vectors, dim = count_items(build)
    if num_vectors and not build.config.fill:
        metric = str(build.table.record.facts["metric"])
        check_memory(plan_index(build.config, num_vectors, dim, metric, False), free_bytes)


def _add_part(build: Build, share: Share) -> None:
    """Of a process that adds shards: it holds the vectors of these alone."""
    trained = _wait_for_training(build)
    if trained is None:
        return
    num_shards = trained.plan.num_shards
    shards = share.shards_of(num_shards)
    check_memory(trained.plan, free_memory_bytes(), len(shards) / num_shards)
    check_backend(build.config.backend, trained.plan)
    items = read_items(build, None if build.config.fill else {*shards}, num_shards)
    add_shards(build.folder, build.digest, items, trained, shards, build.config.backend)


def _train(build: Build, items: ItemVectors, free_bytes: int) -> Trained:
    """``free_bytes`` of memory were free before the vectors were read."""
    config, found = build.config, read_trained(build.folder, build.digest)
    if found:
        check_memory(found.plan, free_bytes)
        check_backend(config.backend, found.plan)
        log(_STAGE, f"{found.plan.name}: quantizers kept from an earlier build")
        return found
    plan = plan_index(config, len(items), items.dim, items.metric, bool(items.bias.any()))
    check_backend(config.backend, plan)
    _log_plan(plan, config.backend)
    check_memory(plan, free_bytes)
    check_disk(plan, free_disk_bytes(build.folder), config.single_file)
    with timed(_STAGE, f"trained {plan.name}") as facts:
        facts["sample"] = plan.train_size
        return train_quantizers(build.folder, build.digest, items, plan, build.run.seed, config.backend)


def _log_plan(plan: IndexPlan, backend: str) -> None:
    for reason in plan.reasons:
        log(_STAGE, f"plan: {reason}")
    log(
        _STAGE,
        f"plan: {plan.name}, {plan.num_shards} shards, {plan.code_bytes} bytes an item, "
        f"{gib(plan.build_bytes)} to build, {gib(plan.search_bytes)} to search; {describe_backend(plan, backend)}",
    )


def _wait_for_training(build: Build) -> Trained | None:
    """The training of another process; None where the index was finished meanwhile."""

    def find_missing() -> str | None:
        is_there = read_trained(build.folder, build.digest) or build.is_done()
        return None if is_there else "the training (--step train, or rank 0)"

    wait_until_there(find_missing, build.folder, build.config.timeout_seconds)
    return None if build.is_done() else read_trained(build.folder, build.digest)


def _finish(build: Build, share: Share, items: ItemVectors, trained: Trained) -> None:
    """The last step: id map, recall of what lies on disk, manifest."""

    def find_missing() -> str | None:
        left = [str(shard) for shard in list_unfinished(build.folder, build.digest, trained)]
        return f"shards {', '.join(left)} (--step add, or the ranks that own them)" if left else None

    if not share.is_whole:
        wait_until_there(find_missing, build.folder, build.config.timeout_seconds)
    shards = collect_shards(build.folder, build.digest, trained)
    assert items.item_id is not None
    owners = shard_of(items.item_idx, trained.plan.num_shards)
    ids = ItemIds(items.item_idx, items.item_id, owners, items.bias, digest_vectors(items))
    facts = {"plan": trained.plan.to_facts(), "shards": [shard.to_facts() for shard in shards]}
    facts |= {"sample": trained.facts["sample"]}
    files = {entry.path: entry.sha256 for entry in (*trained.files, *(f for shard in shards for f in shard.files))}
    _publish(build, items, ids, trained, facts, files, None)


def _build_incremental(build: Build, items: ItemVectors, free_bytes: int) -> bool:
    """Publishes an index on top of an earlier one; False where all has to be built anew, with the reason in the log."""
    config = build.config.incremental
    assert config
    found = incremental.find_base(build.run.lake, build.stage, items, config)
    if found is None:
        log(_STAGE, "built whole: there is no earlier index of the same knobs to go on from")
        return False
    base, changes = found
    plan = base.trained.plan
    check_memory(plan, free_bytes)
    check_backend(build.config.backend, plan)
    share = len(changes.added) / plan.num_vectors
    check_disk(plan, free_disk_bytes(build.folder), build.config.single_file, share)
    where = (build.folder, build.digest)
    incremental.add_delta(*where, items, base, changes, build.config.backend)
    log(_STAGE, "delta built", base=base.manifest.id, **changes.counts)
    facts = incremental.describe_delta(*where, items, base, changes) | {"sample": base.trained.facts["sample"]}
    ids, files = incremental.delta_ids(items, changes), incremental.delta_files(*where, base)
    return _publish(build, items, ids, base.trained, facts, files, base)


def _publish(
    build: Build,
    items: ItemVectors,
    ids: ItemIds,
    trained: Trained,
    facts: dict[str, Any],
    files: dict[str, str],
    base: incremental.BaseIndex | None,
) -> bool:
    """Measures and publishes; False where an incremental index has lost more recall than it may."""
    run, where = build.run, (build.folder, build.digest)
    facts |= {
        "space": trained.space.to_facts(),
        "metric": trained.space.metric,
        "dim": items.dim,
        "padded_dim": trained.plan.padded_dim,
        "quantizer_fingerprint": trained.fingerprint,
        "build": build.digest,
    }
    probe = make_probe(items, read_users(build), build.config, run.seed)
    measured = measure(build.folder, facts, ids, probe, build.config, base.manifest.facts if base else None)
    if base and (reason := find_drift(measured, build.config)):
        log(_STAGE, f"built whole: {reason}", base=base.manifest.id)
        incremental.remove_delta(*where, base)
        return False
    check_recall(measured, build.config)
    if build.config.single_file:
        files = files | write_single_file(build.folder, facts)
    inputs = {"item_embeddings": build.table.version, "model_id": items.model_id}
    publish_index(run, build.stage, build.folder, files, facts | measured.to_facts(), inputs)
    _log_done(build, trained.plan, len(items), measured)
    return True


def _log_done(build: Build, plan: IndexPlan, num_vectors: int, measured: Measured) -> None:
    effort = {plan.effort_name: measured.chosen.effort} if plan.effort_name else {}
    log(
        _STAGE,
        f"done: {plan.name}",
        vectors=num_vectors,
        recall_at_10=round(measured.chosen.recall_at_10, 4),
        index_id=build.stage.id,
        **effort,
    )
