"""What a config wants of its source, and the words that say it is not there: the same before Spark starts and in it."""

import difflib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from recspark.contracts import columns as c
from recspark.errors import SourceError
from recspark.sources.attributes import ATTRIBUTES

if TYPE_CHECKING:  # Spark's workers come by here, and need no pydantic
    from recspark.config.source import ColumnMap, DropRule, FeatureConfig, SourceConfig

SYNTHETIC = "synthetic"
SYNTHETIC_NAMES = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.TS, c.EVENT_TYPE, c.WEIGHT)
"""The columns of the generator's rows, called by the parts they play: the config's column map is for other sources."""

EPOCH_UNITS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000}
"""Microseconds a unit."""

DIGIT_SHAPE, LETTER_SHAPE = "#", "x"
"""What stands for digits and letters of values that only show their shape."""

UNREADABLE_TIME = "unreadable_time"
"""The reason of rows whose time is no time."""
IMPOSSIBLE_TIME = "impossible_time"
"""The reason of rows whose time is before `source.earliest` or not before `source.latest`."""

_EPOCH_DIGITS, _SECONDS_DIGITS = 9, 11
"""A count of seconds has 9 digits from 1973 on and no more than 11 up to the year 5138; 20260216 is a date."""
_SHOWN_CHARS = 40

DAMAGED = "it is damaged or cut short; replace or remove it"
NANOSECONDS = "Spark reads no nanosecond times; write it with microseconds (pandas: coerce_timestamps='us')"


class QuotingError(SourceError):
    """It quotes column names: the first line of a file, which without a header is somebody's row.

    ``unquoted`` says the same without them, for sources whose ids are hidden.
    """

    def __init__(self, message: str, unquoted: str) -> None:
        super().__init__(message)
        self.unquoted = unquoted


def name_source(source: "SourceConfig") -> str:
    """Where messages say a problem is."""
    return f"source.path {source.path}" if source.path else f"source.kind {source.kind}"


def source_columns(source: "SourceConfig") -> dict[str, str]:
    """The columns that a source has to have, by the config key that names them."""
    if source.kind == "edges":
        wanted = {"source.src_column": source.src_column, "source.dst_column": source.dst_column}
        if source.weight_column is not None:
            wanted["source.weight_column"] = source.weight_column
        return wanted | rule_columns(source.rules)
    if source.kind == SYNTHETIC:
        return rule_columns(source.rules)
    return event_columns(source.columns, source.rules)


def event_columns(columns: "ColumnMap", rules: "Sequence[DropRule]") -> dict[str, str]:
    """The columns of a column map and of the rules, by the config key that names them."""
    return {f"source.columns.{part}": name for part, name in columns if name is not None} | rule_columns(rules)


def rule_columns(rules: "Sequence[DropRule]") -> dict[str, str]:
    """The columns that rules test, by the place in the config that names them."""
    return {f"source.rules ({rule.name})": rule.column for rule in rules if rule.column}


def group_features(features: "Iterable[FeatureConfig]") -> "list[list[FeatureConfig]]":
    """Features that are read together: those that share path, format and key."""

    def place(feature: "FeatureConfig") -> tuple[str, str, str]:
        return feature.path, feature.format, feature.key

    return [list(group) for _, group in groupby(sorted(features, key=place), key=place)]


def name_features(features: "Sequence[FeatureConfig]") -> str:
    """Where messages say a problem of features read together is."""
    return f"features ({', '.join(f.name for f in features)}), path {features[0].path}"


def feature_columns(features: "Sequence[FeatureConfig]") -> dict[str, str]:
    """The columns that features read together have to have."""
    return {"key": features[0].key} | {f"column of {f.name}": f.column for f in features}


def check_columns(found: Iterable[str], wanted: dict[str, str], where: str) -> None:
    """Checks that the columns a config names are there; ``wanted`` maps config keys to column names.

    Raises: QuotingError naming all that are missing, close matches, and those that exist.
    """
    names = list(found)
    missing = {key: name for key, name in wanted.items() if name not in names}
    if not missing:
        return
    by_lower = {n.lower(): n for n in names}
    lines = []
    plain = "; ".join(f"{key}: no column {name!r}" for key, name in missing.items())
    for key, name in missing.items():
        near = difflib.get_close_matches(name.lower(), list(by_lower), 1, 0.6)
        lines.append(f"{key}: no column {name!r}" + (f"; did you mean {by_lower[near[0]]!r}?" if near else ""))
    raise QuotingError(
        f"{where}: {'; '.join(lines)} (columns there: {', '.join(names)})",
        f"{where}: {plain} among {len(names)} columns, which are not named as source.privacy is on and a file without "
        f"a header begins with somebody's row",
    )


