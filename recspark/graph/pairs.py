"""What two items that share a unit weigh: the one definition that kernels, jobs and tests agree on.

A *unit* is what two items must share to co-occur (``graph.group``): a train session, or the train part of a user's
history. Its events x_1..x_m are in order; only the newest ``max_session_items`` count. With

    l       distinct items of the unit
    t       its time: a session's end, a user's newest train event; `newest` is the largest t of all units
    d(i,j)  distance of the nearest places of i and j: min |a - b| over x_a = i, x_b = j
    e(i)    sum of the event weights of i in the unit with ``use_event_weights``, else 1

two different items of a unit are a pair when d(i,j) <= ``window`` (always, without a window), and the pair weighs

    w(i,j) = l^-length_power * 2^(-(newest - t) / half_life) * distance_decay^(d(i,j) - 1) * e(i) * e(j)

once a unit, however often its items repeat. Over all units

    c(i,j)       = sum of w(i,j)                  the weighted sum scores are made of
    support(i,j) = number of units with the pair  column `count`, and what `min_support` looks at; distinct users of
                   such units with ``support: user``
    n(i)         = number of units that hold i    unweighted, units without a pair included
    r(i)         = sum over j of c(i,j)           before any pruning; only for PPMI

Weights are summed as 64-bit integers, ``floor(w * 2^shift + .5)``, with the largest shift (at most 52) that cannot
overflow (28 with ``incremental``): the sums do not depend on the order of arrival. A pair whose sum is 0 is no edge.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recspark.errors import DataError
from recspark.graph import kernel

if TYPE_CHECKING:  # workers import this module: no pydantic there
    from recspark.config.graph import GraphConfig

MAX_SHIFT = 52
DAILY_SHIFT = 28
"""Of ``incremental``: the same for all days to come, so that their sums can be added."""
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class UnitShape:
    """What of a unit counts; known before any data is seen."""

    max_items: int
    ordered: bool
    """Places matter (decay or window): repeats stay, and distances are measured."""
    use_event_weights: bool
    use_times: bool
    by_user: bool = False
    """Support counts users: units carry theirs, and come sorted by it."""
    has_user_cap: bool = False
    """Units say what the cap on their user's events has cut."""


@dataclass(frozen=True)
class PairWeights:
    """Weights of pairs, ready for the kernel; tables are made once, on the driver, so that all workers agree."""

    rule: kernel.PairRule
    length_weights: NDArray[np.float64]
    """Factor by number of distinct items."""
    half_life_us: float | None
    newest_us: int

    def of_units(self, distinct: NDArray[np.int32], times_us: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Each unit's weight from its distinct items and its time; empty where all weigh 1."""
        if self.rule.mode == kernel.PLAIN:
            return np.empty(0)
        weights = self.length_weights[distinct]
        if self.half_life_us is not None and times_us is not None:
            weights = weights * np.exp2((times_us - self.newest_us) / self.half_life_us)
        return weights


def unit_shape(config: "GraphConfig") -> UnitShape:
    """What of a unit the config asks for."""
    return UnitShape(
        max_items=config.max_session_items,
        ordered=config.distance_decay < 1 or config.window is not None,
        use_event_weights=config.use_event_weights,
        use_times=config.half_life_days is not None,
        by_user=config.group == "session" and config.support == "user",
        has_user_cap=config.max_user_events is not None,
    )


def pair_weights(
    config: "GraphConfig", num_units: int, longest: int, max_item_weight: float, newest_us: int
) -> PairWeights:
    """The weights of a config over units whose counts are known.

    Raises: DataError when, with ``incremental``, sums of so many units could overflow.

    Args:
        config: The graph section.
        num_units: Units that hold an item.
        longest: Most events of a unit, after the cap.
        max_item_weight: Largest weight of an item in a unit (1 without event weights).
        newest_us: Time of the newest unit, microseconds since the epoch.
    """
    lengths = np.arange(longest + 1, dtype=np.float64)
    length_weights = np.ones(longest + 1)
    length_weights[1:] = lengths[1:] ** -config.length_power
    decay = np.ones(longest + 1)
    decay[1:] = config.distance_decay ** (lengths[1:] - 1)
    mode = _mode(config)
    # A row sum of PPMI adds the unit's other items; the bound is the same for all scores, for simplicity.
    largest = float(np.max(length_weights[2:] * lengths[1:-1], initial=0.0)) * max_item_weight**2
    rule = kernel.PairRule(
        mode=mode,
        has_item_weights=config.use_event_weights,
        window=min(config.window or longest, longest),
        decay=decay,
        scale=1.0 if mode == kernel.PLAIN else 2.0 ** _shift_of(config, fixed_point_shift(num_units, largest)),
    )
    half_life_us = config.half_life_days and config.half_life_days * DAY_US
    return PairWeights(rule, length_weights, half_life_us, newest_us)


def fixed_point_shift(num_terms: int, largest_term: float) -> int:
    """Binary places of the fixed-point weights: as many as 63 bits hold when every term is the largest."""
    bound = max(num_terms * largest_term, 1e-300)
    return min(MAX_SHIFT, 61 - math.ceil(math.log2(bound)))


def _shift_of(config: "GraphConfig", possible: int) -> int:
    if not config.incremental:
        return possible
    if possible < DAILY_SHIFT:
        raise DataError(
            "graph.incremental: the sums of so many sessions of such weights need more than 63 bits; raise "
            "graph.length_power, lower the event weights, or turn graph.incremental off"
        )
    return DAILY_SHIFT


def _mode(config: "GraphConfig") -> int:
    if config.distance_decay < 1 or config.window is not None:
        return kernel.ORDERED
    if config.use_event_weights:
        return kernel.ITEM_WEIGHTS
    # PLAIN has one number for weight and support; users and units are two.
    if config.length_power > 0 or config.half_life_days is not None or unit_shape(config).by_user:
        return kernel.UNIT_WEIGHTS
    return kernel.PLAIN
