"""The sessions stage against plain Python, exactly: every split and grouping, any partitioning; then through Delta."""

import datetime as dt
import json
import os
from contextlib import contextmanager

import pyarrow as pa
import pytest

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import EVENTS
from recspark.errors import DataError, RecsparkError
from recspark.lake import arrow
from recspark.lake.spark import spark_schema
from recspark.sessions import job
from recspark.sessions.counts import find_event_types
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


@contextmanager
def settings(spark, values):
    """Spark settings for a while."""
    before = {name: spark.conf.get(name) for name in values}
    for name, value in values.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


def build(spark, events, config, num_partitions=2, feature_items=None):
    """The stage's tables as plain rows, without a lake; every shuffle has really as many partitions."""
    really = {
        "spark.sql.shuffle.partitions": num_partitions,
        "spark.sql.adaptive.coalescePartitions.enabled": False,
        "spark.sql.execution.arrow.maxRecordsPerBatch": 16,
    }
    with settings(spark, really), job.holding() as hold:
        tables = job.build_tables(to_frame(spark, events, num_partitions), feature_items, config, hold)
        names = ("items", "users", "histories", "sessions", "refused")
        rows = {name: getattr(tables, name).toArrow().to_pylist() for name in names}
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
    "gap_time_user_share": {"split": TIME_CUT | {"valid": {"kind": "user_share", "fraction": 0.35, "seed": 5}}},
    "gap_time_valid_time_short": {
        "split": TIME_CUT | {"valid": {"kind": "time", "cut": "2026-01-02T12:00:00Z"}},
        "sessions": {"gap_seconds": 7200, "max_items": 3, "max_span_seconds": 3600},
    },
    "gap_time_valid_given": {"split": TIME_CUT | {"valid": {"kind": "given"}}, "sessions": {"gap_seconds": 30_000}},
    "user_leave_last_out_last_k": {
        "split": {"kind": "leave_last_out", "valid": {"kind": "last_k", "k": 2}},
        "sessions": {"group_by": "user", "max_items": 7},
        "clean": {"event_types": ["view", "buy", "wish"], "event_weights": {"buy": 4, "view": 0}},
    },
    "basket_given_user_share_rare": {
        "split": {"kind": "given", "valid": {"kind": "user_share", "fraction": 0.2}},
        "sessions": {"group_by": "basket", "collapse_repeats": False},
        "vocabulary": {"min_item_events": 6},
    },
    "filters_by_side_of_the_cut": {
        "clean": {"max_user_events": 20, "max_events_per_minute": 1, "min_user_events": 2},
        "vocabulary": {"min_item_events": 5},
    },
    "filters_leave_last_out": {
        "split": {"kind": "leave_last_out"},
        "clean": {"max_user_events": 15, "min_user_events": 2},
        "sessions": {"gap_seconds": 100_000, "max_span_seconds": 50_000},
    },
}


FATES = {
    "user_leave_last_out_last_k": {"event_types", "event_weights"},
    "basket_given_user_share_rare": {"rare_items"},
    "filters_by_side_of_the_cut": {"bot_users", "flood_users", "rare_users", "rare_items"},
    "filters_leave_last_out": {"bot_users", "rare_users"},
}
"""What each case must meet, or it shows nothing."""


@pytest.mark.parametrize(("case", "num_partitions"), [(n, (1, 2, 7)[i % 3]) for i, n in enumerate(CASES)])
def test_equals_plain_python(spark, case, num_partitions):
    config = make_config(**CASES[case])
    events = sessions_oracle.random_events(seed=1, num_events=160)
    expected = sessions_oracle.build_sessions(events, config)
    assert set(expected["fates"]) == FATES.get(case, set())
    assert any(len(events) > 1 for *_, events in expected["sessions"])
    found = to_outside(build(spark, events, config, num_partitions))
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


def test_what_is_learned_from_does_not_hang_on_the_test_part(spark):
    """The same log with and without its test events: same ids, counts, sessions and histories before the cut."""
    filters = {"max_user_events": 14, "max_events_per_minute": 2, "min_user_events": 3}
    valid = {"kind": "user_share", "fraction": 0.3}
    config = make_config(split=TIME_CUT | {"valid": valid}, clean=filters, evaluate=None)
    events = sessions_oracle.random_events(seed=11, num_events=150)
    cut = sessions_oracle.parse_us(TIME_CUT["cut"])
    assert any(e["ts_us"] >= cut for e in events)
    whole = build(spark, events, config)
    learned = build(spark, [e for e in events if e["ts_us"] < cut], config)

    def before_the_cut(found):
        outside = to_outside(found)
        return {
            "items": [row for row in outside["items"] if row[4]],
            "sessions": [row for row in outside["sessions"] if row[1] != "test"],
            "histories": {u: h["events"][: sum(h["num"])] for u, h in outside["histories"].items() if sum(h["num"])},
        }

    assert before_the_cut(whole) == before_the_cut(learned)
    assert whole["counts"]["dropped"] != learned["counts"]["dropped"]


