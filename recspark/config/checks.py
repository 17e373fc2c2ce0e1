"""What sections say together: contradictions that no section can see alone, found before anything runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recspark.config.baselines import EDGE_LIST_KINDS, LIST_KINDS
from recspark.config.idle import find_idle
from recspark.config.index import find_index_problems
from recspark.config.learning import AUTO
from recspark.config.section import to_utc
from recspark.config.serving import find_unserved
from recspark.config.tower_checks import check_towers, find_idle_optimizer
from recspark.config.unhidden import find_unhidden

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

WRONG = "wrong"
"""In the validation's context: the keys whose values were wrong by themselves, so that defaults stand in for them."""
OVERRIDDEN = "overridden"
"""In the validation's context: the keys that were given beside the file."""

_ORDER = ("source.kind", "source.columns.ts", "source.columns.position")


class _Problem:
    """A contradiction, and the keys that were read to find it."""

    def __init__(self, line: str, *keys: str) -> None:
        self.line, self.keys = line, keys


def find_contradictions(
    config: "RunConfig", wrong: frozenset[str] = frozenset(), overridden: frozenset[str] = frozenset()
) -> list[str]:
    """One line each, in the order a reader of the config meets them; none that hangs on a key in ``wrong``."""
    of_kind = [_check_order, _check_split, _check_baskets, _check_baselines, _check_evaluate]
    if _is_wrong("source.kind", wrong):
        of_kind = []  # it may have meant edges, which need no split
    elif config.source.kind == "edges":
        of_kind = [_check_edges]
    if config.model.kind == AUTO:  # checked again with the kind that is chosen
        checks = [_check_source, _check_privacy, *of_kind, _check_index]
        return [p.line for check in checks for p in check(config) if not any(_is_wrong(key, wrong) for key in p.keys)]
    of_model = [_check_objective, _check_readout, _check_training, _check_dense, _check_conversions, _check_warm_start]
    of_model += [_check_towers]
    checks = [_check_source, _check_privacy, *of_kind, _check_stages, *of_model, _check_history, _check_index]
    found = [problem for check in checks for problem in check(config)]
    found += [_Problem(line, *keys) for line, *keys in (*find_unserved(config), *find_idle(config, overridden))]
    return [problem.line for problem in found if not any(_is_wrong(key, wrong) for key in problem.keys)]


def _is_wrong(key: str, wrong: frozenset[str]) -> bool:
    """Whether a key, or a section that holds it, is wrong."""
    return any(key == other or key.startswith(f"{other}.") for other in wrong)


def _check_source(config: "RunConfig") -> Iterator[_Problem]:
    """What a kind of source cannot do without: told here, so that the kind stays known to the other checks."""
    source = config.source
    needed = f"needed for source.kind {source.kind}"
    if source.kind != "synthetic" and not source.path:
        yield _Problem(f"source.path: {needed} (a file, folder, glob or URI)", "source.kind", "source.path")
    if source.kind in ("files", "edges") and not source.format:
        yield _Problem(f"source.format: {needed} (csv, parquet or jsonl)", "source.kind", "source.format")
    if source.kind == "edges" and source.directed is None:
        line = f"source.directed: {needed} (false: an edge counts both ways, true: from src to dst only)"
        yield _Problem(line, "source.kind", "source.directed")
    if source.columns.ts and source.columns.position:
        keys = ("source.columns.ts", "source.columns.position")
        yield _Problem("source.columns: has both ts and position; give one", *keys)


def _check_privacy(config: "RunConfig") -> Iterator[_Problem]:
    yield from (_Problem(line, *keys) for line, *keys in find_unhidden(config))


def _check_index(config: "RunConfig") -> Iterator[_Problem]:
    yield from (_Problem(line, *keys) for line, *keys in find_index_problems(config))


