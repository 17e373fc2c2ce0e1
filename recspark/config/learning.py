"""Sub-sections and field types of `model` and `training`."""

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from recspark.config.section import Decay, Section, show

AUTO = "auto"
AUTOS = ("readout", "metric", "centred", "history_decay", "popularity_term")
"""Knobs of `model` that may be `auto`."""
CorpusName = Literal["walks", "sessions", "histories"]
MAX_WINDOW = 255
"""From the first item of the longest piece to its last, see `recspark.training.pairing.MAX_SENTENCE`."""
ReadoutName = Literal["input", "output", "sum", "input_output"]


def _parse_corpus(found: Any) -> dict[str, float]:
    """One name, or weights by name: always as weights by name; a single one weighs 1."""
    names = get_args(CorpusName)
    weights = {found: 1.0} if isinstance(found, str) else found
    if not isinstance(weights, dict) or not weights or not set(weights) <= set(names):
        known = ", ".join(map(repr, names[:-1]))
        raise ValueError(
            f"must be {known} or {names[-1]!r}, or weights of several such as {{walks: 1.0, sessions: 0.5}}, "
            f"got {show(found)}"
        )
    for name, weight in weights.items():
        if not _is_number(weight) or not weight > 0:
            raise ValueError(f"the weight of {name} must be a number above 0, got {show(weight)}")
    return (
        {name: float(weight) for name, weight in weights.items()} if len(weights) > 1 else dict.fromkeys(weights, 1.0)
    )


def _check_window(found: Any) -> Any:
    if found == "session":
        return found
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"must be a number of items >= 1, or session, got {show(found)}")
    if found > MAX_WINDOW:
        raise ValueError(
            f"must be at most {MAX_WINDOW}, got {found}: sequences are cut into pieces of {MAX_WINDOW + 1} items, and "
            f"no window sees more; session takes a whole sequence"
        )
    return found


def _check_switch(found: Any) -> Any:
    if not isinstance(found, bool) and found != AUTO:
        raise ValueError(f"must be true, false or auto, got {show(found)}")
    return found


def _check_term(found: Any) -> Any:
    if not _is_number(found) and found != AUTO:
        raise ValueError(f"must be a number or auto, got {show(found)}")
    return found


def _check_decay(found: Any) -> Any:
    if found != AUTO and not (_is_number(found) and 0 < found <= 1):
        raise ValueError(f"must be above 0 and at most 1, or auto, got {show(found)}")
    return found


def _check_metric(found: str) -> str:
    if not re.fullmatch(r"(recall|ndcg|hr|mrr|map)@[1-9][0-9]*", found):
        raise ValueError(f"must be recall, ndcg, hr, mrr or map at a cut-off such as recall@20, got {show(found)}")
    return found


def _check_model_id(found: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{12}", found):
        raise ValueError(f"must be the 12 hex digits that a model's folder is called by, got {show(found)}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


CorpusWeights = Annotated[dict[CorpusName, float], BeforeValidator(_parse_corpus)]
Window = Annotated[int | Literal["session"], BeforeValidator(_check_window)]
AutoSwitch = Annotated[bool | Literal["auto"], BeforeValidator(_check_switch)]
AutoTerm = Annotated[float | Literal["auto"], BeforeValidator(_check_term)]


AutoDecay = Annotated[float | Literal["auto"], BeforeValidator(_check_decay)]


class ReadoutSearchConfig(Section):
    """How readout, metric, centring, history decay and popularity term are chosen where they are `auto`: every
    combination is scored on the validation slice (`split.valid`), from train histories, and the best one is exported.
    """

    metric: Annotated[str, AfterValidator(_check_metric)] = "recall@20"
    """What decides: recall, ndcg, hr, mrr or map at a cut-off. Of equals, the earlier combination is taken."""
    max_users: PositiveInt = 5_000
    """Users scored, chosen by hash; fewer are faster and noisier."""
    max_scores: PositiveInt = 200_000_000_000
    """Scores computed at most (users x items x combinations), by all ranks together; a core makes 200 to 500 million a
    second. Where all combinations on all users are more, half of it goes to all combinations on fewer users, the rest
    to the best ones."""
    mask_seen: bool = True
    """Leave out a user's train items, from the list and from the relevant ones; as `evaluate.mask_seen`."""
    readouts: Annotated[tuple[ReadoutName, ...], Field(min_length=1)] = ("input", "output", "sum", "input_output")
    """Tried for `model.readout: auto`."""
    popularity_terms: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    """Tried for `model.popularity_term: auto`."""
    history_decays: Annotated[tuple[Decay, ...], Field(min_length=1)] = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
    """Tried for `model.history_decay: auto`."""


class WarmStartConfig(Section):
    """An earlier model to start from, item by item_id: vectors and step sizes of both tables."""

    model_id: Annotated[str, AfterValidator(_check_model_id)]
    """The earlier model, a folder below models/."""
    lake: str | None = None
    """Where it is; this run's lake by default. No part of the key: a model_id says what the model is made of."""
    neighbours: bool = True
    """Items that it does not know start from the mean of their neighbours in item_graph that it does."""
    features: tuple[str, ...] = ()
    """Items without such neighbours start from the mean over these item features (categorical or multi) of the known
    items that share a value."""
