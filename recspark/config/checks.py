"""What sections say together: contradictions that no section can see alone, found before anything runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig


def find_contradictions(config: "RunConfig") -> list[str]:
    """One line each, in the order a reader of the config meets them."""
    checks = [_check_edges] if config.source.kind == "edges" else [_check_order, _check_split, _check_baskets]
    return [line for check in [*checks, _check_stages, _check_training] for line in check(config)]


def _check_edges(config: "RunConfig") -> Iterator[str]:
    if config.training.corpus == "sessions":
        yield "training.corpus: an edge list has no sessions; set it to walks"
    if config.features:
        yield "features: an edge list's nodes take none; leave the section out"


def _check_order(config: "RunConfig") -> Iterator[str]:
    """Knobs that need times, or at least an order, of the source."""
    order = config.source.order
    if order != "time":
        if config.clean.max_events_per_minute:
            yield "clean.max_events_per_minute: needs source.columns.ts"
        if config.graph and config.graph.half_life_days:
            yield "graph.half_life_days: needs source.columns.ts"
    if order == "position" and config.sessions.group_by == "gap":
        yield (
            "sessions.group_by: gap needs times (source.columns.ts), this source has only a position; "
            "set it to user, or to basket with source.columns.basket_id"
        )
    if order == "none":
        if config.graph and (config.graph.window or config.graph.distance_decay < 1):
            yield "graph.window, graph.distance_decay: need an order (source.columns.ts or position)"
        if config.training.corpus == "sessions":
            yield "training.corpus: sessions needs an order (source.columns.ts or position); set it to walks"


def _check_split(config: "RunConfig") -> Iterator[str]:
    split, order = config.split, config.source.order
    if split.kind == "time" and split.cut is None:
        yield "split.cut: needed for split.kind time (an ISO time such as 2026-02-16), or choose another split.kind"
    if split.kind == "time" and order != "time":
        yield "split.kind: time needs source.columns.ts; use given or leave_last_out"
    if split.kind == "leave_last_out" and order == "none":
        yield "split.kind: leave_last_out needs an order (source.columns.ts or position)"
    if split.kind == "given" and not config.source.columns.split:
        yield "split.kind: given needs source.columns.split"
    if split.valid is None:
        return
    if split.valid.kind == "time" and order != "time":
        yield "split.valid.kind: time needs source.columns.ts; use user_share, last_k or given"
    if split.valid.kind == "last_k" and order == "none":
        yield "split.valid.kind: last_k needs an order (source.columns.ts or position); use user_share"
    if split.valid.kind == "given" and not config.source.columns.split:
        yield "split.valid.kind: given needs source.columns.split"


def _check_baskets(config: "RunConfig") -> Iterator[str]:
    if config.sessions.group_by == "basket" and not config.source.columns.basket_id:
        yield "sessions.group_by: basket needs source.columns.basket_id"


def _check_stages(config: "RunConfig") -> Iterator[str]:
    """Sections that read what another, left out, would make."""
    if config.walks and not config.graph and config.source.kind != "edges":
        yield "walks: needs a graph section"
    if config.training.corpus == "walks" and not config.walks:
        yield "training.corpus: walks needs a walks section; set training.corpus to sessions"
    if config.evaluate is None:
        return
    if config.evaluate.search == "index" and not config.index:
        yield "evaluate.search: index needs an index section"
    if config.evaluate.split == "valid" and not config.split.valid and config.split.kind != "given":
        yield "evaluate.split: valid needs split.valid"


def _check_training(config: "RunConfig") -> Iterator[str]:
    training = config.training
    if training.backend == "cpu" and training.num_processes > 1:
        yield (
            "training.backend: the cpu kernel runs in one process, training.num_processes is "
            f"{training.num_processes}; use training.num_threads, or backend torch"
        )
    if training.batch_sequences % training.num_lanes:
        yield (
            f"training.batch_sequences: must be a multiple of training.num_lanes ({training.num_lanes}), "
            f"got {training.batch_sequences}"
        )
    if training.num_lanes % training.num_processes:
        yield (
            f"training.num_processes: must divide training.num_lanes ({training.num_lanes}), "
            f"got {training.num_processes}"
        )
    names = [(f.of, f.name) for f in config.features]
    for of, name in sorted({n for n in names if names.count(n) > 1}):
        yield f"features: two {of} features are called {name}"