def _user_corpora(config: "RunConfig") -> str:
    """The corpora of this run that are made of users' events, to be named in a message; empty without one."""
    if not config.model.has_corpus or config.model.has_towers:
        return ""
    return " and ".join(name for name in ("sessions", "histories") if name in config.training.corpus)


def _check_edges(config: "RunConfig") -> Iterator[_Problem]:
    """Of the sections about events only those that would change nodes or training; the others do not apply."""
    if found := _user_corpora(config):
        line = f"training.corpus: an edge list has no {found}; set it to walks"
        yield _Problem(line, "source.kind", "training.corpus", "model.kind")
    if config.features:
        line = "features: an edge list's nodes take none; leave the section out"
        yield _Problem(line, "source.kind", "features")
    if not config.model.has_corpus and config.model.kind not in EDGE_LIST_KINDS:
        line = (
            f"model.kind: {config.model.kind} needs users with histories, and an edge list has none; "
            f"baselines that take a graph: {', '.join(EDGE_LIST_KINDS)}"
        )
        yield _Problem(line, "source.kind", "model.kind")


def _check_order(config: "RunConfig") -> Iterator[_Problem]:
    """Knobs that need times, or at least an order, of the source."""
    order = config.source.order
    if order != "time":
        if config.clean.max_events_per_minute:
            key = "clean.max_events_per_minute"
            yield _Problem(f"{key}: needs source.columns.ts", key, *_ORDER)
        if config.graph and config.graph.half_life_days:
            yield _Problem("graph.half_life_days: needs source.columns.ts", "graph.half_life_days", *_ORDER)
    if order == "position" and config.sessions.group_by == "gap":
        yield _Problem(
            "sessions.group_by: gap needs times (source.columns.ts), this source has only a position; "
            "set it to user, or to basket with source.columns.basket_id",
            "sessions.group_by",
            *_ORDER,
        )
    if order == "none":
        if config.graph and (config.graph.window or config.graph.distance_decay < 1):
            keys = ("graph.window", "graph.distance_decay")
            line = f"{', '.join(keys)}: need an order (source.columns.ts or position)"
            yield _Problem(line, *keys, *_ORDER)
        found = _user_corpora(config)
        if found and config.training.window != "session":
            line = (
                f"training.window: on {found} it needs an order (source.columns.ts or position); set it to session, or "
                f"training.corpus to walks"
            )
            yield _Problem(line, "training.window", "training.corpus", "model.kind", *_ORDER)
        if found and config.training.position_decay < 1:
            line = f"training.position_decay: on {found} it needs an order (source.columns.ts or position)"
            yield _Problem(line, "training.position_decay", "training.corpus", "model.kind", *_ORDER)


def _check_split(config: "RunConfig") -> Iterator[_Problem]:
    split, order = config.split, config.source.order
    if (split.kind == "time") != (split.cut is not None):
        line = (
            "split.cut: needed for split.kind time (an ISO time such as 2026-02-16), or choose another split.kind"
            if split.kind == "time"
            else f"split.cut: goes with split.kind time, not with {split.kind}; leave it out or set it to null"
        )
        yield _Problem(line, "split.kind", "split.cut")
    if split.kind == "time" and order != "time":
        line = "split.kind: time needs source.columns.ts; use given or leave_last_out"
        yield _Problem(line, "split.kind", *_ORDER)
    if split.kind == "leave_last_out" and order == "none":
        line = "split.kind: leave_last_out needs an order (source.columns.ts or position)"
        yield _Problem(line, "split.kind", *_ORDER)
    if split.kind == "given" and not config.source.columns.split:
        yield _Problem("split.kind: given needs source.columns.split", "split.kind", "source.columns.split")
    if split.valid:
        yield from _check_valid(config, split.valid.kind)
        if split.cut and split.valid.cut and to_utc(split.valid.cut) >= to_utc(split.cut):
            line = (
                f"split.valid.cut: the slice is cut from train, which ends at split.cut ({split.cut}); choose an "
                f"earlier time than {split.valid.cut}"
            )
            yield _Problem(line, "split.valid", "split.kind", "split.cut")


