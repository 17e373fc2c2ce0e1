"""Section ``source``: where events come from and how their columns are read."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from recspark.config.privacy import PrivacyConfig
from recspark.config.section import IsoDay, Section, TimeZone

Share = Annotated[float, Field(ge=0, le=1)]


class ColumnMap(Section):
    """Which source column plays which part; a part without a column is absent."""

    user_id: str = "user_id"
    """Who acted; a session id may serve where there are no users."""
    item_id: str = "item_id"
    """What was acted on."""
    ts: str | None = None
    """When; leave out and set `position` for ordered sources without time, or neither for unordered ones."""
    position: str | None = None
    """Order inside a user (integer) where there is no time: ts becomes the epoch + position seconds."""
    event_id: str | None = None
    """A unique id of the event; by default a hash of the mapped columns."""
    event_type: str | None = None
    """View, click, purchase, ...; see `source.default_event_type`."""
    weight: str | None = None
    """A number >= 0 the event counts for; 1 by default."""
    basket_id: str | None = None
    """Order, invoice or visit; sessions may be cut by it (`sessions.group_by: basket`)."""
    split: str | None = None
    """train, valid, test or context, for `split.kind: given`."""


class DropRule(Section):
    """A named filter on source columns, before the mapping; rows it takes are counted under its name.

    Exactly one test is given. Text tests see the column as text; a NULL matches only `is_null`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Shown in the counts of the report."""
    column: str | None = None
    """The source column tested; not used by `duplicates`."""
    is_null: bool | None = None
    """true: drop rows where the column is NULL or blank."""
    starts_with: str | None = None
    """Drop rows whose text starts with this."""
    matches: str | None = None
    """Drop rows whose text matches this regular expression (Java syntax) as a whole."""
    not_matches: str | None = None
    """Drop rows whose text does not match this regular expression as a whole."""
    one_of: tuple[str, ...] | None = None
    """Drop rows whose text is one of these."""
    less_than: float | None = None
    """Drop rows whose number is below this."""
    greater_than: float | None = None
    """Drop rows whose number is above this."""
    duplicates: bool | None = None
    """true: keep one of each set of rows that agree in every source column."""

    @model_validator(mode="after")
    def _check_one_test(self) -> "DropRule":
        tests = [n for n in type(self).model_fields if n not in ("name", "column") and getattr(self, n) is not None]
        if len(tests) != 1:
            raise ValueError(f"rule {self.name!r} needs exactly one test, got {', '.join(tests) or 'none'}")
        if (self.column is None) != (tests[0] == "duplicates"):
            raise ValueError(f"rule {self.name!r}: `column` goes with every test but `duplicates`")
        return self


class SyntheticSource(Section):
    """The built-in generator: users with tastes, clustered items, sessions with planted transitions."""

    num_users: PositiveInt = 4000
    """Users, each with a few favourite clusters."""
    num_items: PositiveInt = 2000
    """Items, Zipf-popular inside their clusters."""
    num_clusters: PositiveInt = 40
    """Item clusters (genres); an item attribute."""
    sessions_per_user: PositiveFloat = 12.0
    """Mean sessions a user over the whole time."""
    session_length: Annotated[float, Field(gt=1)] = 7.0
    """Mean events a session."""
    num_days: PositiveInt = 56
    """Days covered, from `start`."""
    start: IsoDay = "2026-01-05"
    """First UTC day."""
    popularity_exponent: NonNegativeFloat = 0.6
    """Zipf exponent of item popularity inside a cluster."""
    transition_share: Share = 0.6
    """Share of steps that follow a planted successor of the last items; the rest are drawn from the user's tastes."""
    num_successors: PositiveInt = 8
    """Planted successors an item."""
    dirty_share: Share = 0.01
    """Share of rows made bad on purpose: missing ids, impossible times, unreadable numbers; all get quarantined."""
    bot_share: Share = 0.001
    """Share of users that are bots with floods of events."""
    num_partitions: PositiveInt | None = None
    """Spark partitions that generate; the events are the same for any number."""


def _check_separator(text: str) -> str:
    """One character; a backslash and a t, as YAML's single quotes leave them, are a tab."""
    separator = "\t" if text == r"\t" else text
    if len(separator) != 1 or separator in '"\\\r\n':
        raise ValueError(f"expected one character such as ',' or ';', or '\\t' for a tab, got {text!r}")
    return separator


