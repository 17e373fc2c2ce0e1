"""Stage negatives against plain Python, under every split; then through Delta, counted, with its errors by name."""

import random
from collections import Counter, defaultdict

import pytest

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import EVENTS
from recspark.errors import DataError
from recspark.lake import arrow
from recspark.lake.spark import read_table
from recspark.sessions import job
from recspark.sessions.negatives import build_negatives, build_rows, mark_negatives
from tests.helpers import sessions_oracle
from tests.spark.test_sessions_job import SOURCE, TIME_CUT, to_arrow

pytestmark = pytest.mark.spark

SHOWN = ("impression", "skip")
COLUMNS = {"ts": "t", "split": "s", "event_type": "e"}
SPLITS = {
    "time": TIME_CUT,
    "time_user_share": TIME_CUT | {"valid": {"kind": "user_share", "fraction": 0.4, "seed": 3}},
    "time_last_k": TIME_CUT | {"valid": {"kind": "last_k", "k": 2}},
    "time_valid_time": TIME_CUT | {"valid": {"kind": "time", "cut": "2026-01-02T12:00:00Z"}},
    "time_valid_given": TIME_CUT | {"valid": {"kind": "given"}},
    "given": {"kind": "given"},
    "given_last_k": {"kind": "given", "valid": {"kind": "last_k"}},
    "leave_last_out": {"kind": "leave_last_out", "valid": {"kind": "last_k"}},
}


def make_config(split, columns=COLUMNS, explicit=None, **sections):
    negatives = {"explicit": {"event_types": SHOWN, "max_events": 7} | (explicit or {})}
    values = {
        "source": SOURCE | {"columns": columns},
        "split": split,
        "clean": {"event_weights": dict.fromkeys(SHOWN, 0)},
        "model": {"kind": "two_tower", "towers": {"negatives": negatives}},
        "vocabulary": {"min_item_events": 3},
    }
    return RunConfig.model_validate(values | sections)


def draw_events(seed):
    """The oracle's events, more than half of them shown; some items and users have nothing else."""
    rng = random.Random(seed)
    events = sessions_oracle.random_events(seed, num_events=400)
    for event in events:
        if rng.random() < 0.6 or event["item_id"] == "i7" or event["user_id"] == "u5":
            event["event_type"] = rng.choice(SHOWN)
    return events


@pytest.fixture
def make_run(lake):
    def make(events, split, **more):
        """A run with its events in the lake, as ingest leaves them."""
        run = plan_run(make_config(split, paths={"lake": lake}, **more), {"fingerprint": "f00"})
        arrow.write_table(lake, EVENTS, to_arrow(events), run.record("ingest", is_marker=True))
        return run

    return make


def expected_negatives(events, run):
    """(user_id -> [(ts, item_id, type)], fates), by loops over what the oracle of sessions says."""
    config, fates, kept = run.config, Counter(), defaultdict(list)
    found = sessions_oracle.build_sessions(events, config)
    active = {item_id for _, item_id, _, _, is_active in found["items"] if is_active}
    split, valid = config.split, config.split.valid
    for event in events:
        if event["event_type"] not in SHOWN:
            continue
        history = found["histories"].get(event["user_id"])
        if history is None or not history["num"][0]:
            fates["unknown_users"] += 1
        elif event["item_id"] not in active:
            fates["unknown_items"] += 1
        elif not lies_in_train(event, history, split, valid):
            fates["held_out"] += 1
        else:
            kept[event["user_id"]].append((event["ts_us"], event["item_id"], event["event_type"]))
    return kept, fates


def lies_in_train(event, history, split, valid):
    num_train, num_valid, num_context = history["num"]
    of_valid = history["events"][num_train : num_train + num_valid]
    of_test = history["events"][num_train + num_valid + num_context :]
    if split.kind == "time" and event["ts_us"] >= sessions_oracle.parse_us(split.cut):
        return False
    if split.kind == "given" and event["split"] != "train":
        return False
    if split.kind == "leave_last_out" and any(event["ts_us"] >= ts for _, ts, *_ in of_test):
        return False
    if valid is None:
        return True
    return {
        "user_share": event["item_id"] not in {item for item, *_ in of_valid},
        "last_k": not any(event["ts_us"] >= ts for _, ts, *_ in of_valid),
        "time": valid.cut is None or event["ts_us"] < sessions_oracle.parse_us(valid.cut),
        "given": event["split"] != "valid",
    }[valid.kind]


