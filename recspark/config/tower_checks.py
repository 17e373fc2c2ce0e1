"""What a tower model cannot have, and knobs of others that it does not read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from recspark.config.towers import RankingConfig
from recspark.config.trainer import DenseConfig, TablesConfig

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

OF_PAIRS = (
    "subsample", "window", "dynamic_window", "position_decay", "conversion_context", "num_negatives",
    "shared_negatives", "noise_exponent", "negative_group", "num_group_negatives", "mask_positives",
)  # fmt: skip
"""Knobs of `training` that say how pairs of items are made."""
OF_READOUT = ("objective", "readout", "centred", "history_decay", "history_items")
"""Knobs of `model` that say what is made of a skip-gram's tables."""
_TOWERS = ("user", "item")


class Found(NamedTuple):
    """A contradiction, and the keys that were read to find it."""

    line: str
    keys: tuple[str, ...]


def check_towers(config: "RunConfig") -> Iterator[Found]:
    """What contradicts in a config of a tower kind; nothing for others."""
    if not config.model.has_towers:
        return
    kind = config.model.kind
    if config.source.kind == "edges":
        line = f"model.kind: {kind} learns from users' histories, and an edge list has none; take skip_gram or spectral"
        yield Found(line, ("model.kind", "source.kind"))
    if set(config.training.corpus) != {"histories"}:
        line = f"training.corpus: {kind} learns from whole histories; set it to histories, or leave it out"
        yield Found(line, ("model.kind", "training.corpus"))
    if config.training.backend == "cpu":
        line = f"training.backend: the cpu kernel is skip-gram's; {kind} needs torch, on a CPU too; leave it out"
        yield Found(line, ("model.kind", "training.backend"))
    if config.training.warm_start:
        line = f"training.warm_start: {kind} takes none; leave it out"
        yield Found(line, ("model.kind", "training.warm_start"))
    if config.model.metric not in ("cosine", "ip"):
        line = f"model.metric: {kind} learns for cosine or ip; set it to one of them"
        yield Found(line, ("model.kind", "model.metric"))
    yield from _check_order(config)
    yield from _check_weights(config)
    yield from _check_times(config)
    yield from _check_features(config)
    yield from _check_negatives(config)
    yield from _check_ranking(config)


def _check_order(config: "RunConfig") -> Iterator[Found]:
    towers, place = config.model.towers, ("source.kind", "source.columns.ts", "source.columns.position")
    if config.source.order != "none" or config.model.kind != "two_tower":
        return
    pooling, key = towers.user.history.pooling, "model.towers.user.history.pooling"
    if pooling not in ("none", "mean"):
        line = f"{key}: {pooling} needs an order (source.columns.ts or position); set it to mean"
        yield Found(line, ("model.kind", key, *place))
    if towers.targets == "next":
        key = "model.towers.targets"
        line = f"{key}: next needs an order (source.columns.ts or position); set it to rest"
        yield Found(line, ("model.kind", key, *place))


def _check_weights(config: "RunConfig") -> Iterator[Found]:
    """Weights that are all 1, or that nothing reads."""
    history, key = config.model.towers.user.history, "model.towers.user.history.event_weights"
    if not history.event_weights or config.model.kind != "two_tower":
        return
    if history.pooling == "none":
        line = f"{key}: no history is pooled; leave it out"
        yield Found(line, ("model.kind", key, "model.towers.user.history.pooling"))
        return
    differs = any(weight not in (0, 1) for weight in config.clean.event_weights.values())
    if config.source.columns.weight is None and not differs:
        line = f"{key}: all events weigh 1; give source.columns.weight or clean.event_weights, or leave it out"
        yield Found(line, ("model.kind", key, "source.columns.weight", "clean.event_weights"))


