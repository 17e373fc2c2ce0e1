"""The planted world of the synthetic source: what is drawn, and the oracle that knows from what.

Items live in clusters, Zipf-popular inside them, each with planted successors. A user has a few favourite clusters; a
session has one of them as its theme, and each step follows a successor of the last items or draws from the theme.
Every draw is a hash of (seed, user, session, step), so a user's events are the same wherever they are generated.

    PlantedWorld(config, seed=1).build_events(range(2))   ->  arrays, one element an event, ordered by (user, number)
    user  number  item  seconds     event_type  dirt
    0     0       512   1767859304  0           0

Imports numpy alone: evaluation uses the oracle without Spark, and Spark's workers without the config's libraries.
"""

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspark.sources.counter_random import draw_bits, draw_uniforms

if TYPE_CHECKING:
    from recspark.config.source import SyntheticSource

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

EVENT_TYPES = ("view", "purchase")
PURCHASE_SHARE = 0.1
FAVOURITE_WEIGHTS = np.array([0.6, 0.3, 0.1])
"""Shares of a user's favourite clusters; the same cluster may be drawn twice."""
BROWSING_SHARE = 0.05
"""Share of sessions with any cluster as theme, by its popularity."""
CLUSTER_EXPONENT = 0.5
"""Zipf exponent of the clusters' popularity."""
SAME_CLUSTER_SHARE = 0.85
"""Share of successors in an item's own cluster."""
LAST_ITEM_SHARE = 0.75
"""Share of transitions from the last item; the others start from the one before."""
MAX_SESSION_LENGTH = 50
BOT_EVENTS = 1500
"""Events of a bot: one a second, any item."""

_WEEKDAY_WEIGHTS = np.array([1.0, 0.9, 0.9, 1.0, 1.2, 1.5, 1.4])  # Monday first
_HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 8, 8, 8, 9, 10, 9, 8, 8, 9, 10, 12, 14, 15, 13, 9, 5], dtype=float)

CLEAN = 0
DIRT_KINDS = (
    "clean",
    "missing_user",
    "missing_item",
    "blank_item",
    "long_item",
    "invalid_user",
    "unreadable_time",
    "impossible_time",
    "unreadable_weight",
    "negative_weight",
)
"""What `PlantedEvents.dirt` numbers; 0 is a good row."""


def user_id(number: int) -> str:
    """The id of a user, such as ``u000123``."""
    return f"u{number:06d}"


def item_id(number: int) -> str:
    """The id of an item, such as ``i00042``."""
    return f"i{number:05d}"


def user_number(identifier: str) -> int:
    """The number in a user id.

    Raises: ValueError when it is none of ours.
    """
    return _number_after("u", identifier)


def item_number(identifier: str) -> int:
    """The number in an item id.

    Raises: ValueError when it is none of ours.
    """
    return _number_after("i", identifier)


def _number_after(letter: str, identifier: str) -> int:
    if not identifier.startswith(letter) or not identifier[1:].isdecimal():
        raise ValueError(f"{identifier!r} is no id of the synthetic source")
    return int(identifier[1:])


@dataclass(frozen=True)
class PlantedEvents:
    """Arrays with one element an event: ``seconds`` since the epoch, ``dirt`` a position in ``DIRT_KINDS``."""

    user: Ints
    number: Ints
    item: Ints
    seconds: Ints
    event_type: Ints
    dirt: Ints


@dataclass(frozen=True)
class _Sessions:
    """Arrays with one element a session, ordered by user and by start."""

    user: Ints
    number: Ints
    theme: Ints
    start: Ints
    length: Ints