def check_number_times(source: "SourceConfig", column: str, found: str) -> None:
    """Checks that a time column of numbers comes with its unit; ``found`` is its type.

    Raises: SourceError for a number without a unit in ``source.timestamp_format``.
    """
    if source.timestamp_format not in EPOCH_UNITS:
        raise SourceError(
            f"source.columns.ts: column {column!r} holds numbers ({found}), but source.timestamp_format is "
            f"{source.timestamp_format!r}; set it to epoch_seconds or epoch_millis"
        )


def explain_times(source: "SourceConfig", found: Sequence[str]) -> str:
    """What is said of times that cannot be read: some of them, what they were read as, and what to set instead."""
    texts = [text.strip().replace(DIGIT_SHAPE, "0") for text in found]
    if all(text.isdigit() and len(text) >= _EPOCH_DIGITS for text in texts):
        hint = "epoch_millis" if all(len(text) > _SECONDS_DIGITS for text in texts) else "epoch_seconds"
    else:
        hint = "a Spark datetime pattern such as d/M/yyyy H:mm or yyyyMMdd"
    wanted = source.timestamp_format or "not set: ISO 8601 such as 2026-02-16 12:00:00"
    shown = ", ".join(repr(text[:_SHOWN_CHARS]) for text in found)
    return (
        f"Times in column {source.columns.ts!r} such as {shown} do not fit source.timestamp_format ({wanted}); "
        f"set it to {hint}"
    )


def explain_bounds(source: "SourceConfig", found: Sequence[str]) -> str:
    """What is said of times that are out of bounds: some of them, the bounds, and the unit they may be in instead."""
    texts = [text.strip() for text in found]
    are_seconds = all(text.isdigit() and _EPOCH_DIGITS <= len(text) <= _SECONDS_DIGITS for text in texts)
    is_other_unit = source.timestamp_format == "epoch_millis" and are_seconds
    hint = "set source.timestamp_format to epoch_seconds" if is_other_unit else "mend them"
    shown = ", ".join(repr(text[:_SHOWN_CHARS]) for text in texts)
    return (
        f"Times in column {source.columns.ts!r} such as {shown} are out of bounds (source.earliest {source.earliest} "
        f"to source.latest {source.latest}): {hint}, or move the bounds where these times are right"
    )


def check_synthetic_feature(source: "SourceConfig", feature: "FeatureConfig") -> None:
    """Checks that the generator's attributes go with the source.

    Raises: SourceError for another source, or a feature of users.
    """
    if source.kind != SYNTHETIC or feature.of != "item":
        raise SourceError(
            f"features ({feature.name}): path synthetic holds the generator's item attributes "
            f"({', '.join(ATTRIBUTES)}); it goes with source.kind synthetic and `of: item`"
        )


def no_line(where: str) -> SourceError:
    """The error for files without a single line."""
    return SourceError(f"{where}: the source is empty: no file there has a line; give one with rows")


def no_rows(where: str) -> SourceError:
    """The error for a source without a row."""
    return SourceError(f"{where}: the source is empty: 0 rows; check the path and the columns")


def no_json(where: str) -> SourceError:
    """The error for files that hold no JSON object."""
    return SourceError(f"{where}: no line there is a JSON object; check source.format")


def unreadable_file(file: str, cause: str, advice: str = DAMAGED) -> str:
    """What is said of one file that no reader can open."""
    return f"{file} cannot be read ({cause}): {advice}"


def lacking_column(key: str, column: str, lacking: Sequence[str], num_files: int) -> str:
    """What is said of a column that some files have and others have not: rules and mapping find nothing there."""
    return (
        f"column {column!r} ({key}) is missing in {len(lacking):,} of {num_files:,} files, such as {lacking[0]}: "
        f"their rows count as rows without a value"
    )


def gone_file(file: str) -> str:
    """What is said of a file that was there when the run was planned."""
    return f"{file} is gone since it was listed; restore it, or run again to take the source as it is now"


def retyped_column(column: str, wanted: str, in_file: str, found: str, other: str) -> str:
    """What is said of a column that has one type in a file and another one in the next."""
    return (
        f"files disagree about column {column!r}: {wanted} in {in_file}, {found} in {other}; write it with one type, "
        f"or read the files as separate sources"
    )
