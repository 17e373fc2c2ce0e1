"""The last step of a build: what lies on disk is opened, measured against exact search, and published.

curve         nprobe 1 2 4 8 ...        recall@1/10/100, p50 and p99, queries a second
refine_curve  at the nprobe chosen: candidates a result 1 2 4 8 ...
"""

from dataclasses import dataclass
from typing import Any

from recspark.config.index import IndexConfig
from recspark.config.plan import Run
from recspark.contracts.stages import PlannedStage
from recspark.errors import IndexBuildError
from recspark.index import store
from recspark.index.files import FOLDER, write_faiss
from recspark.index.ids import ItemIds, write_ids
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import Floats
from recspark.index.plan import IVF_KINDS, IndexPlan, plan_from_facts
from recspark.index.recall import DEPTHS, CurvePoint, RecallProbe, choose_point
from recspark.index.search import ShardedIndex
from recspark.index.vectors import hash_sample
from recspark.lake.folders import hash_file, publish_folder
from recspark.lake.storage import join
from recspark.logs import log

_STAGE = "index"
_EFFORTS = {"hnsw": (16, 32, 64, 128, 256, 512)}
_QUERY_SEED = 1
"""Added to the run's seed: recall is measured on another draw than the training sample."""


@dataclass(frozen=True)
class Measured:
    """The points chosen for up to 10 results and for more, the curves, and what is lost against a base."""

    plan: IndexPlan
    chosen: CurvePoint
    deep: CurvePoint
    curve: list[CurvePoint]
    refine_curve: list[CurvePoint]
    recall_drop: float

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        facts: dict[str, Any] = {"effort": self.chosen.effort, "deep_effort": self.deep.effort}
        if name := self.plan.effort_name:
            facts |= {name: self.chosen.effort, f"deep_{name}": self.deep.effort}
        return facts | {
            "recall_at_10": round(self.chosen.recall_at_10, 5),
            "recall_at_100": round(self.deep.recall_at_100, 5),
            "user_recall_at_10": _rounded(self.chosen.user_recall_at_10),
            "user_recall_at_100": _rounded(self.deep.user_recall_at_100),
            "recall_drop": round(self.recall_drop, 5),
            "curve": [point.to_facts() for point in self.curve],
            "refine_curve": [point.to_facts() for point in self.refine_curve],
        }


def make_probe(items: ItemVectors, users: Floats | None, config: IndexConfig, seed: int) -> RecallProbe:
    """What recall is measured with: a sample of the items' query vectors, and the given ones of users."""
    rows = hash_sample(items.item_idx, config.num_queries, seed + _QUERY_SEED)
    return RecallProbe(items, items.queries[rows], items.item_idx[rows], users)


def measure(
    folder: str,
    facts: dict[str, Any],
    ids: ItemIds,
    probe: RecallProbe,
    config: IndexConfig,
    base_facts: dict[str, Any] | None = None,
) -> Measured:
    """Writes the id map, opens the index and measures it over the probe's queries."""
    write_ids(join(folder, store.IDS), ids, facts["build"])
    index, plan = store.assemble(folder, facts), plan_from_facts(facts["plan"])
    drop = _measure_drop(index, probe, base_facts) if base_facts else 0.0
    asked = min(config.nprobe, index.shards[0].nlist) if config.nprobe and index.kind in IVF_KINDS else None
    # Beside a fixed nprobe all others are shown.
    target = None if asked else max(config.target_recall, config.min_recall)
    curve = probe.measure_curve(index, sweep(index, asked), target)
    floors = (config.min_recall, 0.0)  # what is asked for is recall@10
    chosen, deep = (
        choose_point(curve, k, config.target_recall, asked, floor) for k, floor in zip(DEPTHS[1:], floors, strict=True)
    )
    factors = refine_sweep(plan.refine_factor) if plan.refine != "none" else []
    refine_curve = [probe.measure_point(index.with_refine_factor(f), chosen.effort) for f in factors]
    return Measured(plan, chosen, deep, curve, refine_curve, drop)


def _rounded(recall: float | None) -> float | None:
    return None if recall is None else round(recall, 5)