def _check_valid(config: "RunConfig", kind: str) -> Iterator[_Problem]:
    order, key = config.source.order, "split.valid.kind"
    if kind == "time" and order != "time":
        yield _Problem(f"{key}: time needs source.columns.ts; use user_share, last_k or given", key, *_ORDER)
    if kind == "last_k" and order == "none":
        line = f"{key}: last_k needs an order (source.columns.ts or position); use user_share"
        yield _Problem(line, key, *_ORDER)
    if kind == "given" and not config.source.columns.split:
        yield _Problem(f"{key}: given needs source.columns.split", key, "source.columns.split")


def _check_baskets(config: "RunConfig") -> Iterator[_Problem]:
    if config.sessions.group_by == "basket" and not config.source.columns.basket_id:
        keys = ("sessions.group_by", "source.columns.basket_id")
        yield _Problem("sessions.group_by: basket needs source.columns.basket_id", *keys)


def _check_stages(config: "RunConfig") -> Iterator[_Problem]:
    """Sections that read what another, left out, would make."""
    has_walks = config.model.has_corpus and not config.model.has_towers
    if has_walks and config.walks and not config.graph and config.source.kind != "edges":
        yield _Problem("walks: needs a graph section", "walks", "graph", "source.kind", "model.kind")
    if has_walks and "walks" in config.training.corpus and not config.walks:
        line = "training.corpus: walks needs a walks section; set training.corpus to sessions"
        yield _Problem(line, "training.corpus", "walks", "model.kind")


def _check_evaluate(config: "RunConfig") -> Iterator[_Problem]:
    if config.evaluate is None:
        return
    if config.evaluate.search == "index" and not config.index:
        yield _Problem("evaluate.search: index needs an index section", "evaluate.search", "index")
    if config.evaluate.split == "valid" and not config.split.valid and config.split.kind != "given":
        keys = ("evaluate.split", "split.valid", "split.kind")
        yield _Problem("evaluate.split: valid needs split.valid", *keys)


def _check_objective(config: "RunConfig") -> Iterator[_Problem]:
    """Knobs that have no meaning under what the model fits."""
    if not config.model.has_corpus or config.model.has_towers:
        return
    group = config.training.negative_group
    if config.model.objective == "hierarchical_softmax":
        if config.model.readout != "input":
            line = (
                f"model.readout: {config.model.readout} needs an output vector an item, which objective "
                f"hierarchical_softmax has not; set it to input"
            )
            yield _Problem(line, "model.readout", "model.objective", "model.kind")
        if group:
            line = "training.negative_group: hierarchical_softmax draws no negatives; leave it out"
            yield _Problem(line, "training.negative_group", "model.objective", "model.kind")
    if group is None:
        return
    kinds = _item_features(config)
    line = f"training.negative_group: item feature {group!r} is {kinds.get(group)}, expected categorical"
    if group not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        line = f"training.negative_group: {group!r} is no item feature (section features); there: {known}"
    if kinds.get(group) != "categorical":
        yield _Problem(line, "training.negative_group", "features", "model.kind")


def _check_readout(config: "RunConfig") -> Iterator[_Problem]:
    """What is left to a validation slice needs one."""
    keys = [f"model.{name}" for name in config.model.autos]
    if not keys or not config.model.has_vectors:
        return
    if config.source.kind == "edges":
        line = f"{', '.join(keys)}: auto is chosen by how users are served, and an edge list has no users; give a value"
        yield _Problem(line, *keys, "source.kind")
    elif not config.split.valid and config.split.kind != "given":
        line = (
            f"{', '.join(keys)}: auto is chosen on a validation slice; set split.valid (such as "
            f"{{kind: user_share, fraction: 0.1}}), or give a value"
        )
        yield _Problem(line, *keys, "split.valid", "split.kind", "source.kind")


