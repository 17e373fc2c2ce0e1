"""Which readout serves users best: every combination left open is scored on the validation slice, exactly.

    tables, train histories, validation items  ->  ReadoutSpec, and a table such as
    readout       metric  centred  history_decay  popularity_term   recall@20
    input         cosine  false    1.0            0.0               .1204
    input_output  ip      false    0.8            0.1               .1489     <- chosen

Of a user only train and validation events are looked at: whatever lies behind them decides nothing. All ranks share
the users; what is chosen from the same tables does not depend on how many there are.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig
from recspark.lake.arrow import TableAt
from recspark.logs import Progress, log
from recspark.training.inputs import TrainInputs
from recspark.training.readout import ReadoutSpec
from recspark.training.readout_cases import first_by_hash, read_valid_cases
from recspark.training.readout_scores import ReadoutScorer
from recspark.training.tables import SkipGramTables
from recspark.training.world import World

METRICS, SWITCHES = ("cosine", "ip"), (False, True)
_FINALISTS = 8
"""At least so many combinations are compared on the larger number of users."""


class SearchRound(NamedTuple):
    """So many combinations, the best of the round before, are scored on so many users."""

    num_candidates: int
    num_users: int


@dataclass(frozen=True)
class ReadoutChoice:
    """What was chosen, the value of each combination in the order they were listed, and on how many users each.

    ``rounds`` are one or two; of a combination its last one counts, and only those of the last one can be chosen.
    """

    spec: ReadoutSpec
    tried: dict[ReadoutSpec, float]
    users_of: dict[ReadoutSpec, int]
    rounds: list[SearchRound]
    metric: str

    @property
    def num_users(self) -> int:
        """On how many users the chosen one is the best."""
        return self.users_of[self.spec]

    def to_facts(self) -> dict[str, Any]:
        """The table of results, as manifest and record carry it."""
        return {
            "metric": self.metric,
            "value": self.tried[self.spec],
            "users": self.num_users,
            "candidates": len(self.tried),
            "rounds": [found._asdict() for found in self.rounds],
            "results": [s.to_facts() | {"value": value, "users": self.users_of[s]} for s, value in self.tried.items()],
        }


def find_readout(
    config: ModelConfig, inputs: TrainInputs, part: Callable[[range], SkipGramTables], world: World
) -> dict[str, Any]:
    """The facts of what is exported: as the config gives it, or as the validation slice chooses it.

    ``part`` gives the trained rows of a range of items, as `Backend.part` does. Collective; the same on every rank,
    each of which holds both tables meanwhile.

    Raises: DataError when no user has both train and validation items.
    """
    if not config.autos:
        return ReadoutSpec.from_config(config).to_facts()
    assert inputs.user_histories, "the config is checked for users"
    tables = part(range(len(inputs.num_events)))
    choice = choose_readout(tables, inputs.user_histories, inputs.num_events, config, world)
    return choice.spec.to_facts() | {"readout_search": choice.to_facts()}


def choose_readout(
    tables: SkipGramTables,
    user_histories: TableAt,
    num_events: NDArray[np.int64],
    config: ModelConfig,
    world: World = World(),  # noqa: B008
) -> ReadoutChoice:
    """The best of `list_candidates` on the validation slice; of equals the one listed first. Collective.

    Raises: DataError when no user has both train and validation items.
    """
    search, left = config.readout_search, list_candidates(config)
    cases = read_valid_cases(user_histories, num_events, search, world)
    rounds = plan_search(len(cases), len(num_events), len(left), search.max_scores)
    report = _Report(rounds, search.metric, is_speaking=world.rank == 0)
    report.say_plan(len(cases), len(num_events), search.max_scores)
    scorer = ReadoutScorer(tables, num_events, search.metric, world)
    tried: dict[ReadoutSpec, float] = {}
    users_of: dict[ReadoutSpec, int] = {}
    for num_candidates, num_users in rounds:
        left = _keep_best(left, tried, num_candidates)
        for specs, values in scorer.score(first_by_hash(cases, num_users), left):
            tried |= zip(specs, values, strict=True)
            users_of |= dict.fromkeys(specs, num_users)
            report.say_space(specs, values)
    chosen = max(left, key=lambda spec: tried[spec])  # max takes the first of equals
    choice = ReadoutChoice(chosen, tried, users_of, rounds, search.metric)
    report.say_choice(choice)
    return choice


def plan_search(num_users: int, num_items: int, num_candidates: int, max_scores: int) -> list[SearchRound]:
    """All combinations on all users where that is within ``max_scores`` (users x items x combinations).

    Else coarse to fine: half of it goes to all combinations on fewer users, the rest to the best ones on as many users
    as it serves. A few combinations are tried at once, on fewer users. At least one user is scored.
    """
    affordable = max_scores // num_items  # users x combinations
    if num_users * num_candidates <= affordable or num_candidates <= _FINALISTS:
        return [SearchRound(num_candidates, _clamp(affordable // num_candidates, num_users))]
    coarse = _clamp(affordable // 2 // num_candidates, num_users)
    left = affordable - coarse * num_candidates
    finalists = max(_FINALISTS, _clamp(left // num_users, num_candidates))
    return [SearchRound(num_candidates, coarse), SearchRound(finalists, _clamp(left // finalists, num_users))]


def _clamp(value: int, highest: int) -> int:
    return max(1, min(value, highest))


def _keep_best(specs: list[ReadoutSpec], tried: dict[ReadoutSpec, float], count: int) -> list[ReadoutSpec]:
    """The best ``count`` of them in the order they came, of equals the first; all where nothing was tried yet."""
    if not tried:
        return specs
    best = set(sorted(specs, key=lambda spec: -tried[spec])[:count])
    return [spec for spec in specs if spec in best]


class _Report:
    """What rank 0 says of a search."""

    def __init__(self, rounds: list[SearchRound], metric: str, is_speaking: bool) -> None:
        self._rounds, self._metric, self._is_speaking = rounds, metric, is_speaking
        self._progress = Progress("train", sum(r.num_candidates for r in rounds), "readouts")
        self._done = 0

    def say_plan(self, num_users: int, num_items: int, max_scores: int) -> None:
        """How the work was cut down, where it was."""
        if not self._is_speaking or self._rounds == [(self._rounds[0].num_candidates, num_users)]:
            return
        parts = [f"{r.num_candidates} of them on {r.num_users:,}" for r in self._rounds]
        log(
            "train",
            f"{self._rounds[0].num_candidates} readouts x {num_users:,} users x {num_items:,} items are more than "
            f"model.readout_search.max_scores {max_scores:,}: {', then the best '.join(parts)} users, chosen by hash",
        )

    def say_space(self, specs: list[ReadoutSpec], values: list[float]) -> None:
        """The values of one space."""
        if not self._is_speaking:
            return
        self._done += len(specs)
        self._progress.update(self._done)
        shown = {f"at {s.popularity_term:g}": round(value, 5) for s, value in zip(specs, values, strict=True)}
        log("train", f"{self._metric} of {_describe_space(specs[0])}, by popularity_term", **shown)

    def say_choice(self, choice: ReadoutChoice) -> None:
        """What was chosen from how much."""
        if self._is_speaking:
            of = f"best of {len(choice.tried)} on {choice.num_users:,} users of the validation slice"
            value = {self._metric: round(choice.tried[choice.spec], 5)}
            log("train", f"chosen: {describe(choice.spec)}, {of}", **value)


def list_candidates(config: ModelConfig) -> list[ReadoutSpec]:
    """Every combination of what is `auto`, with what is given: by readout, centring, metric, history decay and
    popularity term.
    """
    search = config.readout_search
    readouts = search.readouts if config.readout == "auto" else (config.readout,)
    switches = SWITCHES if config.centred == "auto" else (bool(config.centred),)
    metrics = METRICS if config.metric == "auto" else (config.metric,)
    decays = search.history_decays if config.history_decay == "auto" else (float(config.history_decay),)
    terms = search.popularity_terms if config.popularity_term == "auto" else (float(config.popularity_term),)
    found = itertools.product(readouts, switches, metrics, decays, terms)
    items = config.history_items
    return list(
        dict.fromkeys(ReadoutSpec(r, metric, centred, t, decay, items) for r, centred, metric, decay, t in found)
    )


def describe(spec: ReadoutSpec) -> str:
    """A spec for people."""
    return f"{_describe_space(spec)}, popularity_term {spec.popularity_term:g}"


def _describe_space(spec: ReadoutSpec) -> str:
    centred = "true" if spec.centred else "false"
    found = f"readout {spec.readout}, metric {spec.metric}, centred {centred}, history_decay {spec.history_decay:g}"
    return found if spec.history_items is None else f"{found}, history_items {spec.history_items}"
