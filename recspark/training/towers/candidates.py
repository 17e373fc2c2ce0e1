"""Which items a batch's users are compared with, and how many of each were to be expected: logQ.

    sources in_batch 14,000 targets, uniform 1,024     ->   items [C] distinct, counts [C], expected [C]
    expected count of item j:  14,000 p_j + 1,024 / V       correction_j = log(counts_j / expected_j)

With that, sum_j counts_j / expected_j exp(s_j) has the expectation sum over the catalogue of exp(s_j), whatever the
mixture. Draws are counter-based: all ranks know them without a word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.config.towers import NegativesConfig
from recspark.contracts.shards import hash_ids
from recspark.errors import DataError
from recspark.training.lanes import hash_place

Ints = NDArray[np.int64]
_UNIFORM, _POPULARITY = 1, 2
_ROWS_A_USER = 10


@dataclass(frozen=True)
class Candidates:
    """``items`` int64 [C], ascending and distinct; ``correction`` float32 [C], None for the whole catalogue.

    ``counts`` int64 [C]: how often an item is there for all rows; ``target_counts`` those of them that are targets,
    together ``num_targets``.
    """

    items: Ints
    correction: NDArray[np.float32] | None = None
    counts: Ints | None = None
    target_counts: Ints | None = None
    num_targets: int = 0

    def columns_of(self, items: Ints) -> Ints:
        """Where items that are all there stand."""
        return np.searchsorted(self.items, items)


class CandidateSource:
    """Draws and counts the candidates of a catalogue.

    ``target_counts`` [V]: how often each item is a target in an epoch, in the mean; ``listed`` bool [V]: items that may
    be recommended at all.

    Raises: DataError when no item is ever a target.
    """

    def __init__(
        self,
        config: NegativesConfig,
        target_counts: NDArray[Any],
        listed: NDArray[np.bool_],
        seed: int,
        by_prefix: bool = False,
    ) -> None:
        """``by_prefix``: a user has a row of scores an item of his history, not one in all."""
        self.config, self._seed = config, seed
        self._most_items = config.full_max_items // (_ROWS_A_USER if by_prefix else 1)
        self._listed = np.flatnonzero(listed)
        if not target_counts.any():
            raise DataError(
                "model.towers: no item is ever a target: every history is too short to have one; "
                "check the source, or set model.towers.targets to all"
            )
        self.target_shares = target_counts / target_counts.sum()
        """p [V]: chance that a target is this item."""
        powers, is_drawn = np.zeros(len(listed)), listed & (target_counts > 0)
        powers[is_drawn] = target_counts[is_drawn].astype(np.float64) ** config.popularity_exponent
        self._popular_shares = powers / powers.sum()
        self._popular_steps = np.cumsum(self._popular_shares)

    @property
    def is_full(self) -> bool:
        """Whether every batch is compared with the whole catalogue."""
        is_small = len(self._listed) <= self._most_items
        return self.config.kind == "full" or (self.config.kind == "auto" and is_small)

    def describe(self) -> str:
        """In words, for a log line."""
        config = self.config
        if self.is_full:
            return f"all {len(self._listed):,} items"
        parts = {"uniform": config.uniform, "by popularity": config.popularity, "kept": config.queue}
        names = [f"{count:,} {name}" for name, count in parts.items() if count]
        return " + ".join([*(["targets of the batch"] if config.in_batch else []), *names])

    def whole(self) -> Candidates:
        """The catalogue."""
        return Candidates(self._listed)

    def draw(self, targets: Ints, global_step: int) -> Candidates:
        """The candidates of a global batch with these targets (repeats kept, in any order)."""
        drawn = np.concatenate([self._draw_uniform(global_step), self._draw_popular(global_step)])
        items = np.unique(np.concatenate([targets, drawn]))
        counts = np.bincount(np.searchsorted(items, drawn), minlength=len(items))
        # Without in_batch a target is there for its own rows only.
        shown = targets if self.config.in_batch else targets[:0]
        target_counts = np.bincount(np.searchsorted(items, shown), minlength=len(items))
        counts += target_counts
        correction = self.correct(items, counts, self.expected_counts(len(shown)))
        return Candidates(items, correction, counts, target_counts, len(shown))

    def expected_counts(self, num_targets: float) -> NDArray[np.float64]:
        """Q [V]: how often each item is to be expected among ``num_targets`` targets and what is drawn beside them."""
        config = self.config
        expected = num_targets * self.target_shares + config.popularity * self._popular_shares
        expected[self._listed] += config.uniform / len(self._listed)
        return np.asarray(expected)

    def correct(self, items: Ints, counts: NDArray[Any], expected: NDArray[np.float64]) -> NDArray[np.float32]:
        """log(counts / Q), or log(counts) without logQ; -inf where a column is there for its own rows only."""
        with np.errstate(divide="ignore"):
            found = np.log(counts.astype(np.float64))
        if self.config.log_q:
            found -= np.log(np.maximum(expected[items], 1e-12))
        return found.astype(np.float32)

    def _draw_uniform(self, global_step: int) -> Ints:
        units = _draw_units(self.config.uniform, self._seed, global_step, _UNIFORM)
        return np.asarray(self._listed[(units * len(self._listed)).astype(np.int64)], np.int64)

    def _draw_popular(self, global_step: int) -> Ints:
        units = _draw_units(self.config.popularity, self._seed, global_step, _POPULARITY)
        found = np.searchsorted(self._popular_steps, units * self._popular_steps[-1], side="right")
        return np.asarray(np.minimum(found, len(self._popular_steps) - 1), np.int64)


def _draw_units(count: int, *place: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1) that hang on the place alone."""
    bits = hash_ids(np.arange(count), hash_place(*place))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