class PlantedWorld:
    """Items, users and sessions of one (config, seed)."""

    def __init__(self, config: "SyntheticSource", seed: int) -> None:
        self.config = config
        self.seed = seed

    @property
    def num_clusters(self) -> int:
        """Clusters that have items."""
        return min(self.config.num_clusters, self.config.num_items)

    @cached_property
    def cluster_of_item(self) -> Ints:
        """Cluster of each item; sizes differ by at most one."""
        cluster = np.empty(self.config.num_items, dtype=np.int64)
        cluster[self._shelf] = np.sort(np.arange(self.config.num_items) % self.num_clusters)
        return cluster

    @cached_property
    def cluster_weights(self) -> Floats:
        """Popularity of each cluster; sums to 1."""
        return _zipf(np.arange(self.num_clusters), CLUSTER_EXPONENT, np.zeros(1, dtype=np.int64))

    @cached_property
    def successors(self) -> Ints:
        """(num_items, num_successors) planted successors of each item, equally likely."""
        items = np.arange(self.config.num_items)[:, None]
        places = np.arange(self.config.num_successors)[None, :]
        own = self.cluster_of_item[items]
        other = _pick(self.cluster_weights, draw_uniforms(self.seed, "successor_cluster", items, places))
        stays = draw_uniforms(self.seed, "successor_stays", items, places) < SAME_CLUSTER_SHARE
        return self._pick_from_clusters(
            np.where(stays, own, other), draw_uniforms(self.seed, "successor_item", items, places)
        )

    def tastes(self, users: ArrayLike) -> Floats:
        """(users, num_clusters) probability of each cluster as a session's theme; rows sum to 1."""
        user = np.asarray(users, dtype=np.int64)
        shares = np.repeat(BROWSING_SHARE * self.cluster_weights[None, :], len(user), axis=0)
        favourites = self._favourites(user)
        for place, weight in enumerate(FAVOURITE_WEIGHTS):
            np.add.at(shares, (np.arange(len(user)), favourites[:, place]), (1 - BROWSING_SHARE) * weight)
        return shares

    def is_bot(self, users: ArrayLike) -> NDArray[np.bool_]:
        """Which users are bots."""
        return draw_uniforms(self.seed, "bot", np.asarray(users)) < self.config.bot_share

    def build_events(self, users: ArrayLike) -> PlantedEvents:
        """All events of some users, ordered by (user, number), dirt marked but not yet made."""
        user = np.unique(np.asarray(users, dtype=np.int64))
        bots = self.is_bot(user)
        people, machines = self._people_events(user[~bots]), self._bot_events(user[bots])
        owner, item, seconds = (np.concatenate(pair) for pair in zip(people, machines, strict=True))
        order = np.lexsort((seconds, owner))  # stable: a session's own order decides among equal seconds
        owner, item, seconds = owner[order], item[order], seconds[order]
        number = _number_inside(owner)
        is_purchase = draw_uniforms(self.seed, "purchase", owner, number) < PURCHASE_SHARE
        return PlantedEvents(owner, number, item, seconds, is_purchase.astype(np.int64), self._dirt(owner, number))

    def score_items(self, users: ArrayLike) -> NDArray[np.float32]:
        """(users, num_items) expected share of each item in a user's future events: the oracle's scores.

        Exact for the planted process: tastes mixed over the expected visits of a session with each theme.
        """
        return (self.tastes(users) @ self._visits_by_theme).astype(np.float32)

    @cached_property
    def _visits_by_theme(self) -> Floats:
        """(num_clusters, num_items) expected share of each item in the events of sessions with each theme."""
        base = np.zeros((self.num_clusters, self.config.num_items))
        base[self.cluster_of_item, np.arange(self.config.num_items)] = self._popularity
        goes_on = 1 - 1 / self.config.session_length
        follow = self.config.transition_share
        before, now = base, base
        visits, weight, total = base.copy(), 1.0, 1.0
        for step in range(1, MAX_SESSION_LENGTH):
            source = now if step == 1 else LAST_ITEM_SHARE * now + (1 - LAST_ITEM_SHARE) * before
            before, now = now, follow * self._step(source) + (1 - follow) * base
            weight *= goes_on
            visits += weight * now
            total += weight
        return visits / total

    def _step(self, shares: Floats) -> Floats:
        """Shares of items after following one successor each."""
        after = np.empty_like(shares)
        targets = self.successors.ravel()
        for theme, row in enumerate(shares):
            spread = np.repeat(row / self.config.num_successors, self.config.num_successors)
            after[theme] = np.bincount(targets, spread, minlength=self.config.num_items)
        return after

    @cached_property
    def _shelf(self) -> Ints:
        """Items by (cluster, rank inside it): a seeded shuffle, so that ids tell nothing."""
        return np.argsort(draw_bits(self.seed, "shelf", np.arange(self.config.num_items)), kind="stable")

    @cached_property
    def _cluster_starts(self) -> Ints:
        """Where each cluster starts on the shelf, and the end."""
        counts = np.bincount(self.cluster_of_item, minlength=self.num_clusters)
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def _shelf_weights(self) -> Floats:
        """Zipf share of each place on the shelf inside its cluster."""
        starts = self._cluster_starts
        rank = np.arange(self.config.num_items) - np.repeat(starts[:-1], np.diff(starts))
        return _zipf(rank, self.config.popularity_exponent, starts[:-1])

    @cached_property
    def _popularity(self) -> Floats:
        """Share of each item inside its cluster."""
        popularity = np.empty(self.config.num_items)
        popularity[self._shelf] = self._shelf_weights
        return popularity

    @cached_property
    def _shelf_edges(self) -> Floats:
        """Upper edge of each shelf place: cluster c covers c..c+1, each place its share."""
        edges = np.cumsum(self._shelf_weights)
        edges[self._cluster_starts[1:] - 1] = np.arange(1, self.num_clusters + 1)
        return edges

    def _pick_from_clusters(self, cluster: Ints, uniform: Floats) -> Ints:
        """An item of each given cluster, by popularity."""
        place = np.searchsorted(self._shelf_edges, cluster + uniform, side="right")
        return self._shelf[np.clip(place, self._cluster_starts[cluster], self._cluster_starts[cluster + 1] - 1)]

    def _favourites(self, user: Ints) -> Ints:
        places = np.arange(len(FAVOURITE_WEIGHTS))[None, :]
        return _pick(self.cluster_weights, draw_uniforms(self.seed, "favourite", user[:, None], places))

    def _people_events(self, user: Ints) -> tuple[Ints, Ints, Ints]:
        """(user, item, seconds) of all sessions of users that are no bots."""
        sessions = self._build_sessions(user)
        items, seconds = self._walk_sessions(sessions)
        is_event = np.arange(items.shape[1])[None, :] < sessions.length[:, None]
        owner = np.broadcast_to(sessions.user[:, None], items.shape)
        return owner[is_event], items[is_event], seconds[is_event]

    def _build_sessions(self, user: Ints) -> _Sessions:
        """Numbers, themes, starts and lengths; activity differs between users, lengths are geometric."""
        activity = 0.4 - 0.6 * np.log1p(-draw_uniforms(self.seed, "activity", user))
        count = np.maximum(1, np.rint(self.config.sessions_per_user * activity)).astype(np.int64)
        owner = np.repeat(user, count)
        number = _number_inside(owner)
        length_uniform = draw_uniforms(self.seed, "length", owner, number)
        length = 1 + np.floor(np.log1p(-length_uniform) / np.log1p(-1 / self.config.session_length))
        length = np.minimum(length, MAX_SESSION_LENGTH).astype(np.int64)
        return _Sessions(owner, number, self._themes(owner, number), self._starts(owner, number), length)

    def _themes(self, owner: Ints, number: Ints) -> Ints:
        favourite = self._favourites(owner)
        place = _pick(FAVOURITE_WEIGHTS, draw_uniforms(self.seed, "theme_place", owner, number))
        browsed = _pick(self.cluster_weights, draw_uniforms(self.seed, "theme_browsed", owner, number))
        browses = draw_uniforms(self.seed, "browses", owner, number) < BROWSING_SHARE
        return np.where(browses, browsed, favourite[np.arange(len(owner)), place])

    def _starts(self, owner: Ints, number: Ints) -> Ints:
        """Session starts in seconds since the epoch: busy weekends and evenings."""
        first = dt.date.fromisoformat(self.config.start)
        weekday = (first.weekday() + np.arange(self.config.num_days)) % 7
        day = _pick(_WEEKDAY_WEIGHTS[weekday], draw_uniforms(self.seed, "day", owner, number))
        hour = _pick(_HOUR_WEIGHTS, draw_uniforms(self.seed, "hour", owner, number))
        second = np.floor(3600 * draw_uniforms(self.seed, "second", owner, number)).astype(np.int64)
        return (first - dt.date(1970, 1, 1)).days * 86400 + day * 86400 + hour * 3600 + second

    def _walk_sessions(self, sessions: _Sessions) -> tuple[Ints, Ints]:
        """(sessions, longest) items and seconds; places past a session's length hold rubbish."""
        longest = int(sessions.length.max(initial=1))
        items = np.zeros((len(sessions.user), longest), dtype=np.int64)
        seconds = np.zeros_like(items)
        for step in range(longest):
            live = np.flatnonzero(sessions.length > step)
            key = (sessions.user[live], sessions.number[live], step)
            items[live, step] = self._pick_from_clusters(sessions.theme[live], draw_uniforms(self.seed, "item", *key))
            seconds[live, step] = sessions.start[live]
            if step:
                pause = -60 * np.log1p(-draw_uniforms(self.seed, "pause", *key))
                seconds[live, step] = seconds[live, step - 1] + 5 + np.minimum(pause, 900).astype(np.int64)
                follows = draw_uniforms(self.seed, "follows", *key) < self.config.transition_share
                items[live, step] = np.where(follows, self._follow(items, live, key), items[live, step])
        return items, seconds

    def _follow(self, items: Ints, live: Ints, key: tuple[Ints, Ints, int]) -> Ints:
        """A successor of the last item, or of the one before."""
        step = key[2]
        is_last = draw_uniforms(self.seed, "from_last", *key) < LAST_ITEM_SHARE
        source = np.where(is_last | (step < 2), items[live, step - 1], items[live, max(step - 2, 0)])
        place = np.floor(self.config.num_successors * draw_uniforms(self.seed, "successor", *key)).astype(np.int64)
        successors: Ints = self.successors[source, place]
        return successors

    def _bot_events(self, user: Ints) -> tuple[Ints, Ints, Ints]:
        """(user, item, seconds) of bots: one event a second on any item."""
        owner = np.repeat(user, BOT_EVENTS)
        number = _number_inside(owner)
        item = np.floor(self.config.num_items * draw_uniforms(self.seed, "bot_item", owner, number)).astype(np.int64)
        return owner, item, self._starts(owner, np.zeros_like(owner)) + number

    def _dirt(self, owner: Ints, number: Ints) -> Ints:
        is_dirty = draw_uniforms(self.seed, "dirty", owner, number) < self.config.dirty_share
        kind = 1 + (draw_bits(self.seed, "dirt", owner, number) % np.uint64(len(DIRT_KINDS) - 1)).astype(np.int64)
        return np.where(is_dirty, kind, CLEAN)


def _zipf(rank: Ints, exponent: float, starts: Ints) -> Floats:
    """(1 + rank) ** -exponent, divided by the sums of the runs that begin at ``starts``."""
    weights = np.power(1.0 + rank, -exponent)
    sizes = np.diff(np.append(starts, len(rank)))
    shares: Floats = weights / np.repeat(np.add.reduceat(weights, starts), sizes)
    return shares


def _pick(weights: Floats, uniform: Floats) -> Ints:
    """Positions drawn in proportion to weights."""
    edges = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(edges, uniform, side="right"), len(weights) - 1)


def _number_inside(owner: Ints) -> Ints:
    """0, 1, 2, ... inside each run of equal, neighbouring owners."""
    is_first = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, dtype=bool)
    place = np.arange(len(owner))
    return place - np.maximum.accumulate(np.where(is_first, place, 0)) if len(owner) else place
