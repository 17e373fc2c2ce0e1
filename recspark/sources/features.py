"""Item and user features: from their own files to typed columns ``f_<name>``, joined by id.

    movieId,title,genres                        item_id  f_genre                  f_title
    1,Toy Story (1995),Adventure|Animation  ->  "1"      ["Adventure","Animation"] "Toy Story (1995)"

categorical and text: string; multi: array<string>; numeric: float; vector: array<float>. Ids are compared as text.
"""

from functools import reduce

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.source import FeatureConfig
from recspark.contracts import columns as c
from recspark.errors import SourceError
from recspark.lake.source_state import feature_key
from recspark.logs import log
from recspark.sources.attributes import ATTRIBUTES, build_item_attributes
from recspark.sources.delta import read_version
from recspark.sources.files import read_frame
from recspark.sources.planted import PlantedWorld
from recspark.sources.privacy import hide_key
from recspark.sources.problems import is_blank
from recspark.sources.rows import BAD_LINE_READ, mend_text, quoted, reading
from recspark.sources.rules import number_text
from recspark.sources.wanted import (
    SYNTHETIC,
    check_columns,
    check_synthetic_feature,
    feature_columns,
    group_features,
    name_features,
)

_SHOWN_CHARS = 200


def read_item_features(spark: SparkSession, run: Run) -> DataFrame | None:
    """One row an item that any feature source knows: ``item_id`` and ``f_<name>`` columns; None without features."""
    return _read_features(spark, run, "item", c.ITEM_ID)


def read_user_features(spark: SparkSession, run: Run) -> DataFrame | None:
    """One row a user that any feature source knows: ``user_id`` and ``f_<name>`` columns; None without features."""
    return _read_features(spark, run, "user", c.USER_ID)


def add_item_features(items: DataFrame, features: DataFrame | None, run: Run) -> DataFrame:
    """Items with their features; ids without a value get the feature's ``missing``."""
    return _add_features(items, features, run, "item", c.ITEM_ID)


def add_user_features(users: DataFrame, features: DataFrame | None, run: Run) -> DataFrame:
    """Users with their features; ids without a value get the feature's ``missing``."""
    return _add_features(users, features, run, "user", c.USER_ID)


def _features_of(run: Run, owner: str) -> list[FeatureConfig]:
    return [feature for feature in run.config.features if feature.of == owner]


def _read_features(spark: SparkSession, run: Run, owner: str, id_column: str) -> DataFrame | None:
    """The features of each file read in one go, files joined by id."""

    groups = group_features(_features_of(run, owner))
    frames = [_read_one_source(spark, run, group, id_column) for group in groups]
    return reduce(lambda left, right: left.join(right, id_column, "full"), frames) if frames else None


def _read_one_source(spark: SparkSession, run: Run, features: list[FeatureConfig], id_column: str) -> DataFrame:
    """The typed columns of features that share path and key; of an id that comes twice, the smallest value counts."""
    where = name_features(features)
    may_quote = run.config.source.privacy is None
    with reading(where, run.lake, may_quote):
        frame = mend_text(_read_frame(spark, run, features[0]))
        names = [name for name in frame.columns if name != BAD_LINE_READ]
        check_columns(names, feature_columns(features), where)
    if BAD_LINE_READ in frame.columns:
        with reading(where, run.lake, may_quote):
            _check_lines(frame, where, run.config.source.max_bad_ratio, may_quote)
        frame = frame.where(F.col(BAD_LINE_READ).isNull())
    identifier = hide_key(quoted(features[0].key).cast("string"), run.config.source, features[0].of)
    typed = frame.select(identifier.alias(id_column), *[_typed(f).alias(_stored(f)) for f in features])
    known = typed.where(F.col(id_column).isNotNull() & ~is_blank(F.col(id_column)))
    return known.groupBy(id_column).agg(*[F.min(_stored(f)).alias(_stored(f)) for f in features])


