"""`ablation DATASET`: what each part of two towers is worth: the set's `two_tower.yaml` with one thing changed.

A line a variant and metric, as `quality` has them, its model named after the variant, with the keys that were changed.
All variants share the first one's lake, so their cpu-seconds are those of what was changed: training and evaluation.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lines import BenchmarkError
from benchmarks.quality import run_quality

MODEL = "two_tower"
_SAMPLED = "model.towers.negatives.kind=sampled"
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "sampled": (_SAMPLED,),
    "no logQ": (_SAMPLED, "model.towers.negatives.log_q=false"),
    "in-batch only": (_SAMPLED, "model.towers.negatives.uniform=0"),
    "popularity instead of uniform": (
        _SAMPLED, "model.towers.negatives.uniform=0", "model.towers.negatives.popularity=1024",
    ),
    "with a queue": (_SAMPLED, "model.towers.negatives.queue=4096", "model.towers.negatives.queue_after_steps=200"),
    "hard by model": ("model.towers.negatives.hard_model=8", "model.towers.negatives.hard_full_epoch=2"),
    "hard by graph": ("model.towers.negatives.hard_graph=8", "model.towers.negatives.hard_full_epoch=2"),
    "temperature .2": ("model.towers.temperature=0.2",),
    "temperature .07": ("model.towers.temperature=0.07",),
    "temperature learned": ("model.towers.learn_temperature=true",),
    "inner product": ("model.metric=ip",),
    "no dropout": ("model.towers.user.history.dropout=0.0",),
    "bpr": ("model.towers.loss=bpr",),
    "ccl": ("model.towers.loss=ccl",),
}  # fmt: skip
"""By name, the keys that are changed."""
POOLINGS: dict[str, tuple[str, ...]] = {
    f"pooling {name}": (f"model.towers.user.history.pooling={name}",)
    for name in ("mean", "decay", "attention", "multi_interest")
}
_HEAD = "model.towers.ranking.kind=target_attention"
HEADS: dict[str, tuple[str, ...]] = {
    "ranking head": (_HEAD,),
    "ranking head, joint": (_HEAD, "model.towers.ranking.joint=1"),
}
_OF_ORDER = {"no dropout": VARIANTS["no dropout"]} | POOLINGS | HEADS
DATASETS = {
    "gowalla": {name: changed for name, changed in VARIANTS.items() if name not in _OF_ORDER},
    "s3-beauty": VARIANTS | _OF_ORDER,
}
"""Sets without an order have neither poolings to choose from nor dropout."""


def run_ablation(
    dataset: str, seeds: Sequence[int], overrides: Sequence[str], command: str
) -> Iterator[dict[str, Any]]:
    """Lines of all variants.

    Raises: BenchmarkError for a data set without an ablation.
    """
    if dataset not in DATASETS:
        raise BenchmarkError(f"ablation: no data set {dataset!r}; one of {', '.join(DATASETS)}")
    for place, (name, changed) in enumerate(DATASETS[dataset].items()):
        for line in run_quality(dataset, MODEL, seeds, [*changed, *overrides], command, keeps_lake=place > 0):
            yield line | {"model": f"{MODEL}, {name}", "changed": list(changed)}
