"""What sections `release` and `recommend` ask for that the rest of the config does not have."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

_METRICS = ("recall", "ndcg", "hr", "mrr", "map")


def find_unserved(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    """(line, keys it hangs on) of each such problem."""
    yield from _find_unreleased(config)
    if config.recommend.at and config.source.order != "time":
        yield "recommend.at: needs times (source.columns.ts)", "recommend.at", "source.kind", "source.columns.ts"
    known = {feature.name for feature in config.features if feature.of == "item"}
    for section in ("filters", "quotas"):
        for place, rule in enumerate(getattr(config.recommend, section)):
            if rule.feature not in known:
                has = f"it has {', '.join(sorted(known))}" if known else "it has none"
                line = f"recommend.{section}.{place}.feature: no item feature {rule.feature!r} in this config; {has}"
                yield line, f"recommend.{section}", "features"


def _find_unreleased(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    release, evaluate = config.release, config.evaluate
    if release is None:
        return
    if config.index is None and config.model.has_vectors:
        yield "release: needs section index: an index is what it releases", "release", "index"
    metric = release.gates.metric
    if metric is None or evaluate is None:
        return
    measured = [f"{name}@{k}" for k in evaluate.ks for name in _METRICS]
    if metric not in measured:
        line = f"release.gates.metric: {metric!r} is not measured; expected one of {', '.join(measured)}"
        yield line, "release.gates.metric", "evaluate.ks"
