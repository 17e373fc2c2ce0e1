"""The sessions stage against plain Python, exactly: every split and grouping, any partitioning; then through Delta."""

import datetime as dt

import pyarrow as pa
import pytest

from recspark.config import RunConfig
from recspark.contracts.tables import EVENTS
from recspark.lake.spark import spark_schema
from recspark.sessions import job
from tests.helpers import sessions_oracle

pytestmark = pytest.mark.spark

TIMED = {"ts": "t", "basket_id": "b", "split": "s"}
TIME_CUT = {"kind": "time", "cut": "2026-01-03"}
SOURCE = {"kind": "files", "path": "x", "format": "csv"}


def make_config(columns=TIMED, **sections):
    values = {"source": SOURCE | {"columns": columns}, "split": TIME_CUT} | sections
    return RunConfig.model_validate(values)


def to_arrow(events):
    rows = []
    for event in events:
        ts = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=event["ts_us"])
        rows.append({**event, "ts": ts, "day": ts.date()})
    return pa.Table.from_pylist(rows, schema=EVENTS.schema)


def to_frame(spark, events, num_partitions=2):
    rows = [tuple(row.values()) for row in to_arrow(events).to_pylist()]
    return spark.createDataFrame(rows, spark_schema(EVENTS)).repartition(num_partitions)


def build(spark, events, config, num_partitions=2, features=(None, None)):
    """The stage's tables as plain rows, without a lake."""
    with job._holding() as hold:
        tables = job.build_tables(to_frame(spark, events, num_partitions), config, features, hold)
        rows = {
            name: getattr(tables, name).toArrow().to_pylist() for name in ("items", "users", "histories", "sessions")
        }
        rows["refused"] = tables.refused.toArrow().to_pylist()
    return rows | {"counts": tables.counts, "facts": tables.facts}


def micros(time):
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def to_outside(found):
    """The stage's tables in the oracle's form."""
    item_ids = {row["item_idx"]: row["item_id"] for row in found["items"]}
    user_ids = {row["user_idx"]: row["user_id"] for row in found["users"]}
    types = found["facts"]["event_types"]

    def events(row, times):
        codes = [types[code] for code in row["event_type"]]
        return list(zip([item_ids[i] for i in row["item_idx"]], row[times], row["weight"], codes, strict=True))

    items = [
        (r["item_idx"], r["item_id"], r["num_events"], micros(r["first_seen"]), r["active"]) for r in found["items"]
    ]
    return {
        "items": sorted(items),
        "users": sorted((r["user_idx"], r["user_id"], r["num_events"]) for r in found["users"]),
        "histories": {
            user_ids[r["user_idx"]]: {
                "events": events(r, "ts"),
                "num": (r["num_train"], r["num_valid"], r["num_context"]),
            }
            for r in found["histories"]
        },
        "sessions": sorted(
            (
                user_ids[r["user_idx"]],
                r["split"],
                micros(r["start_ts"]),
                micros(r["end_ts"]),
                tuple(events(r, "offset_seconds")),
            )
            for r in found["sessions"]
        ),
        "fates": found["counts"]["dropped"] | found["counts"]["quarantined"],
    }


CASES = {
    "gap_time": {},
    "gap_time_user_share": {"split": TIME_CUT | {"valid": {"kind": "user_share", "fraction": 0.35, "seed": 5}}},
    "gap_time_valid_time_short": {
        "split": TIME_CUT | {"valid": {"kind": "time", "cut": "2026-01-02T12:00:00Z"}},
        "sessions": {"gap_seconds": 7200, "max_items": 3, "max_span_seconds": 3600},
    },
    "gap_time_valid_given": {"split": TIME_CUT | {"valid": {"kind": "given"}}, "sessions": {"gap_seconds": 30_000}},
    "user_leave_last_out_last_k": {
        "split": {"kind": "leave_last_out", "valid": {"kind": "last_k", "k": 2}},
        "sessions": {"group_by": "user", "max_items": 7},
        "clean": {"event_types": ["view", "buy"]},
    },
    "basket_given": {
        "split": {"kind": "given"},
        "sessions": {"group_by": "basket", "max_items": 4},
        "clean": {"event_weights": {"buy": 4, "cart": 0}},
    },
    "basket_given_user_share_rare": {
        "split": {"kind": "given", "valid": {"kind": "user_share", "fraction": 0.2}},
        "sessions": {"group_by": "basket", "collapse_repeats": False},
        "vocabulary": {"min_item_events": 6},
    },
    "filters_by_side_of_the_cut": {
        "clean": {"max_user_events": 13, "max_events_per_minute": 2, "min_user_events": 3},
        "vocabulary": {"min_item_events": 2},
    },
    "filters_leave_last_out": {
        "split": {"kind": "leave_last_out"},
        "clean": {"max_user_events": 15, "min_user_events": 2},
        "sessions": {"gap_seconds": 100_000, "max_span_seconds": 50_000},
    },
}


@pytest.mark.parametrize(("case", "num_partitions"), [(n, (1, 2, 7)[i % 3]) for i, n in enumerate(CASES)])
def test_equals_plain_python(spark, case, num_partitions):
    config = make_config(**CASES[case])
    events = sessions_oracle.random_events(seed=len(case))
    expected = sessions_oracle.build_sessions(events, config)
    found = to_outside(build(spark, events, config, num_partitions))
    assert set(expected["fates"]) <= set(found["fates"])
    for name, rows in expected.items():
        assert found[name] == rows, name


def test_unordered_sources_give_one_sorted_session_a_user(spark):
    config = make_config({"split": "s"}, split={"kind": "given"})
    events = [e | {"ts_us": 0} for e in sessions_oracle.random_events(seed=3)]
    found = to_outside(build(spark, events, config, 3))
    expected = sessions_oracle.build_sessions(events, config)
    assert {n: found[n] for n in expected} == expected
    assert len({s[:2] for s in found["sessions"]}) == len(found["sessions"])
    assert all([e[0] for e in s[4]] == sorted({e[0] for e in s[4]}) for s in found["sessions"])


def test_any_partitioning_gives_the_same_rows_and_ids(spark):
    config = make_config(split=TIME_CUT | {"valid": {"kind": "user_share", "fraction": 0.3}})
    events = sessions_oracle.random_events(seed=11, num_events=300)
    found = [build(spark, events, config, n) for n in (1, 2, 7)]
    for name in ("items", "users", "histories", "sessions"):
        tables = [sorted(map(repr, f[name])) for f in found]
        assert tables[0] == tables[1] == tables[2], name
    ids = [row["session_id"] for row in found[0]["sessions"]]
    assert len(set(ids)) == len(ids)
    assert found[0]["counts"] == found[1]["counts"] == found[2]["counts"]
