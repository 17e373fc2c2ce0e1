"""A cheap look at the source and the features before any JVM starts: are the files what the config says they are?

    source.columns.user_id: userid over a header "userId,movieId,timestamp"
      ->  source.columns.user_id: no column 'userid'; did you mean 'userId'? (columns there: userId, movieId, timestamp)

It reads first lines, Parquet footers and the schema of a Delta table. It refuses nothing that Spark would read: where
the first lines cannot tell (a key of JSON lines may come later, a compression that pyarrow has not), Spark will.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from deltalake.exceptions import DeltaError

from recspark.config.schema import RunConfig
from recspark.config.source import FeatureConfig, SourceConfig
from recspark.errors import SourceError
from recspark.lake.source_state import SOURCE_KEY, feature_key, list_files, open_delta
from recspark.logs import log
from recspark.sources.attributes import ATTRIBUTES
from recspark.sources.file_columns import Columns, find_columns, texts
from recspark.sources.wanted import (
    SYNTHETIC,
    SYNTHETIC_NAMES,
    QuotingError,
    check_columns,
    check_number_times,
    check_synthetic_feature,
    feature_columns,
    group_features,
    lacking_column,
    name_features,
    name_source,
    source_columns,
)


def look_at_source(config: RunConfig) -> None:
    """Checks what can be told of the source and the features without Spark.

    Raises: SourceError with every problem: files that are missing, empty, damaged or of another format, columns that
    are not there, times in numbers without a unit.
    """
    problems = [*_look(config.source), *_look_at_features(config)]
    if len(problems) == 1:
        raise SourceError(problems[0])
    if problems:
        raise SourceError("\n  ".join([f"the source has {len(problems)} problems:", *problems]))


def _look(source: SourceConfig) -> Iterator[str]:
    where = name_source(source)
    try:
        _check_places(source)
        found = _source_columns(source, where)
        if found is None:
            return
        check_columns(found, source_columns(source), where)
        time = source.columns.ts
        if source.kind in ("files", "delta") and time and _is_number(found[time]):
            check_number_times(source, time, str(found[time]))
    except SourceError as error:
        yield _tell(error, source)


def _tell(error: SourceError, source: SourceConfig) -> str:
    """The message, without what may be somebody's row where ids are hidden."""
    return error.unquoted if source.privacy and isinstance(error, QuotingError) else str(error)


def _check_places(source: SourceConfig) -> None:
    """Checks that no hidden id stands in the name of a file, which quarantine and records hold.

    Raises: SourceError naming the column.
    """
    if not source.hidden_columns:
        return
    assert source.path
    if source.kind == "delta":
        places = set(open_delta(source.path, source.version).metadata().partition_columns)
    else:
        parts = (part for name, _, _ in list_files(source.path) for part in name.split("/")[:-1])
        places = {part.partition("=")[0] for part in parts if "=" in part}
    for key, column in source.hidden_columns.items():
        if column in places:
            raise SourceError(
                f"{key}: column {column!r} stands in the names of folders ({column}=...), which quarantine and records "
                f"quote, so that source.privacy cannot hide it; write it into the files instead"
            )


def _look_at_features(config: RunConfig) -> Iterator[str]:
    for owner in ("item", "user"):
        for features in group_features(f for f in config.features if f.of == owner):
            where = name_features(features)
            try:
                found = _feature_columns(config.source, features, where)
                if found is not None:
                    check_columns(found, feature_columns(features), where)
            except SourceError as error:
                yield _tell(error, config.source)


def _source_columns(source: SourceConfig, where: str) -> Columns | None:
    """The columns of the source, None where only Spark can tell."""
    if source.kind == SYNTHETIC:
        return texts(SYNTHETIC_NAMES)
    assert source.path
    if source.kind == "delta":
        return _delta_columns(source.path, source.version, SOURCE_KEY)
    assert source.format
    found = find_columns(source.path, source.format, source.separator, SOURCE_KEY, where)
    wanted = source_columns(source)
    if found is None or not (found.is_all or found.types.keys() >= set(wanted.values())):
        return None
    for key, column in wanted.items():
        if column in found.lack:
            log("ingest", lacking_column(key, column, found.lack[column], found.num_files))
    return found.types


def _feature_columns(source: SourceConfig, features: Sequence[FeatureConfig], where: str) -> Columns | None:
    feature = features[0]
    key = feature_key(feature.name)
    if feature.path == SYNTHETIC:
        check_synthetic_feature(source, feature)
        return texts(ATTRIBUTES)
    if feature.format == "delta":
        return _delta_columns(feature.path, None, key)
    found = find_columns(feature.path, feature.format, ",", key, f"{key} {feature.path}", may_be_empty=True)
    return found.types if found is not None and found.is_all else None


def _delta_columns(path: str, version: int | None, key: str) -> Columns | None:
    table = open_delta(path, version, key)
    try:
        schema = pa.schema(table.schema().to_arrow())
    except (DeltaError, pa.ArrowException):  # a type that is newer than this delta-rs
        return None
    return dict(zip(schema.names, schema.types, strict=True))


def _is_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found))