def _check_history(config: "RunConfig") -> Iterator[_Problem]:
    """Weights by place: where they are given, whether there is an order, and a slice that keeps to it."""
    kind, split, given = config.model.kind, config.split, _given_weights(config)
    of_model = [key for key in given if key.startswith("model.")]
    if config.source.kind == "edges":
        if given and "history_decay" not in config.model.autos:
            line = f"{', '.join(given)}: an edge list has no users, so no histories; leave it out"
            yield _Problem(line, *given, "source.kind")
    elif config.source.order == "none" and given:
        line = f"{', '.join(given)}: need an order (source.columns.ts or position)"
        yield _Problem(line, *given, *_ORDER)
    elif of_model and kind in LIST_KINDS:
        line = f"{', '.join(of_model)}: {kind} has no vectors to weigh"
        line += f"; set baselines.{kind}.history_decay and history_items" if kind != "popularity" else "; leave it out"
        yield _Problem(line, *of_model, "model.kind")
    elif "history_decay" in config.model.autos and split.valid and split.valid.kind == "user_share":
        line = (
            "model.history_decay: auto is chosen by what comes after a history, and split.valid.kind user_share holds "
            "out items from anywhere in it; set that to last_k or time, or give a value"
        )
        yield _Problem(line, "model.history_decay", "split.valid", "model.kind", *_ORDER)


def _given_weights(config: "RunConfig") -> list[str]:
    """Keys of history_decay and history_items that do not leave all items of a history alike."""
    sections = {"model": config.model}
    sections |= {f"baselines.{name}": getattr(config.baselines, name) for name in type(config.baselines).model_fields}
    plain = {"history_decay": 1, "history_items": None}
    return [f"{at}.{k}" for at, section in sections.items() for k, v in plain.items() if getattr(section, k, v) != v]


def _check_training(config: "RunConfig") -> Iterator[_Problem]:
    training = config.training
    if training.backend == "cpu" and training.num_processes > 1:
        line = (
            "training.backend: the cpu kernel runs in one process, training.num_processes is "
            f"{training.num_processes}; use training.num_threads, or backend torch"
        )
        yield _Problem(line, "training.backend", "training.num_processes")
    if training.batch_sequences % training.num_lanes:
        line = (
            f"training.batch_sequences: must be a multiple of training.num_lanes ({training.num_lanes}), "
            f"got {training.batch_sequences}"
        )
        yield _Problem(line, "training.batch_sequences", "training.num_lanes")
    if training.num_lanes % training.num_processes:
        line = (
            f"training.num_processes: must divide training.num_lanes ({training.num_lanes}), "
            f"got {training.num_processes}"
        )
        yield _Problem(line, "training.num_processes", "training.num_lanes")
    names = [(f.of, f.name) for f in config.features]
    for of, name in sorted({n for n in names if names.count(n) > 1}):
        yield _Problem(f"features: two {of} features are called {name}", "features")


def _check_dense(config: "RunConfig") -> Iterator[_Problem]:
    """Knobs of towers need a model that has some."""
    for key, why in find_idle_optimizer(config):
        yield _Problem(f"{key}: {why}; leave it out", "model.kind", key)


def _check_towers(config: "RunConfig") -> Iterator[_Problem]:
    yield from (_Problem(found.line, *found.keys) for found in check_towers(config))


