"""Source rows to events: ids kept as text, times to UTC, a reason for each row that cannot be an event."""

import datetime as dt
import re

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from recspark.config.source import ColumnMap, SourceConfig
from recspark.errors import SourceError
from recspark.sources.mapping import check_mapping, map_rows
from recspark.sources.rows import as_rows
from tests.helpers.sources import map_table

pytestmark = pytest.mark.spark


def by_user(rows):
    return {r["user_id"]: r for r in rows}


def test_each_bad_row_gets_its_reason(spark):
    good = {"u": "ok", "i": "a", "t": "2020-01-02 03:04:05", "w": "2.5", "s": "train", "e": "0"}
    cases = {
        None: good,
        "missing_user_id": good | {"u": None},
        "blank_user_id": good | {"u": " \t\u2003"},
        "long_user_id": good | {"u": "\u00e4" * 6},  # 12 bytes, 6 characters
        "invalid_user_id": good | {"u": "a\x00b"},
        "missing_item_id": good | {"i": None},
        "blank_item_id": good | {"i": ""},
        "long_item_id": good | {"i": "12345678901"},
        "invalid_item_id": good | {"i": "caf\ufffd"},
        "missing_time": good | {"t": None},
        "unreadable_time": good | {"t": "2020-13-01"},
        "impossible_time": good | {"t": "1969-12-31"},
        "missing_weight": good | {"w": " "},
        "unreadable_weight": good | {"w": "NaN"},
        "negative_weight": good | {"w": "-0.5"},
        "unknown_split": good | {"s": "Train"},
        "missing_event_id": good | {"e": ""},
    }
    table = pa.Table.from_pylist(
        [row | {"e": row["e"] and str(n), "want": want or ""} for n, (want, row) in enumerate(cases.items())]
    )
    columns = {"user_id": "u", "item_id": "i", "ts": "t", "weight": "w", "split": "s", "event_id": "e"}
    found = map_table(spark, table, columns=columns, max_id_bytes=10)
    assert len(found) == len(cases)
    for row in found:
        if row["reason"] is None:
            assert (row["user_id"], row["item_id"], row["ts"], row["weight"]) == ("ok", "a", "2020-01-02T03:04:05", 2.5)
            assert (row["event_id"], row["split"], row["day"], row["raw"]) == ("0", "train", dt.date(2020, 1, 2), None)
        else:
            assert f'"want":"{row["reason"]}"' in row["raw"]
    assert sorted(str(r["reason"]) for r in found) == sorted(map(str, cases))


def test_weights_that_are_no_finite_numbers_are_refused(spark):
    bad = ["inf", "-Infinity", "1e39", "5f", "0x10", "1,5", "--1", "n/a"]
    good = {"1e-3": 1e-3, " 7 ": 7, "0": 0, ".5": 0.5}
    texts = [*bad, *good]
    table = pa.table({"u": [str(n) for n in range(len(texts))], "i": ["x"] * len(texts), "w": texts})
    found = by_user(map_table(spark, table, columns={"user_id": "u", "item_id": "i", "weight": "w"}))
    for number, text in enumerate(texts):
        row = found[str(number)]
        assert row["reason"] == ("unreadable_weight" if text in bad else None), text
        assert row["weight"] == (None if text in bad else pytest.approx(good[text]))