def write_single_file(folder: str, facts: dict[str, Any]) -> dict[str, str]:
    """{file: SHA-256} of all shards as one faiss file; empty where there is one shard, which is that file."""
    if len(facts["shards"]) == 1:
        return {}
    write_faiss(store.assemble(folder, facts).merge(), join(folder, store.SINGLE))
    return {store.SINGLE: hash_file(folder, store.SINGLE).sha256}


def publish_index(
    run: Run, stage: PlannedStage, folder: str, hashes: dict[str, str], facts: dict[str, Any], inputs: dict[str, Any]
) -> None:
    """Writes the manifest of files whose SHA-256 are known, and of the id map."""
    hashes = hashes | {store.IDS: hash_file(folder, store.IDS).sha256}
    counts = {"vectors": facts["plan"]["num_vectors"], "per_shard": [shard["count"] for shard in facts["shards"]]}
    facts = facts | {"files": hashes}
    facts["digest"] = store.manifest_digest(counts, stage.sections, inputs, facts)
    publish_folder(
        run.lake, FOLDER, stage.id, sorted(hashes), counts=counts, config=stage.sections, inputs=inputs,
        facts=facts, run_id=run.run_id,
    )  # fmt: skip


def sweep(index: ShardedIndex, asked: int | None) -> list[int | None]:
    """Efforts to measure, ascending: powers of two up to nlist (and the one asked for), ef_search, or none."""
    if index.kind == "flat":
        return [None]
    if index.kind in _EFFORTS:
        return [*_EFFORTS[index.kind]]
    nlist = int(index.shards[0].nlist)
    powers = {1 << i for i in range(nlist.bit_length())} | {nlist}
    return [*sorted(powers | ({min(asked, nlist)} if asked else set()))]


def refine_sweep(refine_factor: int) -> list[int]:
    """Candidates a result to measure: powers of two up to twice the factor, and the factor."""
    return sorted({1 << i for i in range((2 * refine_factor).bit_length())} | {refine_factor})


def _measure_drop(index: ShardedIndex, probe: RecallProbe, base_facts: dict[str, Any]) -> float:
    """By how much recall@10 is lower than the base's, at the base's setting."""
    return float(base_facts["recall_at_10"] - probe.measure_point(index, base_facts["effort"]).recall_at_10)


def find_drift(measured: Measured, config: IndexConfig) -> str | None:
    """Why an incremental index has to be built anew after all, None where it is as good as it has to be."""
    recall, most = measured.chosen.recall_at(10), config.incremental.max_recall_drop if config.incremental else 0.0
    if measured.recall_drop > most:
        return f"recall@10 fell by {measured.recall_drop:.4f}, more than index.incremental.max_recall_drop {most}"
    return f"recall@10 is {recall:.4f}, below index.min_recall" if recall < config.min_recall else None


def check_recall(measured: Measured, config: IndexConfig) -> None:
    """Checks the recall of the setting that was chosen, of items and users; says aloud where it misses its target.

    Raises: IndexBuildError when recall@10 stays below ``index.min_recall``.
    """
    chosen = measured.chosen
    recall, of_users = chosen.recall_at(10), " of users" if chosen.recall_at(10) < chosen.recall_at_10 else ""
    if recall < config.min_recall:
        raise IndexBuildError(
            f"recall@10{of_users} is {recall:.4f} at {measured.plan.kind} effort {chosen.effort}, below "
            f"index.min_recall {config.min_recall}; nothing was published: {_say_remedy(measured.plan, config)}"
        )
    if recall < config.target_recall:
        log(
            _STAGE,
            f"recall@10{of_users} {recall:.4f} stays below index.target_recall {config.target_recall}: "
            f"{_say_remedy(measured.plan, config)}",
        )


def _say_remedy(plan: IndexPlan, config: IndexConfig) -> str:
    """What raises recall; nprobe only where it was given: else the best that was measured is not enough."""
    ways = ["raise index.nprobe, or leave it out"] if config.nprobe and plan.kind in IVF_KINDS else []
    if plan.kind == "ivf_pq":
        ways.append("raise index.m" if plan.refine == "none" else "raise index.m or index.refine_factor")
        ways += ["set index.refine to fp16"] if plan.refine == "none" else []
    return "; ".join(ways) or "set index.kind to ivf_flat"
