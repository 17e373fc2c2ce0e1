"""`model.kind: auto`: the model that fits the data by their shape, and why.

counts of the sessions stage, order and features of the config  ->  settings that go on top of the config's own

The order of preference is that of MODELS.md, "Which one"; what the config does not allow (say, lists where it asks for
an index to be searched) is passed over. A choice, not a search: nothing is trained to make it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from recspark.config import Run
from recspark.lake.arrow import find_done

FEW_EVENTS = 5_000
"""Train events below which vectors have little to learn from that counts do not say."""
TOWER_USERS = 10_000
"""Users below which an epoch is too few batches for a tower to learn how to read histories."""
FULL_ITEMS = 100_000
"""Items up to which a user-item graph and a softmax over all of them are a matter of minutes."""


@dataclass(frozen=True)
class Shape:
    """What of the data decides; of an edge list only that there are no users."""

    num_users: int = 0
    num_items: int = 0
    num_events: int = 0
    has_order: bool = False
    item_features: tuple[str, ...] = ()

    def describe(self) -> str:
        """In words."""
        order = "in order" if self.has_order else "without order"
        sizes = f"{self.num_users:,} users, {self.num_items:,} items, {self.num_events:,} train events {order}"
        return sizes + (f", item features {', '.join(self.item_features)}" if self.item_features else "")


@dataclass(frozen=True)
class Choice:
    """A kind, the ``settings`` it needs on top (``key=value``), and the reason in words."""

    kind: str
    why: str
    more: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """Overrides."""
        return [f"model.kind={self.kind}", *self.more]


def find_shape(run: Run) -> Shape | None:
    """The shape of a run's data; None where `sessions` is not done yet."""
    config = run.config
    if config.source.kind == "edges":
        return Shape()
    done = find_done(run.lake, run.stages["sessions"])
    if done is None:
        return None
    counts = done[1].counts
    names = tuple(f.name for f in config.features if f.of == "item" and f.kind != "text")
    return Shape(
        counts["num_users"], counts["num_active_items"], counts["events"].get("train", 0),
        config.source.order != "none", names,
    )  # fmt: skip


def list_choices(shape: Shape) -> Iterator[Choice]:
    """Kinds in order of preference, the best first; the last fits any data."""
    if not shape.num_users:
        yield Choice("skip_gram", "a graph without users: skip-gram on walks over it", ("training.corpus=walks",))
        return
    if shape.num_events < FEW_EVENTS:
        yield Choice("item_knn", f"fewer than {FEW_EVENTS:,} train events: counts say as much as vectors could learn")
    if shape.item_features:
        more = (f"model.towers.item.features=[{', '.join(shape.item_features)}]",)
        yield Choice("two_tower", "items have features, which place new ones too", more)
    if shape.has_order and shape.num_users >= TOWER_USERS:
        yield Choice("two_tower", "events have an order, and towers read histories by it")
    if shape.num_users + shape.num_items <= FULL_ITEMS:
        why = f"fewer than {TOWER_USERS:,} users" if shape.has_order else "sets without order"
        yield Choice("light_gcn", f"{why}, no more than {FULL_ITEMS:,} users and items together")
    yield Choice(
        "two_tower",
        "too many users and items for a graph of all of them",
        ("model.towers.user.history.pooling=mean",),
    )
    yield Choice("skip_gram", "what the config allows: skip-gram on walks")
