"""What may stand in a list, beside the scores: items that are allowed, and quotas of a feature's values.

plan_rules(items, config)  ->  ListRules(k=50, depth=250, allowed=[0, 1, 4, ...], quotas=(Quota([2, 0, -1, ...], 5),))
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import ConfigError
from recspark.evaluate.lists import NO_ITEM, Ranked
from recspark.index.filters import has_value
from recspark.lake.arrow import TableAt, open_table, read_table

if TYPE_CHECKING:
    from recspark.config.release import ItemFilterConfig, QuotaConfig, RecommendConfig

FREE = -1
"""Code of an item that no quota counts."""


@dataclass(frozen=True)
class Quota:
    """At most ``max_items`` items of one code in a list; ``codes`` int32 [N] by item_idx."""

    codes: NDArray[np.int32]
    max_items: int


@dataclass(frozen=True)
class ListRules:
    """What every list of a batch obeys; plain arrays, so that it can be sent to workers.

    ``allowed`` are the only item_idx that may be listed (None: all); ``depth`` items are looked at for k. ``until_us``
    is when all users are asked for, in microseconds since the epoch: only what came strictly before is history (None:
    all is).
    """

    k: int
    depth: int
    mask_seen: bool
    allowed: NDArray[np.int64] | None = None
    quotas: tuple[Quota, ...] = ()
    until_us: int | None = None

    def cut(self, ranked: Ranked) -> Ranked:
        """The first k of each list of ``depth`` items that keep within all quotas."""
        return keep_within_quotas(ranked, self.quotas, self.k) if self.quotas else ranked


def plan_rules(items: TableAt, config: "RecommendConfig") -> ListRules:
    """The rules of section `recommend` for a catalogue.

    Raises: ConfigError for a feature that its items do not have, or that has several values an item where one is
    needed, and where no item passes.
    """
    names = [*(rule.feature for rule in config.filters), *(rule.feature for rule in config.quotas)]
    found = _read_items(items, names)
    allowed = _find_allowed(found, config.filters, config.active_only)
    if not allowed.any():
        raise ConfigError(
            f"recommend.filters: none of the {len(allowed):,} items of {items.uri} passes; look at the values of "
            f"{', '.join(names) or 'column active'}"
        )
    rows = None if allowed.all() else np.flatnonzero(allowed).astype(np.int64)
    quotas = tuple(Quota(_encode(found, rule), rule.max_items) for rule in config.quotas)
    depth = min(config.k * config.quota_depth, len(allowed)) if quotas else config.k
    return ListRules(config.k, depth, config.mask_seen, rows, quotas)


def keep_within_quotas(ranked: Ranked, quotas: Iterable[Quota], k: int) -> Ranked:
    """Each list's first k items that keep within all quotas: from the best on, one above a quota is passed over."""
    ids_UF, kept = ranked.ids, np.zeros(ranked.ids.shape, np.bool_)
    counters = [_Counter(ids_UF, quota) for quota in quotas]
    lengths = np.zeros(len(ids_UF), np.int64)
    for place in range(ids_UF.shape[1]):
        fits = (ids_UF[:, place] != NO_ITEM) & (lengths < k)
        for counter in counters:
            fits &= counter.has_room(place)
        for counter in counters:
            counter.count(place, fits)
        kept[:, place] = fits
        lengths += fits
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    is_kept = np.take_along_axis(kept, order, axis=1)
    ids = np.where(is_kept, np.take_along_axis(ids_UF, order, axis=1), NO_ITEM)
    scores = np.where(is_kept, np.take_along_axis(ranked.scores, order, axis=1), -np.inf)
    missing = ((0, 0), (0, max(k - ids.shape[1], 0)))
    return Ranked(
        np.pad(ids, missing, constant_values=NO_ITEM).astype(np.int32),
        np.pad(scores, missing, constant_values=-np.inf).astype(np.float32),
    )


class _Counter:
    """How many items of each (list, code) are kept so far."""

    def __init__(self, ids_UF: NDArray[np.int32], quota: Quota) -> None:
        codes = np.where(ids_UF == NO_ITEM, FREE, quota.codes[np.maximum(ids_UF, 0)]).astype(np.int64)
        width = int(codes.max(initial=0)) + 1
        lists = np.arange(len(ids_UF), dtype=np.int64)[:, None]
        _, pairs = np.unique(lists * width + np.maximum(codes, 0), return_inverse=True)
        self._pairs, self._is_free, self._max = pairs.reshape(codes.shape), codes == FREE, quota.max_items
        self._kept = np.zeros(int(self._pairs.max(initial=0)) + 1, np.int64)

    def has_room(self, place: int) -> NDArray[np.bool_]:
        """Which lists may keep their item at a place."""
        return np.asarray(self._is_free[:, place] | (self._kept[self._pairs[:, place]] < self._max))

    def count(self, place: int, fits: NDArray[np.bool_]) -> None:
        """Counts the items kept at a place; the pairs of a place are all different."""
        self._kept[self._pairs[fits & ~self._is_free[:, place], place]] += 1


def _read_items(items: TableAt, features: list[str]) -> pa.Table:
    names = list(dict.fromkeys(c.FEATURE_PREFIX + name for name in features))
    there = {field.name for field in open_table(items.lake, items.name, items.version).schema().fields}
    if lacking := [name for name in names if name not in there]:
        known = ", ".join(sorted(name for name in there if name.startswith(c.FEATURE_PREFIX))) or "none"
        raise ConfigError(f"recommend: {items.uri} has no column {', '.join(lacking)}; its features are: {known}")
    return read_table(items, [c.ITEM_IDX, c.ACTIVE, *names]).sort_by(c.ITEM_IDX)


def _find_allowed(items: pa.Table, filters: Iterable["ItemFilterConfig"], active_only: bool) -> NDArray[np.bool_]:
    allowed = np.ones(items.num_rows, np.bool_)
    if active_only:
        allowed &= pc.fill_null(items[c.ACTIVE], True).to_numpy()
    for rule in filters:
        values = rule.keep if rule.keep is not None else rule.drop
        has_one = has_value(items[c.FEATURE_PREFIX + rule.feature], values or ())
        allowed &= has_one if rule.keep is not None else ~has_one
    return allowed


def _encode(items: pa.Table, rule: "QuotaConfig") -> NDArray[np.int32]:
    """A code for each value that has a quota."""
    column: Any = items[c.FEATURE_PREFIX + rule.feature]
    if pa.types.is_list(column.type):
        raise ConfigError(
            f"recommend.quotas: feature {rule.feature} has several values an item; a quota needs a feature with one, "
            f"such as kind: categorical"
        )
    codes = column.cast(pa.string()).combine_chunks().dictionary_encode()
    found: NDArray[np.int32] = codes.indices.fill_null(FREE).to_numpy(zero_copy_only=False).astype(np.int32)
    if rule.values is not None:
        has_quota = pc.is_in(codes.dictionary, value_set=pa.array(rule.values, pa.string())).to_numpy(False)
        found = np.where((found != FREE) & np.append(has_quota, False)[found], found, FREE).astype(np.int32)
    return found