def _check_lines(frame: DataFrame, where: str, max_bad_ratio: float, may_quote: bool) -> None:
    """Says how many lines cannot be parsed, which are left out; one of them where it ``may_quote``.

    Raises: SourceError for more than ``source.max_bad_ratio`` of them.
    """
    is_bad = F.col(BAD_LINE_READ).isNotNull()
    # All columns: of fewer, Spark would parse less of a line, and none but the last it refuses.
    everything = F.bit_xor(F.xxhash64(*[quoted(name) for name in frame.columns]))
    sums = frame.agg(F.count(F.lit(1)), F.count_if(is_bad), F.min(BAD_LINE_READ), everything)
    lines, bad, example, _ = sums.collect()[0]
    if not bad:
        return
    shown = f", such as {example[:_SHOWN_CHARS]!r}" if may_quote else ""
    found = f"{where}: {bad:,} of {lines:,} lines cannot be parsed{shown}"
    if bad > max_bad_ratio * lines:
        raise SourceError(f"{found}: above source.max_bad_ratio {max_bad_ratio:g}; mend the file, or raise it")
    log("sessions", f"{found}; they are left out")


def _read_frame(spark: SparkSession, run: Run, feature: FeatureConfig) -> DataFrame:
    if feature.path == SYNTHETIC:
        return _read_synthetic(spark, run, feature)
    if feature.format == "delta":
        version = run.source["feature_versions"][feature.path]
        return read_version(spark, feature.path, version, feature_key(feature.name))
    return read_frame(spark, feature.path, feature.format, key=feature_key(feature.name))


def _read_synthetic(spark: SparkSession, run: Run, feature: FeatureConfig) -> DataFrame:
    """The generator's item attributes, from the driver: one row an item."""
    check_synthetic_feature(run.config.source, feature)
    world = PlantedWorld(run.config.source.synthetic, run.seed)
    attributes = build_item_attributes(world)
    types = [pa.float64() if name == "price" else pa.string() for name in ATTRIBUTES]
    table = pa.table([pa.array(attributes[n], t) for n, t in zip(ATTRIBUTES, types, strict=True)], list(ATTRIBUTES))
    return spark.createDataFrame(table)


def _stored(feature: FeatureConfig) -> str:
    return f"{c.FEATURE_PREFIX}{feature.name}"


def _typed(feature: FeatureConfig) -> Column:
    return _as_type(quoted(feature.column).cast("string"), feature)


def _as_type(text: Column, feature: FeatureConfig) -> Column:
    """A text as the feature's type; blank ones and unreadable numbers are NULL."""
    present = F.when(~is_blank(text), text)
    if feature.kind == "numeric":
        return number_text(present).cast("float")
    if feature.kind == "vector":
        return _numbers(present)
    if feature.kind == "multi":
        parts = F.transform(F.split(present, F.lit(_literal(feature.separator))), lambda part: F.trim(part))
        return F.array_distinct(F.filter(parts, lambda part: part != ""))
    return present


def _numbers(text: Column) -> Column:
    """A text such as "0.1 0.2" or "[0.1, 0.2]", or a list cast to one, as array<float>; NULL where a part is none."""
    inner = F.trim(F.regexp_replace(text, r"^\s*\[|\]\s*$", ""))
    numbers = F.transform(F.split(inner, r"[\s,;]+"), lambda part: number_text(part).cast("float"))
    return F.when(~F.exists(numbers, lambda number: number.isNull()), numbers)


def _literal(separator: str) -> str:
    """A separator as a Java regular expression that means just that."""
    return r"\Q" + separator + r"\E"


def _add_features(frame: DataFrame, features: DataFrame | None, run: Run, owner: str, id_column: str) -> DataFrame:
    if features is None:
        return frame
    joined = frame.join(features, id_column, "left")
    filled = {
        _stored(f): F.coalesce(F.col(_stored(f)), _as_type(F.lit(f.missing), f))
        for f in _features_of(run, owner)
        if f.missing is not None
    }
    return joined.withColumns(filled) if filled else joined
