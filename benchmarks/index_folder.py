"""An index built by the project's own steps in a folder, without a lake around it: what both index benchmarks time."""

from typing import Any

from recspark.config.index import IndexConfig
from recspark.contracts.shards import shard_of
from recspark.index import store
from recspark.index.build import Trained, add_shards, collect_shards, train_quantizers
from recspark.index.ids import ItemIds, write_ids
from recspark.index.item_vectors import ItemVectors
from recspark.index.plan import IndexPlan, plan_index
from recspark.index.search import ShardedIndex
from recspark.lake.storage import join

_BUILD, _SEED = "benchmark", 1


def plan_for(items: ItemVectors, **knobs: Any) -> IndexPlan:
    """The plan of section `index` with these knobs."""
    return plan_index(IndexConfig(**knobs), len(items), items.dim, items.metric, has_bias=False)


def build_shards(folder: str, items: ItemVectors, plan: IndexPlan) -> Trained:
    """Trains and adds, files and receipts included."""
    trained = train_quantizers(folder, _BUILD, items, plan, _SEED)
    add_shards(folder, _BUILD, items, trained, range(plan.num_shards))
    return trained


def open_built(folder: str, items: ItemVectors, trained: Trained) -> ShardedIndex:
    """The index of a folder that `build_shards` has filled."""
    shards, plan = collect_shards(folder, _BUILD, trained), trained.plan
    assert items.item_id is not None
    ids = ItemIds(items.item_idx, items.item_id, shard_of(items.item_idx, plan.num_shards), items.bias)
    write_ids(join(folder, store.IDS), ids, _BUILD)
    facts = {
        "plan": plan.to_facts(),
        "space": trained.space.to_facts(),
        "shards": [shard.to_facts() for shard in shards],
        "quantizer_fingerprint": trained.fingerprint,
        "build": _BUILD,
    }
    return store.assemble(folder, facts)
