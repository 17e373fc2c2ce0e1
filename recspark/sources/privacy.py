"""Source rows with hidden ids: the keyed hash stands in their place before anything else sees them.

row {u: "ann@x.org", i: "85123A", t: "soon", note: "call her"}, bad_line NULL
  ->  row {u: "5f0c...", i: "85123A", t: "xxxx", _others: "77ab..."}, bad_line NULL
row {u: "ann@x.org", i: NULL, ...}, bad_line "ann@x.org,8512"
  ->  row {u: "5f0c...", i: NULL, ...}, bad_line "hmac-sha256 9c1e..., 14 bytes"

What hangs on ids as found, rules and the checks of ids, is judged here and stands in columns of its own. What cannot be
read keeps its shape alone: in a row whose columns have moved, a time may be somebody's name.

Spark has sha2 and could hash by itself; but the key would be a literal of its plans, which stand in the UI and in event
logs. Inside a Python function it is in none of them, and no environment of an executor has to hold it.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from recspark.config.source import SourceConfig
from recspark.contracts import columns as c
from recspark.contracts.hidden_ids import hide_all
from recspark.sources.mapping import event_time
from recspark.sources.problems import first_problem, flaw_name, id_problems, is_blank
from recspark.sources.rows import BAD_LINE, ROW, source_column, source_names, source_type
from recspark.sources.rules import judge_rules, number_text, struct_text
from recspark.sources.wanted import DIGIT_SHAPE, LETTER_SHAPE

Hide = Callable[[Column], Column]
OTHERS = "_others"
"""Stands in a row for all columns that are not mapped."""


def hide_events(rows: DataFrame, source: SourceConfig) -> DataFrame:
    """Rows in the common shape without an id as found; the rows as they are where `privacy` is off.

    Raises: ConfigError when the key is not set here.
    """
    if source.privacy is None:
        return rows
    columns = source.columns
    is_readable = {name: F.lit(True) for name in (columns.item_id, columns.event_type) if name}
    if name := columns.ts or columns.position:
        is_readable[name] = event_time(rows, source, columns).isNotNull()
    if columns.weight:
        is_readable[columns.weight] = _is_number(columns.weight)
    if columns.split:
        is_readable[columns.split] = _text(columns.split).isin(*c.SPLITS)
    ids = {c.USER_ID: columns.user_id, c.ITEM_ID: columns.item_id}
    return _hide_rows(rows, source, ids, is_readable)


def hide_edges(rows: DataFrame, source: SourceConfig) -> DataFrame:
    """Edges without a node as found; the rows as they are where `privacy` is off.

    Raises: ConfigError when the key is not set here.
    """
    if source.privacy is None:
        return rows
    weight = source.weight_column
    is_readable = {} if weight is None else {weight: _is_number(weight)}
    return _hide_rows(rows, source, {c.SRC: source.src_column, c.DST: source.dst_column}, is_readable)


def hide_key(identifier: Column, source: SourceConfig, owner: str) -> Column:
    """The join key of features, hidden where the ids of its owner (``user``, ``item``) are.

    Raises: ConfigError when the key is not set here.
    """
    if source.privacy is None or not source.privacy.hides(owner):
        return identifier
    return _hide_text(identifier, make_hide(source.privacy.read_key()))


def describe_privacy(source: SourceConfig) -> dict[str, Any]:
    """What a marker's facts say of the key; nothing where no id is hidden."""
    if source.privacy is None:
        return {}
    return {"id_key": {"variable": source.privacy.key_name, "fingerprint": source.privacy.fingerprint}}


def make_hide(key: bytes) -> Hide:
    """The keyed hash as a function of binary columns; NULL of NULL."""

    def hide(found: pa.Array) -> pa.Array:
        return hide_all(key, found)

    return F.arrow_udf(hide, StringType())  # type: ignore[attr-defined, no-any-return]  # the stubs lack it


def _hide_rows(rows: DataFrame, source: SourceConfig, ids: dict[str, str], is_readable: dict[str, Column]) -> DataFrame:
    """``ids`` are the columns whose flaws are judged, by the name that reasons give them."""
    assert source.privacy
    hide = make_hide(source.privacy.read_key())
    hidden = frozenset(source.hidden_columns.values())
    flaws = [
        first_problem(id_problems(part, source.max_id_bytes, _text(name))).alias(flaw_name(part))
        for part, name in ids.items()
        if name in hidden
    ]
    row, line = _hide_values(rows, hidden, is_readable, hide), _hide_line(F.col(BAD_LINE), hide)
    return rows.select(row.alias(ROW), line.alias(BAD_LINE), c.SOURCE_FILE, *flaws, *judge_rules(source.rules))


def _hide_values(rows: DataFrame, hidden: frozenset[str], is_readable: dict[str, Column], hide: Hide) -> Column:
    """The row: ids hidden, mapped columns shown, all others hidden as one."""
    values, others = [], []
    for name in source_names(rows):
        if name in hidden:
            values.append(_hide_text(_text(name), hide).alias(name))
        elif name in is_readable:
            values.append(_show(rows, name, is_readable[name]).alias(name))
        else:
            others.append(source_column(name).alias(name))
    if others:
        values.append(hide(struct_text(F.struct(*others)).cast("binary")).alias(OTHERS))
    return F.struct(*values)


def _hide_line(line: Column, hide: Hide) -> Column:
    """A line that could not be parsed, which holds ids anywhere; NULL of NULL."""
    size = F.octet_length(line).cast("string")
    return F.concat(F.lit("hmac-sha256 "), hide(line.cast("binary")), F.lit(", "), size, F.lit(" bytes"))


def _hide_text(text: Column, hide: Hide) -> Column:
    """Hidden ids; NULL and blank ones, which are none, as they are."""
    return F.when(is_blank(text), text).otherwise(hide(text.cast("binary")))


def _show(rows: DataFrame, name: str, is_readable: Column) -> Column:
    """A value that the mapping reads; of a text that it cannot read the shape: letters x, digits #."""
    value = source_column(name)
    if not isinstance(source_type(rows, name), StringType):
        return value
    shape = F.regexp_replace(F.regexp_replace(value, r"\p{L}", LETTER_SHAPE), r"\p{N}", DIGIT_SHAPE)
    return F.when(F.coalesce(is_readable, F.lit(False)), value).otherwise(shape)


def _text(name: str) -> Column:
    return source_column(name).cast("string")


def _is_number(name: str) -> Column:
    return number_text(_text(name)).isNotNull()