class SourceConfig(Section):
    """Where events come from."""

    kind: Literal["synthetic", "files", "delta", "edges"] = "synthetic"
    """synthetic: the generator. files: CSV, Parquet or JSON lines. delta: a Delta table. edges: an edge list."""
    path: str | None = None
    """File, folder, glob or URI; relative paths start at the working directory."""
    format: Literal["csv", "parquet", "jsonl"] | None = None
    """Of `files` and `edges`."""
    version: NonNegativeInt | None = None
    """Of a Delta table; the newest one when left out, and then recorded."""
    separator: Annotated[str, AfterValidator(_check_separator)] = ","
    """Of CSV: one character, or \\t for a tab."""
    columns: ColumnMap = ColumnMap()
    """The mapping from source columns."""
    timestamp_format: str | None = None
    """Spark datetime pattern of a text `ts`, or epoch_seconds, epoch_millis; ISO 8601 by default."""
    timezone: TimeZone = "UTC"
    """Time zone of times that carry none (IANA name)."""
    default_event_type: str = "event"
    """Event type where no column gives one."""
    rules: tuple[DropRule, ...] = ()
    """Named drop rules, applied and counted in this order: the first that takes a row counts it."""
    earliest: IsoDay = "1990-01-01"
    """Times before this day are impossible and quarantined."""
    latest: IsoDay = "2100-01-01"
    """Times from this day on are impossible and quarantined."""
    max_id_bytes: PositiveInt = 1024
    """Longer user or item ids are quarantined."""
    incremental: Literal["auto", "off"] = "auto"
    """auto: where files or Delta versions only came in, read those and go on from the newest earlier version. off:
    always build in full. The rows are the same, ids of items and users may be others."""
    max_bad_ratio: Share = 0.05
    """Above this share of quarantined rows the run stops before any commit."""
    src_column: str = "src"
    """Of an edge list."""
    dst_column: str = "dst"
    """Of an edge list."""
    weight_column: str | None = None
    """Of an edge list; 1 where left out."""
    directed: bool | None = None
    """Of an edge list, and required there: undirected edges are stored both ways."""
    num_neighbours: PositiveInt | None = None
    """Of an edge list: keep each node's best; all by default."""
    synthetic: SyntheticSource = SyntheticSource()
    """Of the generator."""
    privacy: PrivacyConfig | None = None
    """Hides ids behind a keyed hash; off by default."""

    @property
    def order(self) -> Literal["time", "position", "none"]:
        """What orders a user's events."""
        if self.kind == "synthetic" or self.columns.ts:
            return "time"
        return "position" if self.columns.position else "none"

    @property
    def hidden_columns(self) -> dict[str, str]:
        """The columns with ids that `privacy` hides, by the config key that names each."""
        if self.privacy is None:
            return {}
        hides_items = self.privacy.hides("item")
        if self.kind == "edges":
            ends = {"source.src_column": self.src_column, "source.dst_column": self.dst_column}
            return ends if hides_items else {}
        parts = ("user_id", "event_id", "basket_id", *(["item_id"] if hides_items else []))
        named = {f"source.columns.{part}": getattr(self.columns, part) for part in parts}
        return {key: column for key, column in named.items() if column is not None}


class FeatureConfig(Section):
    """One item or user feature, joined by id and stored as column ``f_<name>``."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Stored as f_<name>."""
    of: Literal["item", "user"] = "item"
    """Whose feature it is."""
    path: str
    """File or folder; `synthetic` for the generator's own item attributes."""
    format: Literal["csv", "parquet", "jsonl", "delta"] = "csv"
    """Of the path."""
    key: str
    """Join column: holds item ids or user ids."""
    column: str
    """The column with the value."""
    kind: Literal["categorical", "multi", "numeric", "vector", "text"] = "categorical"
    """multi: several values in one text, cut at `separator`. vector: numbers of one length, such as an embedding of a
    text or an image: a list, or a text of them between blanks, commas or semicolons. text: a name to show, not to learn
    from."""
    separator: str = "|"
    """Between the values of a `multi` feature."""
    missing: str | None = None
    """Value where the id has none; NULL by default."""