def _check_times(config: "RunConfig") -> Iterator[Found]:
    """Moments that rows do not have."""
    towers, key = config.model.towers, "model.towers.user.time_features"
    if not (names := towers.user.time_features) or config.model.kind != "two_tower":
        return
    if len(set(names)) < len(names):
        yield Found(f"{key}: names one twice ({', '.join(names)})", (key,))
    if config.source.order != "time":
        line = f"{key}: needs times (source.columns.ts)"
        yield Found(line, ("model.kind", key, "source.kind", "source.columns.ts", "source.columns.position"))
    elif towers.targets not in ("auto", "next") or towers.user.history.pooling == "none":
        line = f"{key}: needs targets next and a history.pooling; rows of whole users have no time"
        yield Found(line, ("model.kind", key, "model.towers.targets", "model.towers.user.history.pooling"))


def _check_features(config: "RunConfig") -> Iterator[Found]:
    towers = config.model.towers
    if config.model.kind != "two_tower":
        return
    for of in _TOWERS:
        there = {f.name: f.kind for f in config.features if f.of == of}
        key, names = f"model.towers.{of}.features", getattr(towers, of).features
        if len(set(names)) < len(names):
            yield Found(f"{key}: names one twice ({', '.join(names)})", ("model.kind", key))
        for name in names:
            if name not in there:
                known = ", ".join(sorted(there)) or "none"
                line = f"{key}: no {of} feature is called {name!r} (section features); there: {known}"
            elif there[name] == "text":
                line = f"{key}: {name} is a text, a name to show; take categorical, multi, numeric or vector ones"
            else:
                continue
            yield Found(line, ("model.kind", key, "features"))
    if not towers.item.id and not towers.item.features:
        line = "model.towers.item: has neither id nor features, so all items are alike; give one of them"
        yield Found(line, ("model.kind", "model.towers.item"))
    user = towers.user
    if user.history.pooling == "none" and not (user.id or user.features):
        line = "model.towers.user: has no history, id or features, so all users are alike; give one of them"
        yield Found(line, ("model.kind", "model.towers.user"))
    if config.model.embedding_dim % user.history.num_heads and user.history.pooling == "attention":
        key = "model.towers.user.history.num_heads"
        line = f"{key}: must divide model.embedding_dim ({config.model.embedding_dim}), got {user.history.num_heads}"
        yield Found(line, ("model.kind", key, "model.embedding_dim"))
    if towers.targets == "all" and user.history.pooling != "none":
        key = "model.towers.targets"
        line = f"{key}: all would show a history its own targets; set it to next or rest, or history.pooling to none"
        yield Found(line, ("model.kind", key, "model.towers.user.history.pooling"))


def _check_negatives(config: "RunConfig") -> Iterator[Found]:
    negatives, key = config.model.towers.negatives, "model.towers.negatives"
    if negatives.kind != "full" and not (negatives.in_batch or negatives.uniform or negatives.popularity):
        line = f"{key}: sampled from nothing; set in_batch to true, or uniform or popularity to a number of items"
        yield Found(line, ("model.kind", key))
    if negatives.queue and not negatives.in_batch:
        line = f"{key}.queue: keeps the batch's targets, which in_batch: false leaves out; set one of them otherwise"
        yield Found(line, ("model.kind", f"{key}.queue", f"{key}.in_batch"))
    if negatives.queue and negatives.kind != "sampled":
        line = f"{key}.queue: adds to a sample, which kind {negatives.kind} need not be; set kind to sampled"
        yield Found(line, ("model.kind", f"{key}.queue", f"{key}.kind"))
    if config.model.metric == "ip" and config.model.towers.loss == "ccl":
        line = "model.towers.loss: ccl is about cosines; set model.metric to cosine"
        yield Found(line, ("model.kind", "model.towers.loss", "model.metric"))
    yield from _check_explicit(config)


