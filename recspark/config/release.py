"""Sections ``release`` and ``recommend``: what may become active, and what users are given."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from recspark.config.section import IsoTime, Section
from recspark.config.source import Share


class GatesConfig(Section):
    """What a release must reach before it is activated; null turns a gate off."""

    min_recall: Share | None = 0.8
    """Recall@10 of the index against exact search, as its build has measured it."""
    metric: str | None = None
    """The metric of the next two gates, such as ndcg@20; recall at the largest of evaluate.ks by default."""
    max_metric_drop: Share | None = 0.05
    """Share of the active release's value that may be lost; refuses where that was evaluated in another way."""
    min_over_baselines: dict[str, NonNegativeFloat] = Field(default={"popularity": 1.0})
    """By baseline: the least ratio of the metric to that baseline's. Those that were not evaluated are skipped."""
    min_coverage: Share | None = 0.01
    """Share of the catalogue that stands in somebody's list, at the same k as the metric."""
    max_popularity_lift: PositiveFloat | None = 5.0
    """How much more popular the lists are than what users do themselves; 1: twice as popular."""
    max_head_share: Share | None = 0.7
    """Share of all places in the lists that go to head items (`release.head_items`)."""
    min_neighbour_overlap: Share | None = 0.05
    """Mean share of an item's ten neighbours that it had in the active release too."""
    max_without_vector: Share | None = 0.5
    """Share of the active items of the catalogue that cannot be found, for want of a vector."""


class ReleaseConfig(Section):
    """A release: this run's index and model under one id, with all that it was made from."""

    gates: GatesConfig = GatesConfig()
    """Of activation; a publish only measures."""
    num_canaries: PositiveInt = 200
    """Items (by hash) whose neighbours are written down: verify asks for them again, gates compare them."""
    head_items: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the items with train events that counts as the head: the most popular ones, one at least."""


class ItemFilterConfig(Section):
    """Items that may, or may not, be recommended, by a feature."""

    feature: str
    """Name of an item feature."""
    keep: tuple[str, ...] | None = None
    """Only items with one of these values."""
    drop: tuple[str, ...] | None = None
    """No items with one of these values."""

    @model_validator(mode="after")
    def _check_one(self) -> "ItemFilterConfig":
        if (self.keep is None) == (self.drop is None):
            raise ValueError(f"filter on feature {self.feature!r} needs keep or drop, one of them")
        return self


class QuotaConfig(Section):
    """At most so many items of one value of a feature in a list."""

    feature: str
    """Name of an item feature with one value an item: category, brand, seller."""
    max_items: PositiveInt
    """Of each value, in one list."""
    values: tuple[str, ...] | None = None
    """Only these values have a quota; all by default. Items without a value have none."""


class RecommendConfig(Section):
    """Lists for all or listed users, by `recspark recommend`; purpose `serve` of table `recommendations`."""

    k: PositiveInt = 50
    """Length of a list."""
    search: Literal["auto", "exact", "index"] = "auto"
    """exact: score all items. index: through the built index. auto: the index where the run has one."""
    release: bool = False
    """Take model, index, users and histories from the active release instead of this config's newest run."""
    users: str | None = None
    """A text file with a user_id a line; all users by default."""
    mask_seen: bool = True
    """Leave out what a user has had."""
    at: IsoTime | None = None
    """Lists as of this time (ISO, UTC where it names no zone): only events strictly before it are history. By default
    all are; models with `time_features` are then asked as of now."""
    active_only: bool = True
    """Leave out items that the catalogue has as inactive."""
    filters: tuple[ItemFilterConfig, ...] = ()
    """Rules on item features; an item has to pass all."""
    quotas: tuple[QuotaConfig, ...] = ()
    """Rules on a list: in the order of scores, an item above a quota is passed over for the next."""
    quota_depth: PositiveInt = 5
    """With quotas, k times so many items are looked at; lists that still run short stay short and are counted."""