@pytest.mark.parametrize("name", SPLITS)
def test_equals_plain_python(spark, make_run, name):
    events = draw_events(seed=len(name))
    run = make_run(events, SPLITS[name])
    job.build_sessions(spark, run)
    build_negatives(spark, run)
    table = arrow.find_table(run.lake, run.stages["negatives"], "user_negatives")
    ids = {
        names: dict(enumerate(arrow.read_ids(arrow.find_table(run.lake, run.stages["sessions"], t), i, n).to_pylist()))
        for names, t, i, n in (("users", "users", "user_idx", "user_id"), ("items", "items", "item_idx", "item_id"))
    }
    kept, fates = expected_negatives(events, run)
    assert fates["held_out"]
    assert fates["unknown_users"]
    assert fates["unknown_items"]
    older = sum(max(len(own) - 7, 0) for own in kept.values())
    found = {}
    for row in arrow.read_table(table).to_pylist():
        types = [SHOWN[code] for code in row["event_type"]]
        items = [ids["items"][i] for i in row["item_idx"]]
        assert row["ts"] == sorted(row["ts"])
        found[ids["users"][row["user_idx"]]] = list(zip(row["ts"], items, types, strict=True))
    assert found.keys() == {user for user, own in kept.items() if own}
    for user, own in found.items():
        newest = sorted(kept[user])[-7:]
        assert [ts for ts, *_ in own] == [ts for ts, *_ in newest]
        assert not Counter(own) - Counter(kept[user])
        assert len(kept[user]) > 7 or sorted(own) == newest
    counts = table.record.counts
    assert counts["dropped"] == {name: n for name, n in fates.items() if n} | ({"older": older} if older else {})
    assert counts["events_in"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["events_in"] == sum(e["event_type"] in SHOWN for e in events)
    assert (counts["kept"], counts["num_users"]) == (sum(map(len, found.values())), len(found))
    assert set(table.record.inputs) == {"events", "items", "users", "user_histories"}
    assert table.record.facts == {"event_types": list(SHOWN)}


def test_without_an_order_shown_events_go_by_their_split(spark, make_run):
    events = [e | {"ts_us": 0} for e in draw_events(seed=3)]
    model = {"kind": "two_tower", "towers": {
        "negatives": {"explicit": {"event_types": SHOWN}}, "user": {"history": {"pooling": "mean"}},
    }}  # fmt: skip
    columns, sessions = {"event_type": "e", "split": "s"}, {"group_by": "user"}
    run = make_run(events, {"kind": "given"}, columns=columns, sessions=sessions, model=model)
    job.build_sessions(spark, run)
    build_negatives(spark, run)
    kept, fates = expected_negatives(events, run)
    counts = arrow.find_table(run.lake, run.stages["negatives"], "user_negatives").record.counts
    assert counts["kept"] == sum(map(len, kept.values())) > 20
    assert counts["dropped"] == dict(fates)


def test_no_history_count_or_session_knows_of_them(spark, make_run):
    events = draw_events(seed=6)
    run = make_run(events, TIME_CUT)
    job.build_sessions(spark, run)
    found = {
        name: arrow.read_table(arrow.find_table(run.lake, run.producer(name), name)).to_pylist()
        for name in ("items", "users", "user_histories", "sessions")
    }
    done = [e for e in events if e["event_type"] not in SHOWN]
    expected = sessions_oracle.build_sessions(done, run.config)
    assert [r["num_events"] for r in sorted(found["items"], key=lambda r: r["item_idx"])] == [
        n for _, _, n, _, _ in expected["items"]
    ]
    assert sum(len(r["item_idx"]) for r in found["user_histories"]) == sum(
        len(h["events"]) for h in expected["histories"].values()
    )


def test_any_partitioning_gives_the_same_rows(spark, make_run):
    run = make_run(draw_events(seed=9), TIME_CUT)
    job.build_sessions(spark, run)
    tables = [arrow.find_table(run.lake, run.producer(n), n) for n in ("events", "users", "items", "user_histories")]
    frames = [read_table(spark, table) for table in tables]
    rows = []
    for events in (frames[0], frames[0].repartition(1), frames[0].repartition(7)):
        marked = mark_negatives(events, *frames[1:], run.config)
        rows.append(sorted(build_rows(marked, 7).collect()))
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(
    ("split", "explicit", "message"),
    [
        (
            TIME_CUT,
            {"event_types": ["hide", "skip"]},
            r"event_types: no event is of type 'hide'; events hold 'buy', 'cart', 'impression', 'skip', 'view'\. Name",
        ),
        (
            {"kind": "time", "cut": "2026-01-01T00:05:00Z"},
            {},
            r"explicit: none of \d+ events is left \(.*held_out \d+\): they are of users or on items without train",
        ),
    ],
)
def test_bad_input_commits_nothing(spark, make_run, split, explicit, message):
    events = draw_events(seed=5)
    for event in events:  # something to learn from before the early cut, nothing shown there
        if event["ts_us"] < 1_767_225_600_000_000 + 300_000_000:
            event["event_type"] = "buy"
    sections = {"vocabulary": {"min_item_events": 1}, "clean": {"event_weights": dict.fromkeys([*SHOWN, "hide"], 0)}}
    run = make_run(events, split, explicit=explicit, **sections)
    job.build_sessions(spark, run)
    with pytest.raises(DataError, match=message):
        build_negatives(spark, run)
    assert not arrow.has_table(run.lake, "user_negatives")
