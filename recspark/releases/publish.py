"""Stage `release`: a run's finished index becomes a release that can be activated; nothing is active by it.

indexes/<id>, models/<id>, tables at their versions  ->  releases/<release_id>/{canaries.parquet, manifest.json}, READY

The id hashes what is bound, so that the same things are the same release: a publish that was killed is begun again
under it, and one that is there is left as it is. The manifest is written last; only then the row says READY.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deltalake.exceptions import DeltaError

from recspark.contracts.commits import CommitRecord, find_stale_input
from recspark.contracts.stages import EVALUATE, INDEX_BUILD, RELEASE, short_id
from recspark.errors import RecsparkError, ReleaseError, first_line
from recspark.faults import fault_point
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.index.search import ShardedIndex
from recspark.index.store import open_index
from recspark.index.vectors import drop_zero_vectors
from recspark.lake.arrow import TableAt, find_done, find_table
from recspark.lake.folders import find_flaw, folder_uri, publish_folder, unpublish_folder
from recspark.lake.storage import join
from recspark.logs import log, timed
from recspark.releases.binding import FOLDER, INDEXES, bind_folders, bind_tables, hash_manifest, hash_vectors, sum_sizes
from recspark.releases.canaries import FILE, ask_canaries, write_canaries
from recspark.releases.measured import measure_index, measure_lists
from recspark.releases.registry import (
    ACTIVE,
    BUILDING,
    FAILED,
    READY,
    RETIRED,
    Registry,
    ReleaseRow,
    Rows,
    change_registry,
    now,
    read_registry,
)

if TYPE_CHECKING:
    from recspark.config.plan import Run

_PUBLISHED = (READY, ACTIVE, RETIRED)
_CONFIGS = ("ingest", "sessions", "graph", "walks", "train", "index", "evaluate", "release")


@dataclass(frozen=True)
class _Parts:
    """What a release is put together from: pinned, and checked to belong together."""

    embeddings: TableAt
    evaluation: tuple[int, CommitRecord] | None
    folders: dict[str, str]

    def release_id(self, key: str) -> str:
        """12 hex digits that hang on all that is released."""
        bound = [key, self.embeddings.version, self.folders, self.evaluation[0] if self.evaluation else None]
        return short_id(hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest())


def publish(run: "Run") -> ReleaseRow:
    """Publishes a run's release, or finds it published; its row, READY where it is new.

    Raises: ReleaseError or LakeError when a part is missing, damaged or of another build; the row is then FAILED.
    """
    parts = _find_parts(run)
    release_id = parts.release_id(run.stages[RELEASE.name].key)
    row = read_registry(run.lake).rows.get(release_id)
    if row is None or not _is_whole(run.lake, row):
        row = _enter(run, release_id)
    if row.state != BUILDING:
        _note_done(run, row)
        return row
    fault_point("release.building")
    try:
        with timed(RELEASE.name, f"published {release_id}") as shown:
            shown.update(_write_folder(run, parts, row))
        fault_point("release.manifest")
        return _finish(run, row)
    except Exception as error:
        with suppress(RecsparkError, OSError, DeltaError):  # of the same full disk, say: the first cause is told
            _fail(run, row, first_line(error))
        raise


def _is_whole(lake: str, row: ReleaseRow) -> bool:
    return row.state in _PUBLISHED and not find_flaw(lake, FOLDER, row.release_id)


def _find_parts(run: "Run") -> _Parts:
    """Raises: ReleaseError when the index is missing or was made of other vectors, or users are still to be scored."""
    embeddings = find_table(run.lake, run.producer("item_embeddings"), "item_embeddings")
    index = find_done(run.lake, run.stages[INDEX_BUILD.name])
    if index is None:
        flaw = find_flaw(run.lake, INDEXES, run.stages[INDEX_BUILD.name].id)
        raise ReleaseError(f"release: {flaw}; run `recspark run CONF --to {INDEX_BUILD.name}` first")
    evaluated = run.stages.get(EVALUATE.name)
    evaluation = find_done(run.lake, evaluated) if evaluated else None
    if evaluated and evaluation is None:
        raise ReleaseError(
            f"release: no evaluation of this config (key {evaluated.id}); run `recspark run CONF --to {EVALUATE.name}` "
            f"first, or leave section evaluate out and release without metrics"
        )
    for name, record in (("index", index[1]), *((("evaluation", evaluation[1]),) if evaluation else ())):
        if stale := find_stale_input(record.inputs, embeddings.name, embeddings.version):
            raise ReleaseError(f"release: the {name} is {stale}; run `recspark run CONF` first")
    return _Parts(embeddings, evaluation, bind_folders(run))


def _write_folder(run: "Run", parts: _Parts, row: ReleaseRow) -> dict[str, Any]:
    """Writes the release's files and, last, its manifest; figures to be shown.

    Raises: ReleaseError where another publisher has taken up the release: nothing that is its is written over.
    """
    release_id = row.release_id
    _check_own(read_registry(run.lake), row)
    unpublish_folder(run.lake, FOLDER, release_id)
    config = run.config.release
    assert config, "the stage is planned only where the section is there"
    index = open_index(run.lake, run.stages[INDEX_BUILD.name].id)
    vectors = read_item_vectors(parts.embeddings, with_ids=True)
    canaries = ask_canaries(index, drop_zero_vectors(vectors), config.num_canaries)
    write_canaries(join(folder_uri(run.lake, FOLDER, release_id), FILE), canaries)
    fault_point("release.canaries")
    measured = _measure(run, parts, index, config.head_items)
    with timed(RELEASE.name, "hashed the data files of all tables") as shown:
        tables = {name: asdict(table) for name, table in bind_tables(run).items()}
        shown.update(sum_sizes(tables))
    facts = _describe(run, index, vectors) | {"measured": measured, "num_canaries": len(canaries)}
    fault_point("release.before_manifest")
    _check_own(read_registry(run.lake), row)
    publish_folder(
        run.lake, FOLDER, release_id, [FILE],
        counts={"vectors": len(index), "tables": len(tables), "folders": len(parts.folders)},
        config={name: run.stages[name].sections for name in _CONFIGS if name in run.stages}
        | {"gates": config.gates.model_dump(mode="json")},
        inputs={"tables": tables, "folders": parts.folders, "source": run.source_facts},
        facts=facts, run_id=run.run_id,
    )  # fmt: skip
    return {"vectors": len(index), "tables": len(tables), "canaries": len(canaries)}


def _measure(run: "Run", parts: _Parts, index: ShardedIndex, head_items: float) -> dict[str, Any]:
    items = find_table(run.lake, run.producer("items"), "items")
    measured = measure_index(index, items)
    if parts.evaluation is None:
        return measured
    version, record = parts.evaluation
    lists = TableAt(run.lake, "recommendations", record.tables["recommendations"], record)
    return measured | {"metrics_version": version} | measure_lists(record, lists, items, head_items)


def _describe(run: "Run", index: ShardedIndex, vectors: ItemVectors) -> dict[str, Any]:
    """What readers and `verify` need beside the bound versions."""
    shown = ("metric", "dim", "quantizer_fingerprint", "shards", "effort", "deep_effort", "nprobe", "recall_at_10")
    return {
        "run": run.config.run.name,
        "model_id": vectors.model_id,
        "index_id": run.stages[INDEX_BUILD.name].id,
        "vectors_sha256": hash_vectors(vectors),
        "index": {name: index.facts[name] for name in shown if name in index.facts},
        "split": run.config.section("split"),
    }


def _enter(run: "Run", release_id: str) -> ReleaseRow:
    """The row in state BUILDING: what a publisher that dies leaves, and the next one takes up. Where another one has
    published the release in the meantime, its row.

    Raises: ReleaseError when the release is active and damaged.
    """
    model_id, index_id = run.stages["train"].id, run.stages[INDEX_BUILD.name].id

    def change(registry: Registry) -> Rows:
        known = registry.rows.get(release_id)
        if known and _is_whole(run.lake, known):
            return registry.rows
        if known and known.state == ACTIVE:
            flaw = find_flaw(run.lake, FOLDER, release_id)
            raise ReleaseError(f"release {release_id} is active and damaged ({flaw}); restore it, or activate another")
        fresh = ReleaseRow(release_id, BUILDING, "is being published", model_id, index_id, now(), now())
        return registry.rows | {release_id: fresh}

    registry = change_registry(run.lake, change, run.record(RELEASE.name, is_marker=False))
    return registry.rows[release_id]


def _check_own(registry: Registry, row: ReleaseRow) -> None:
    """Checks that a row is as this publisher has entered it, the times with it.

    Raises: ReleaseError where another one has entered it since, or it was removed.
    """
    found = registry.rows.get(row.release_id)
    if found != row:
        state = f"it is {found.state}, {found.reason}" if found else "its row was removed"
        raise ReleaseError(
            f"release {row.release_id}: another publisher has taken it up meanwhile ({state}); publish again when that "
            f"one is done"
        )


def _finish(run: "Run", row: ReleaseRow) -> ReleaseRow:
    """The commit that makes the release READY and the stage done.

    Raises: ReleaseError where the row is not this publisher's any more.
    """
    sha256 = hash_manifest(run.lake, FOLDER, row.release_id)

    def change(registry: Registry) -> Rows:
        _check_own(registry, row)
        return registry.rows | {row.release_id: row.moved(READY, "published", manifest_sha256=sha256)}

    registry = change_registry(run.lake, change, _marker(run, row.release_id))
    fault_point("release.ready")
    return registry.rows[row.release_id]


def _fail(run: "Run", row: ReleaseRow, reason: str) -> None:
    """Says why; of a row that another publisher has taken up, nothing."""

    def change(registry: Registry) -> Rows:
        _check_own(registry, row)
        return registry.rows | {row.release_id: row.moved(FAILED, reason)}

    change_registry(run.lake, change, run.record(RELEASE.name, is_marker=False, facts={"failed": reason}))


def _note_done(run: "Run", row: ReleaseRow) -> None:
    """Says so, and marks the stage as done where the publish came from another run of the same parts."""
    log(RELEASE.name, f"already published: {row.release_id}, {row.state}")
    if find_done(run.lake, run.stages[RELEASE.name]) is None:
        change_registry(run.lake, lambda registry: registry.rows, _marker(run, row.release_id))


def _marker(run: "Run", release_id: str) -> CommitRecord:
    embeddings = find_table(run.lake, run.producer("item_embeddings"), "item_embeddings")
    inputs = {"item_embeddings": embeddings.version, "index": run.stages[INDEX_BUILD.name].id}
    return run.record(RELEASE.name, is_marker=True, inputs=inputs, facts={"release_id": release_id})