LONDON, TOKYO = {"timezone": "Europe/London"}, {"timezone": "Asia/Tokyo"}
TIMES: dict[str, tuple[dict[str, str], dict[object, str | None]]] = {
    "iso": (
        {},
        {
            "2020-01-02": "2020-01-02T00:00:00",
            "2020-01-02T03:04:05Z": "2020-01-02T03:04:05",
            "2020-07-02 03:04:05.25+02:00": "2020-07-02T01:04:05.25",
            "2020-01-02 03:04": "2020-01-02T03:04:00",
            "03:04": None,  # would be today
            "2020": None,
            "now": None,
            "2020-02-30": None,
        },
    ),
    "iso in London": (
        LONDON,
        {
            "2020-07-02 03:04:05": "2020-07-02T02:04:05",
            "2020-07-02T03:04:05Z": "2020-07-02T03:04:05",
            "2020-07-02": "2020-07-01T23:00:00",
            "2020-01-02 03:04:05": "2020-01-02T03:04:05",
            "2020-07-02 03:04:05 Asia/Tokyo": "2020-07-01T18:04:05",
        },
    ),
    "pattern": (
        {"timestamp_format": "dd.MM.yyyy HH:mm", **TOKYO},
        {"02.07.2020 03:04": "2020-07-01T18:04:00", "7/2/2020 3:04": None, "": None},
    ),
    "pattern with zone": (
        {"timestamp_format": "yyyy-MM-dd'T'HH:mmXXX", **TOKYO},
        {"2020-07-02T03:04+02:00": "2020-07-02T01:04:00", "2020-07-02T03:04": None},
    ),
    "seconds": (
        {"timestamp_format": "epoch_seconds"},
        {
            "964982703": "2000-07-30T18:45:03",
            "964982703.5": "2000-07-30T18:45:03.5",
            "9e99": None,
            "-1e30": None,
            "NaN": None,
            "soon": None,
            None: None,
        },
    ),
    "millis": (
        {"timestamp_format": "epoch_millis"},
        {964982703123: "2000-07-30T18:45:03.123", 9_223_372_036_854_775_807: None},
    ),
    "native": (LONDON, {dt.datetime(2020, 7, 2, 3, tzinfo=dt.UTC): "2020-07-02T03:00:00"}),
    "date": (TOKYO, {dt.date(2020, 7, 2): "2020-07-01T15:00:00"}),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_become_utc(spark, name):
    settings, cases = TIMES[name]
    expected = list(cases.values())
    ids = [str(n) for n in range(len(cases))]
    table = pa.table({"u": ids, "i": ids, "t": list(cases)})
    found = by_user(map_table(spark, table, columns={"user_id": "u", "item_id": "i", "ts": "t"}, **settings))
    assert [found[n]["ts"] for n in ids] == expected
    assert [found[n]["reason"] is None for n in ids] == [e is not None for e in expected]


def test_times_outside_the_bounds_are_impossible(spark):
    times = ["2019-12-31T23:59:59Z", "2020-01-01", "2020-12-31T23:59:59", "2021-01-01"]
    table = pa.table({"u": list("abcd"), "i": ["x"] * 4, "t": times})
    columns = {"user_id": "u", "item_id": "i", "ts": "t"}
    found = by_user(map_table(spark, table, columns=columns, earliest="2020-01-01", latest="2021-01-01"))
    assert [found[u]["reason"] for u in "abcd"] == ["impossible_time", None, None, "impossible_time"]


def test_positions_become_seconds_since_the_epoch(spark):
    table = pa.table({"u": list("abcdef"), "i": ["x"] * 6, "p": ["0", "86400.0", "-1", "1.5", "2147483648", None]})
    found = by_user(map_table(spark, table, columns={"user_id": "u", "item_id": "i", "position": "p"}))
    assert [found[u]["ts"] for u in "ab"] == ["1970-01-01T00:00:00", "1970-01-02T00:00:00"]
    assert {found[u]["reason"] for u in "cdef"} == {"unreadable_position"}


def test_ids_stay_what_they_were(spark):
    values = ["1", "01", "1.0", " 1", "\u00c5", "A\u030a"]
    table = pa.table({"a.b": values, "i": ["x"] * 6})
    found = map_table(spark, table, columns={"user_id": "a.b", "item_id": "i"})
    assert sorted(r["user_id"] for r in found) == sorted(values)
    assert len({r["event_id"] for r in found}) == 6
    assert {r["ts"] for r in found} == {"1970-01-01T00:00:00"}
    assert {(r["event_type"], r["weight"], r["basket_id"], r["split"]) for r in found} == {("event", 1.0, None, None)}


def test_event_ids_tell_all_values_apart_and_number_equal_events(spark):
    table = pa.Table.from_pylist(
        [{"u": "a", "i": "x", "k": k, "b": b} for k, b in [(None, "p"), ("p", None), (None, None), ("p", None)]]
    )
    columns = {"user_id": "u", "item_id": "i", "event_type": "k", "basket_id": "b"}
    found = map_table(spark, table, columns=columns)
    ids = [r["event_id"] for r in found]
    assert len(set(ids)) == 4
    assert sum(bool(re.fullmatch("[0-9a-f]{32}", i)) for i in ids) == 3
    assert sum(bool(re.fullmatch("[0-9a-f]{32}-2", i)) for i in ids) == 1
    again = map_table(spark, table.take([3, 1, 0, 2]), columns=columns)
    assert sorted(ids) == sorted(r["event_id"] for r in again)


def test_a_given_event_id_that_comes_again_is_quarantined(spark):
    table = pa.table({"u": ["a", "b", "c", None], "i": ["x"] * 4, "e": ["1", "1", "2", "2"]})
    columns = {"user_id": "u", "item_id": "i", "event_id": "e"}
    found = map_table(spark, table, columns=columns)
    assert sorted(str(r["reason"]) for r in found) == ["None", "None", "missing_user_id", "repeated_event_id"]
    kept = {r["user_id"] for r in found if r["reason"] is None}
    assert "c" in kept  # a bad row does not use up an id
    again = map_table(spark, table.take([2, 1, 0, 3]), columns=columns)
    assert {r["user_id"] for r in again if r["reason"] is None} == kept


def test_rows_without_their_event_id_do_not_meet_in_one_task(spark):
    table = pa.table({"u": [str(n) for n in range(200)], "i": ["a"] * 200, "e": pa.nulls(200, pa.string())})
    config = SourceConfig.model_validate(
        {
            "kind": "files",
            "path": "there",
            "format": "csv",
            "columns": {"user_id": "u", "item_id": "i", "event_id": "e"},
        }
    )
    spark.conf.set("spark.sql.adaptive.enabled", "false")  # it would join partitions as small as these
    try:
        mapped = map_rows(as_rows(spark.createDataFrame(table)), config, config.columns)
        # The reason is asked for, as Spark would leave the numbering out otherwise.
        tasks = mapped.groupBy(F.spark_partition_id().alias("task"), "reason").count().collect()
    finally:
        spark.conf.unset("spark.sql.adaptive.enabled")
    assert sum(t["count"] for t in tasks if t["reason"] == "missing_event_id") == 200
    assert max(t["count"] for t in tasks) < 150


def test_one_shuffle_serves_duplicates_and_event_ids(spark):
    source = SourceConfig.model_validate({
        "kind": "files", "path": "there", "format": "csv", "columns": {"user_id": "u", "item_id": "i"},
        "rules": [{"name": "twice", "duplicates": True}],
    })  # fmt: skip
    rows = as_rows(spark.createDataFrame(pa.table({"u": ["a"], "i": ["b"]})))
    plan = map_rows(rows, source, source.columns)._jdf.queryExecution().executedPlan().toString()
    assert len(re.findall(r"\bExchange\b", plan)) == 1


def check(spark, **source):
    config = SourceConfig.model_validate({"kind": "files", "path": "there", "format": "csv"} | source)
    rows = as_rows(spark.createDataFrame(pa.table({"CustomerID": ["1"], "StockCode": ["2"], "when": [3]})))
    check_mapping(rows, config, config.columns)
    map_rows(rows, config, config.columns)


def test_missing_columns_are_named_with_those_that_exist(spark):
    rules = [{"name": "returns", "column": "Qty", "less_than": 0}]
    with pytest.raises(SourceError) as error:
        check(spark, columns={"user_id": "customerid", "item_id": "Code", "ts": "at"}, rules=rules)
    assert str(error.value) == (
        "source.path there: source.columns.user_id: no column 'customerid'; did you mean 'CustomerID'?; "
        "source.columns.item_id: no column 'Code'; did you mean 'StockCode'?; source.columns.ts: no column 'at'; "
        "source.rules (returns): no column 'Qty' (columns there: CustomerID, StockCode, when)"
    )


def test_numbers_as_times_need_a_unit(spark):
    columns = ColumnMap(user_id="CustomerID", item_id="StockCode", ts="when").model_dump()
    message = r"column 'when' holds numbers \(bigint\), but source.timestamp_format is None; set it to epoch_seconds"
    with pytest.raises(SourceError, match=message):
        check(spark, columns=columns)