def _check_explicit(config: "RunConfig") -> Iterator[Found]:
    """Events that are negatives must be told apart from others by their type, and be no positives."""
    explicit, clean, source = config.model.explicit_negatives, config.clean, config.source
    if explicit is None or source.kind == "edges":
        return
    key = "model.towers.negatives.explicit.event_types"
    if source.kind != "synthetic" and source.columns.event_type is None:
        line = f"{key}: needs source.columns.event_type; without it each event is a {source.default_event_type!r}"
        yield Found(line, ("model.kind", key, "source.kind", "source.columns.event_type"))
        return
    is_kept = {t: clean.event_types is None or t in clean.event_types for t in explicit.event_types}
    if kept := [t for t in explicit.event_types if is_kept[t] and clean.event_weights.get(t, 1.0) > 0]:
        weights = ", ".join(f"{name}: 0" for name in kept)
        line = (
            f"{key}: {', '.join(kept)} would be positives too; leave them out of histories, such as by "
            f"clean.event_weights {{{weights}}}"
        )
        yield Found(line, ("model.kind", key, "clean.event_types", "clean.event_weights"))


def _check_ranking(config: "RunConfig") -> Iterator[Found]:
    towers, key = config.model.towers, "model.towers.ranking"
    if not config.model.has_ranking_head:
        return
    pooling, at = towers.user.history.pooling, "model.towers.user.history.pooling"
    if pooling == "none":
        line = f"{key}.kind: {towers.ranking.kind} needs a history; set {at} to decay, or leave it out"
        yield Found(line, ("model.kind", f"{key}.kind", at))
    elif pooling == "multi_interest":
        line = (
            f"{key}.kind: {towers.ranking.kind} takes one vector a user, {at} multi_interest gives several; take decay "
            f"or attention"
        )
        yield Found(line, ("model.kind", f"{key}.kind", at))
    if towers.ranking.positions and config.source.order == "none":
        line = f"{key}.positions: needs an order (source.columns.ts or position); set it to false"
        place = ("source.kind", "source.columns.ts", "source.columns.position")
        yield Found(line, ("model.kind", f"{key}.positions", *place))


def find_idle_towers(config: "RunConfig") -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """(section, knobs, key they are idle because of, why) of what a config's kind does not read."""
    kind = config.model.kind
    if config.model.has_towers:
        yield "training", OF_PAIRS, "model.kind", f"model.kind {kind} makes no pairs of items"
        yield "model", OF_READOUT, "model.kind", f"model.kind {kind} has vectors of its own, nothing to read out"
        yield from _find_idle_parts(config)
    elif config.model.has_corpus:
        yield "model", ("towers",), "model.kind", f"model.kind {kind} has no towers"


def _find_idle_parts(config: "RunConfig") -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Of the parts of section towers that are another kind's."""
    kind, section = config.model.kind, "model.towers.ranking"
    if kind != "two_tower":
        why = f"model.kind {kind} has a vector a user and one an item and reads nothing else, as two_tower would"
        yield "model.towers", _TOWERS, "model.kind", why
        why = f"model.kind {kind} has no histories that a head could rank by"
        yield "model.towers", ("ranking",), "model.kind", why
        return
    yield "model.towers", ("start", "propagation"), "model.kind", "goes with model.kind light_gcn or mf"
    if not config.model.has_ranking_head:
        names = tuple(name for name in RankingConfig.model_fields if name != "kind")
        yield section, names, f"{section}.kind", f"goes with {section}.kind: target_attention"


def find_idle_optimizer(config: "RunConfig") -> Iterator[tuple[str, str]]:
    """(key, why) of knobs of the two optimizers that a config's kind has no use for."""
    kind, training = config.model.kind, config.training
    if not config.model.has_corpus:
        return
    if not config.model.has_towers:
        why = f"model.kind {kind} is embedding tables alone, which have row-wise Adagrad and one owner a row"
        for name in _given(training.dense, DenseConfig()):
            yield f"training.dense.{name}", f"{why}: nothing to average, no moments to shrink"
        for name in _given(training.tables, TablesConfig()):
            yield f"training.tables.{name}", why


def _given(section: DenseConfig | TablesConfig, default: DenseConfig | TablesConfig) -> list[str]:
    return [name for name in type(section).model_fields if getattr(section, name) != getattr(default, name)]
