"""What sections say together: contradictions that no section can see alone, found before anything runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

WRONG = "wrong"
"""In the validation's context: the keys whose values were wrong by themselves, so that defaults stand in for them."""

_ORDER = ("source.kind", "source.columns.ts", "source.columns.position")


class _Problem:
    """A contradiction, and the keys that were read to find it."""

    def __init__(self, line: str, *keys: str) -> None:
        self.line, self.keys = line, keys


def find_contradictions(config: "RunConfig", wrong: frozenset[str] = frozenset()) -> list[str]:
    """One line each, in the order a reader of the config meets them; none that hangs on a key in ``wrong``."""
    checks = [_check_edges] if config.source.kind == "edges" else [_check_order, _check_split, _check_baskets]
    checks += [_check_stages, _check_training, _check_objective, _check_conversions]
    found = [problem for check in checks for problem in check(config)]
    return [problem.line for problem in found if not any(_is_wrong(key, wrong) for key in problem.keys)]


def _is_wrong(key: str, wrong: frozenset[str]) -> bool:
    """Whether a key, or a section that holds it, is wrong."""
    return any(key == other or key.startswith(f"{other}.") for other in wrong)


def _check_edges(config: "RunConfig") -> Iterator[_Problem]:
    if config.training.corpus == "sessions":
        line = "training.corpus: an edge list has no sessions; set it to walks"
        yield _Problem(line, "source.kind", "training.corpus")
    if config.features:
        line = "features: an edge list's nodes take none; leave the section out"
        yield _Problem(line, "source.kind", "features")


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
        if config.training.corpus == "sessions" and config.training.window != "session":
            yield _Problem(
                "training.window: on sessions it needs an order (source.columns.ts or position); set it to session, or "
                "training.corpus to walks",
                "training.window",
                "training.corpus",
                *_ORDER,
            )
        if config.training.corpus == "sessions" and config.training.position_decay < 1:
            line = "training.position_decay: on sessions it needs an order (source.columns.ts or position)"
            yield _Problem(line, "training.position_decay", "training.corpus", *_ORDER)


def _check_split(config: "RunConfig") -> Iterator[_Problem]:
    split, order = config.split, config.source.order
    if split.kind == "time" and split.cut is None:
        line = "split.cut: needed for split.kind time (an ISO time such as 2026-02-16), or choose another split.kind"
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
    if config.walks and not config.graph and config.source.kind != "edges":
        yield _Problem("walks: needs a graph section", "walks", "graph", "source.kind")
    if config.training.corpus == "walks" and not config.walks:
        line = "training.corpus: walks needs a walks section; set training.corpus to sessions"
        yield _Problem(line, "training.corpus", "walks")
    if config.evaluate is None:
        return
    if config.evaluate.search == "index" and not config.index:
        yield _Problem("evaluate.search: index needs an index section", "evaluate.search", "index")
    if config.evaluate.split == "valid" and not config.split.valid and config.split.kind != "given":
        keys = ("evaluate.split", "split.valid", "split.kind")
        yield _Problem("evaluate.split: valid needs split.valid", *keys)


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


def _check_objective(config: "RunConfig") -> Iterator[_Problem]:
    """Knobs that have no meaning under what the model fits."""
    group = config.training.negative_group
    if config.model.objective == "hierarchical_softmax":
        if config.model.readout != "input":
            line = (
                f"model.readout: {config.model.readout} needs an output vector an item, which objective "
                f"hierarchical_softmax has not; set it to input"
            )
            yield _Problem(line, "model.readout", "model.objective")
        if group:
            line = "training.negative_group: hierarchical_softmax draws no negatives; leave it out"
            yield _Problem(line, "training.negative_group", "model.objective")
    if group is None:
        return
    kinds = {f.name: f.kind for f in config.features if f.of == "item"}
    line = f"training.negative_group: item feature {group!r} is {kinds.get(group)}, expected categorical"
    if group not in kinds:
        known = ", ".join(sorted(kinds)) or "none"
        line = f"training.negative_group: {group!r} is no item feature (section features); there: {known}"
    if kinds.get(group) != "categorical":
        yield _Problem(line, "training.negative_group", "features")


def _check_conversions(config: "RunConfig") -> Iterator[_Problem]:
    """Whether the sessions that training reads can say what was bought."""
    key, bought, kept = "training.conversion_context", config.training.conversion_context, config.clean.event_types
    if bought is None:
        return
    if config.training.corpus != "sessions":
        line = f"{key}: {config.training.corpus} know no event types; set training.corpus to sessions"
        yield _Problem(line, key, "training.corpus")
    if config.training.window == "session":
        line = f"{key}: under window session every item is in all windows; leave one of them out"
        yield _Problem(line, key, "training.window")
    if config.sessions.collapse_repeats:
        line = (
            f"{key}: a purchase right after a view of the same item would be collapsed into the view; set "
            f"sessions.collapse_repeats to false"
        )
        yield _Problem(line, key, "sessions.collapse_repeats")
    if kept is not None and bought not in kept:
        line = f"{key}: {bought!r} is not in clean.event_types ({', '.join(kept)})"
        yield _Problem(line, key, "clean.event_types")