def test_items_known_by_features_alone_come_last(spark):
    events = sessions_oracle.random_events(seed=2)
    feature_items = spark.createDataFrame([("a-new-one",), ("i0",), ("zz",)], "item_id string")
    plain = build(spark, events, make_config())["items"]
    items = sorted(build(spark, events, make_config(), 3, feature_items)["items"], key=lambda r: r["item_idx"])
    assert [r["item_idx"] for r in items] == list(range(len(plain) + 2))
    unseen = [r for r in items if r["first_seen"] is None]
    assert [(r["item_id"], r["num_events"], r["active"]) for r in unseen] == [("a-new-one", 0, False), ("zz", 0, False)]
    by_id = {r["item_id"]: r["num_events"] for r in items}
    assert {r["item_id"]: r["num_events"] for r in plain}.items() <= by_id.items()


@pytest.fixture
def make_run(lake):
    def make(events, **sections):
        """A run whose events are in the lake, as ingest leaves them."""
        run = plan_run(make_config(paths={"lake": lake}, **sections), {"fingerprint": "f00"})
        if not arrow.find_done(lake, run.stages["ingest"]):
            arrow.write_table(lake, EVENTS, to_arrow(events), run.record("ingest", is_marker=True))
        return run

    return make


def read_all(run):
    names = ("items", "users", "user_histories", "sessions")
    rows = {n: arrow.read_table(arrow.find_table(run.lake, run.producer(n), n)).to_pylist() for n in names}
    return rows | {"histories": rows["user_histories"]}


def test_the_whole_stage_through_delta(spark, make_run, tmp_path):
    (tmp_path / "genres.csv").write_text("movie,genre\ni0,drama\nnobody saw,farce\n")
    features = [
        {"name": "genre", "path": str(tmp_path / "genres.csv"), "key": "movie", "column": "genre", "missing": "?"}
    ]
    events = sessions_oracle.random_events(seed=8)
    events[0]["split"] = "tset"
    sections = {"split": {"kind": "given"}, "features": features, "sessions": {"group_by": "basket"}}
    run = make_run(events, **sections)
    job.build_sessions(spark, run)

    version, record = arrow.find_done(run.lake, run.stages["sessions"])
    assert (version, record.inputs) == (0, {"events": 0})
    assert record.tables == {"quarantine": 0, "items": 0, "users": 0, "user_histories": 0}
    assert record.facts["order"] == "time"
    assert record.facts["event_types"] == ["buy", "cart", "view"]
    assert record.facts["time_range"][0].startswith("2026-01-01T")
    counts = record.counts
    assert counts["events_in"] == len(events) == counts["kept"] + 1
    assert counts["quarantined"] == {"bad_split": 1}

    rows = read_all(run)
    genres = {r["item_id"]: r["f_genre"] for r in rows["items"]}
    assert (genres["i0"], genres["i1"], genres["nobody saw"]) == ("drama", "?", "farce")
    expected = sessions_oracle.build_sessions(events, run.config)
    rows["items"] = [r for r in rows["items"] if r["first_seen"]]
    found = to_outside(rows | {"counts": counts, "facts": record.facts})
    assert {n: found[n] for n in expected} == expected
    assert counts["num_sessions"] == len(rows["sessions"])
    assert all(r["day"] == r["start_ts"].date() for r in rows["sessions"])

    (refused,) = arrow.read_table(arrow.find_table(run.lake, run.stages["sessions"], "quarantine")).to_pylist()
    assert (refused["stage"], refused["reason"], refused["run_id"]) == ("sessions", "bad_split", run.run_id)
    assert json.loads(refused["raw"])["event_id"] == events[0]["event_id"]
    assert json.loads(refused["raw"])["split"] == "tset"


def test_a_death_between_two_commits_is_mended_by_the_next_run(spark, make_run, monkeypatch):
    events = sessions_oracle.random_events(seed=5)
    run = make_run(events)

    def die(name):
        raise KeyboardInterrupt(name)

    with monkeypatch.context() as patched:
        patched.setattr(job, "fault_point", die)
        with pytest.raises(KeyboardInterrupt, match=r"sessions\.between_tables"):
            job.build_sessions(spark, run)
    assert arrow.find_done(run.lake, run.stages["sessions"]) is None
    assert arrow.open_table(run.lake, "items").version() == 0
    job.build_sessions(spark, run)
    _, record = arrow.find_done(run.lake, run.stages["sessions"])
    found = to_outside(read_all(run) | {"counts": record.counts, "facts": record.facts})
    expected = sessions_oracle.build_sessions(events, run.config)
    assert {n: found[n] for n in expected} == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"split": {"kind": "time", "cut": "2030-01-01"}},
            r"split: test would be empty; events: train 120, .* to 2026-01",
        ),
        (
            {"vocabulary": {"min_item_events": 1000}},
            r"0 items have at least 1000 train events, 2 are needed; the most any",
        ),
    ],
)
def test_bad_input_commits_nothing(spark, make_run, sections, message):
    run = make_run(sessions_oracle.random_events(seed=5), **sections)
    with pytest.raises(RecsparkError, match=message):
        job.build_sessions(spark, run)
    assert os.listdir(f"{run.lake}/tables") == ["events"]


def test_more_event_types_than_codes_are_refused(spark):
    events = spark.range(200).selectExpr("concat('type', id) event_type", "cast(null as string) _reason")
    with pytest.raises(DataError, match=r"more than 127 event types \(type0, type1, type10, ...\); is source.columns"):
        find_event_types(events)
    assert len(find_event_types(events.limit(127))) == 127
