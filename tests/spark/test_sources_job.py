"""Stage ingest from end to end: counts that add up, nothing committed when the source is bad, the real dirty data."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.config import load_config
from recspark.config.source import SyntheticSource
from recspark.errors import SourceError
from recspark.sources.job import ingest
from recspark.sources.planted import DIRT_KINDS, PlantedWorld, item_number, user_number
from recspark.sources.synthetic import read_synthetic
from tests.helpers.sources import has_tables, make_run, rows_and_record, write_lines

pytestmark = pytest.mark.spark

REASONS = {
    "missing_user": "missing_user_id", "missing_item": "missing_item_id", "blank_item": "blank_item_id",
    "long_item": "long_item_id", "invalid_user": "invalid_user_id", "unreadable_time": "unreadable_time",
    "impossible_time": "impossible_time", "unreadable_weight": "unreadable_weight",
    "negative_weight": "negative_weight",
}  # fmt: skip
SMALL = {"num_users": 120, "num_items": 60, "num_clusters": 5, "dirty_share": 0.04, "bot_share": 0.02}
COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t"}


def csv_source(path, **more):
    return {"kind": "files", "path": str(path), "format": "csv", "columns": COLUMNS} | more


def test_synthetic_events_are_the_planted_ones(spark, lake):
    run = make_run(lake, {"kind": "synthetic", "synthetic": SMALL}, run={"seed": 5})
    ingest(spark, run)
    events, record = rows_and_record(run, "events")
    planted = PlantedWorld(SyntheticSource.model_validate(SMALL), 5).build_events(range(120))
    clean = planted.dirt == 0
    expected = np.stack([planted.user, planted.item, planted.seconds], axis=1)[clean].tolist()
    found = sorted([user_number(e["user_id"]), item_number(e["item_id"]), int(e["ts"].timestamp())] for e in events)
    assert found == sorted(expected)
    assert len({e["event_id"] for e in events}) == len(events)
    assert {e["event_type"] for e in events} == {"view", "purchase"}
    dirt = Counter(REASONS[DIRT_KINDS[d]] for d in planted.dirt[~clean])
    assert record.counts["quarantined"] == dict(dirt)
    assert (record.counts["rows_in"], record.counts["kept"], record.counts["dropped"]) == (len(clean), clean.sum(), {})
    assert record.counts["days"] == len({e["day"] for e in events})
    assert record.facts == {"order": "time", "source": run.source}
    quarantine, _ = rows_and_record(run, "quarantine")
    assert Counter(q["reason"] for q in quarantine) == dirt
    key = run.stages["ingest"].key
    assert {(q["stage"], q["stage_key"], q["run_id"]) for q in quarantine} == {("ingest", key, run.run_id)}


def test_synthetic_rows_are_the_same_for_any_partitioning(spark, lake):
    found = []
    for number in (1, 3, 7):
        config = {"kind": "synthetic", "synthetic": SMALL | {"num_partitions": number}}
        rows = read_synthetic(spark, make_run(lake, config).config.source, 5)
        assert rows.rdd.getNumPartitions() == number
        found.append(rows.select("row.*").toArrow().sort_by("event_id"))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_rules_and_quarantine_add_up_and_reruns_replace_their_slice(spark, lake, tmp_path):
    header, test = "u,i,t,kind", "2,b,2020-01-02,test"
    same = ["1,a,2020-01-01,buy"] * 2
    write_lines(tmp_path / "in" / "a.csv", header, *same, test, "3,,2020-01-02,buy")
    good = ["5,d,2020-01-02T23:59:59Z,", "7,f,2020-01-01,"]
    write_lines(tmp_path / "in" / "b.csv.gz", header, "4,c,soon,buy", *good, "6,e")
    rules = [{"name": "tests", "column": "kind", "one_of": ["test"]}, {"name": "twice", "duplicates": True}]
    source = csv_source(tmp_path / "in", rules=rules, max_bad_ratio=0.5)
    run = make_run(lake, source)
    for _ in range(2):
        ingest(spark, run)
    events, record = rows_and_record(run, "events")
    assert record.counts == {
        "rows_in": 8, "kept": 3, "dropped": {"tests": 1, "twice": 1},
        "quarantined": {"missing_item_id": 1, "unparsable_line": 1, "unreadable_time": 1},
        "days": 2, "first_day": "2020-01-01", "last_day": "2020-01-02",
    }  # fmt: skip
    assert sorted(e["user_id"] for e in events) == ["1", "5", "7"]
    other = make_run(lake, source | {"default_event_type": "buy"})
    ingest(spark, other)
    quarantine, _ = rows_and_record(other, "quarantine")
    assert len(quarantine) == 6  # three of each key
    unparsable = [q for q in quarantine if q["reason"] == "unparsable_line"]
    assert [q["raw"] for q in unparsable] == ["6,e", "6,e"]
    assert unparsable[0]["source_file"].endswith("in/b.csv.gz")
    assert {e["event_type"] for e in rows_and_record(other, "events")[0]} == {"buy"}
    assert {e["event_type"] for e in rows_and_record(run, "events")[0]} == {"event"}


def test_a_delta_table_at_a_version_with_a_given_split(spark, lake, tmp_path):
    path = str(tmp_path / "foreign")
    write_deltalake(path, pa.table({"who": [1, 2], "what": [7, 8], "n": [0, 1], "part": ["train", "test"]}))
    write_deltalake(path, pa.table({"who": [3]}), mode="overwrite", schema_mode="overwrite")
    columns = {"user_id": "who", "item_id": "what", "position": "n", "split": "part"}
    run = make_run(
        lake, {"kind": "delta", "path": path, "version": 0, "columns": columns}, sessions={"group_by": "user"}
    )
    ingest(spark, run)
    events, record = rows_and_record(run, "events")
    assert sorted((e["user_id"], e["item_id"], int(e["ts"].timestamp()), e["split"]) for e in events) == [
        ("1", "7", 0, "train"), ("2", "8", 1, "test"),
    ]  # fmt: skip
    assert record.facts["order"] == "position"
    assert record.inputs["source"]["version"] == 0
    assert record.counts["quarantined"] == {}


BAD_SOURCES = {
    "too many bad": (
        ["1,a,2020-01-01", ",b,2020-01-01", "2,,2020-01-01", "3,d,x", "4,e,y"], {},
        r"4 of 5 rows \(80.0%\) would be quarantined, above source.max_bad_ratio 0.05: unreadable_time 2, "
        r"missing_item_id 1, missing_user_id 1\. For example \(\w+\) \{.*\} in file:\S*bad\.csv\. Times in "
        r"column 't' such as '\w', '\w' do not fit .* Mend .*nothing was written",
    ),
    "empty": ([], {}, r"bad\.csv: the source is empty: 0 rows"),
    "all dropped": (
        ["1,a,2020-01-01"], {"rules": [{"name": "ones", "column": "u", "one_of": ["1"]}]},
        r"none of 1 rows is left: dropped ones 1; quarantined none\. Check source\.rules",
    ),
    "pattern": (["1,a,2020-01-01"], {"timestamp_format": "quarter"}, "timestamp_format is no Spark datetime pattern"),
}  # fmt: skip


UNREADABLE_TIMES = {
    "pattern": (
        ["12/1/2010 8:26", "13/1/2010 9:00"], None,
        "Times in column 't' such as '12/1/2010 8:26', '13/1/2010 9:00' do not fit source.timestamp_format (not set: "
        "ISO 8601 such as 2026-02-16 12:00:00); set it to a Spark datetime pattern such as d/M/yyyy H:mm or yyyyMMdd. ",
    ),
    "seconds": (["964982703"], None, "set it to epoch_seconds. "),
    "millis": (["964982703000"], None, "set it to epoch_millis. "),
    "a day": (["20200102"], None, "set it to a Spark datetime pattern such as d/M/yyyy H:mm or yyyyMMdd. "),
    "another": (["2020-01-02"], "d/M/yyyy", "do not fit source.timestamp_format (d/M/yyyy); set it"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE_TIMES)
def test_unreadable_times_name_the_knob_and_some_values(spark, lake, tmp_path, name):
    times, pattern, message = UNREADABLE_TIMES[name]
    path = write_lines(tmp_path / "bad.csv", "u,i,t", *(f"{n},a,{t}" for n, t in enumerate(times)))
    with pytest.raises(SourceError) as caught:
        ingest(spark, make_run(lake, csv_source(path, timestamp_format=pattern)))
    assert message in str(caught.value)
    assert "(unreadable_time)" in str(caught.value)


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_bad_source_stops_before_any_commit(spark, lake, tmp_path, name):
    lines, settings, message = BAD_SOURCES[name]
    path = write_lines(tmp_path / "bad.csv", "u,i,t", *lines)
    with pytest.raises(SourceError, match=message):
        ingest(spark, make_run(lake, csv_source(path, **settings)))
    assert not has_tables(lake)


def test_online_retail_is_cleaned_by_its_rules(spark, lake, shared_data, tmp_path):
    """Ten days of the real files, counted again in pandas."""
    import pandas as pd

    files = sorted((shared_data / "online-retail" / "by-day").glob("2010-12-*.csv.gz"))[:10]
    days = tmp_path / "days"
    days.mkdir()
    for file in files:
        (days / file.name).write_bytes(file.read_bytes())
    conf = load_config("conf/online_retail.yaml", [f"source.path={days}", f"paths.lake={lake}"])
    run = make_run(lake, conf.section("source"), sessions=conf.section("sessions"))
    ingest(spark, run)
    events, record = rows_and_record(run, "events")
    lines = pd.concat([pd.read_csv(f, dtype=str, keep_default_na=False) for f in files])
    cancelled = lines.InvoiceNo.str.startswith("C")
    nobody = ~cancelled & (lines.CustomerID == "")
    no_product = ~cancelled & ~nobody & ~lines.StockCode.str.fullmatch("[0-9]{5}.*")
    left = lines[~cancelled & ~nobody & ~no_product]
    assert record.counts["dropped"] == {
        "cancelled": cancelled.sum(), "no_customer": nobody.sum(), "not_a_product": no_product.sum(),
        "duplicate_lines": left.duplicated().sum(),
    }  # fmt: skip
    kept = left.drop_duplicates()
    assert record.counts["rows_in"] == len(lines)
    assert record.counts["kept"] == len(kept) == len(events)
    assert record.counts["quarantined"] == {}
    found = sorted((e["basket_id"], e["user_id"], e["item_id"]) for e in events)
    assert found == sorted(zip(kept.InvoiceNo, kept.CustomerID, kept.StockCode, strict=True))
    assert all(e["user_id"].endswith(".0") for e in events)
    assert len({e["event_id"] for e in events}) == len(events)
