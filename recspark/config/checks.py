"""What sections say together: contradictions that no section can see alone, found before anything runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

WRONG = "wrong"
"""In the validation's context: the keys whose values were wrong by themselves, so that defaults stand in for them."""

_KINDS_WITH_TOWERS: frozenset[str] = frozenset()
"""Values of model.kind with parameters outside embedding tables."""
_ORDER = ("source.kind", "source.columns.ts", "source.columns.position")


class _Problem:
    """A contradiction, and the keys that were read to find it."""

    def __init__(self, line: str, *keys: str) -> None:
        self.line, self.keys = line, keys


def find_contradictions(config: "RunConfig", wrong: frozenset[str] = frozenset()) -> list[str]:
    """One line each, in the order a reader of the config meets them; none that hangs on a key in ``wrong``."""
    checks = [_check_edges] if config.source.kind == "edges" else [_check_order, _check_split, _check_baskets]
    found = [problem for check in [*checks, _check_stages, _check_dense, _check_training] for problem in check(config)]
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
        if config.training.corpus == "sessions":
            line = "training.corpus: sessions needs an order (source.columns.ts or position); set it to walks"
            yield _Problem(line, "training.corpus", *_ORDER)


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


def _check_dense(config: "RunConfig") -> Iterator[_Problem]:
    """Knobs of towers need a model that has some."""
    dense = config.training.dense
    if config.model.kind in _KINDS_WITH_TOWERS:
        return
    for name, field in type(dense).model_fields.items():
        if getattr(dense, name) != field.default:
            line = (
                f"training.dense.{name}: model.kind {config.model.kind} is embedding tables alone, which have row-wise "
                f"Adagrad and one owner a row: nothing to average, no moments to shrink; leave it out"
            )
            yield _Problem(line, "model.kind", f"training.dense.{name}")


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