def _check_conversions(config: "RunConfig") -> Iterator[_Problem]:
    """Whether the sessions that training reads can say what was bought."""
    key, bought, kept = "training.conversion_context", config.training.conversion_context, config.clean.event_types
    if bought is None or not config.model.has_corpus or config.model.has_towers:
        return
    if "sessions" not in config.training.corpus:
        others = " and ".join(config.training.corpus)
        line = f"{key}: {others} know no event types; set training.corpus to sessions, or mix them in"
        yield _Problem(line, key, "training.corpus", "model.kind")
    if config.training.window == "session":
        line = f"{key}: under window session every item is in all windows; leave one of them out"
        yield _Problem(line, key, "training.window", "model.kind")
    if config.sessions.collapse_repeats:
        line = (
            f"{key}: a purchase right after a view of the same item would be collapsed into the view; set "
            f"sessions.collapse_repeats to false"
        )
        yield _Problem(line, key, "sessions.collapse_repeats", "model.kind")
    if kept is not None and bought not in kept:
        line = f"{key}: {bought!r} is not in clean.event_types ({', '.join(kept)})"
        yield _Problem(line, key, "clean.event_types", "model.kind")


def _check_warm_start(config: "RunConfig") -> Iterator[_Problem]:
    start, key = config.training.warm_start, "training.warm_start"
    if start is None or not config.model.has_corpus or config.model.has_towers:
        return
    if start.neighbours and not config.graph and config.source.kind != "edges":
        line = f"{key}.neighbours: needs a graph section; set it to false"
        yield _Problem(line, f"{key}.neighbours", "graph", "source.kind")
    kinds = _item_features(config)
    for name in start.features:
        if name not in kinds:
            line = f"{key}.features: no item feature is called {name}; there are {sorted(kinds)}"
        elif kinds[name] not in ("categorical", "multi"):
            line = f"{key}.features: {name} is {kinds[name]}; it takes categorical and multi ones"
        else:
            continue
        yield _Problem(line, f"{key}.features", "features")


def _check_baselines(config: "RunConfig") -> Iterator[_Problem]:
    """What a model that is a baseline, or a baseline beside the model, cannot have."""
    kind, baselines = config.model.kind, config.baselines
    if twice := sorted({n for n in baselines.names if baselines.names.count(n) > 1}):
        yield _Problem(f"baselines.names: given twice: {', '.join(twice)}", "baselines.names")
    if kind in LIST_KINDS:
        keys = ("model.kind", "source.kind", "evaluate")
        if config.evaluate is None:
            line = f"model.kind: {kind} only ranks lists, which evaluate scores; give it an evaluate section"
            yield _Problem(line, *keys)
        elif config.evaluate.search == "index":
            line = f"evaluate.search: {kind} has no vectors to index; set it to exact"
            yield _Problem(line, *keys, "evaluate.search")
    if baselines.popularity.half_life_days and config.source.order != "time":
        key = "baselines.popularity.half_life_days"
        yield _Problem(f"{key}: needs source.columns.ts", key, *_ORDER)
    yield from _check_ease(config)


def _check_ease(config: "RunConfig") -> Iterator[_Problem]:
    """The catalogue's size, where the source says it."""
    if config.source.kind != "synthetic" or config.evaluate is None or "ease" not in config.scored_kinds:
        return
    num_items, max_items = config.source.synthetic.num_items, config.baselines.ease.max_items
    if num_items > max_items and config.vocabulary.min_item_events == 1:  # above, how many are left is not known yet
        keys = ("model.kind", "baselines.names", "baselines.ease.max_items", "source.synthetic.num_items")
        yield _Problem(ease_too_large(num_items, max_items), *keys, "source.kind", "vocabulary.min_item_events")


def ease_too_large(num_items: int, max_items: int) -> str:
    """Says that a catalogue is beyond what `ease` inverts."""
    return (
        f"baselines.ease.max_items: ease inverts a matrix of items x items, {num_items:,} items are more than "
        f"{max_items:,}; take ease out of baselines.names and model.kind (rp3beta scales further), raise "
        f"vocabulary.min_item_events, or raise this limit ({12 * num_items**2 / 2**30:.1f} GiB are needed)"
    )


def _item_features(config: "RunConfig") -> dict[str, str]:
    """Name -> kind."""
    return {f.name: f.kind for f in config.features if f.of == "item"}
