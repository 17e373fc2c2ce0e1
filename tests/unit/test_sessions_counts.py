"""What stops the stage before any commit, and the sum that must hold. (Needs pyspark to import, but starts no JVM.)"""

import pytest

from recspark.config import RunConfig
from recspark.errors import DataError
from recspark.sessions.counts import EventCounts, build_counts, check_events, iso_time

DAY_US = 86_400_000_000
FILES = {"kind": "files", "path": "x", "format": "csv"}
ALL_COLUMNS = {"ts": "t", "split": "s", "basket_id": "b"}


def make_config(columns=None, **sections):
    values = {"source": FILES | {"columns": columns or ALL_COLUMNS}, "split": {"kind": "time", "cut": "2026-02-16"}}
    return RunConfig.model_validate(values | sections)


def make_counts(train=6, valid=0, test=3, context=0, dropped=None, quarantined=None):
    kept = {"train": train, "valid": valid, "test": test, "context": context}
    return EventCounts(kept, dropped or {}, {}, quarantined or {}, (0, DAY_US) if sum(kept.values()) else None)


def test_good_counts_pass():
    check_events(make_counts(), make_config())
    check_events(make_counts(valid=1), make_config(split={"kind": "given", "valid": {"kind": "last_k"}}))
    check_events(make_counts(test=0), make_config(evaluate=None))
    check_events(make_counts(valid=1, test=0), make_config(split={"kind": "given"}, evaluate={"split": "valid"}))


@pytest.mark.parametrize(
    ("counts", "sections", "message"),
    [
        ({"train": 0, "test": 0}, {}, r"sessions: the events table is empty; look at the source and at source.rules"),
        (
            {"train": 0, "test": 0, "dropped": {"bot_users": 1200}},
            {},
            r"clean: none of 1,200 events is left \(bot_users 1,200\); loosen `clean`",
        ),
        (
            {"test": 0},
            {},
            r"split: test would be empty; events: train 6, valid 0, test 0, context 0, from 1970-01-01T00:00:00\+00:00 "
            r"to 1970-01-02T00:00:00\+00:00; split.cut is 2026-02-16: move it into that range, or set evaluate: null",
        ),
        ({"train": 0}, {}, r"split: train would be empty; .* split.cut is 2026-02-16: move it into that range$"),
        (
            {"train": 0, "context": 2, "test": 0},
            {"split": {"kind": "given"}},
            r"split: train and test would be empty; .*column never says train or test$",
        ),
        ({"test": 0}, {"split": {"kind": "leave_last_out"}}, r"no user has two events; use split.kind time or given"),
        (
            {},
            {"split": {"kind": "given", "valid": {"kind": "user_share", "fraction": 0.01}}},
            r"split: valid would be empty; .*raise split.valid.fraction \(0.01\)",
        ),
        (
            {},
            {"split": {"kind": "given", "valid": {"kind": "time", "cut": "2027-01-01"}}},
            r"split.valid.cut is 2027-01-01: it must lie before the test part and after the first event",
        ),
        ({}, {"split": {"kind": "given", "valid": {"kind": "given"}}}, r"split column never says valid"),
        ({}, {"split": {"kind": "given", "valid": {"kind": "last_k"}}}, r"no user has two train events"),
        (
            {"quarantined": {"bad_split": 1}},
            {},
            r"1 of 10 events would be quarantined \(bad_split 1\), more than source.max_bad_ratio 0.05: a `split` must "
            r"be one of train, valid, test, context",
        ),
    ],
)
def test_each_problem_says_what_was_found_and_what_to_do(counts, sections, message):
    with pytest.raises(DataError, match=message):
        check_events(make_counts(**counts), make_config(**sections))


VOCABULARY = {"num_items": 5, "num_active_items": 3, "num_rare_items": 1, "rare_events": 2}
SESSIONS = {
    "train": {"split": "train", "sessions": 2, "events": 4, "collapsed_to": 3},
    "test": {"split": "test", "sessions": 1, "events": 3, "collapsed_to": 3},
}
USERS = {"num_users": 2, "events": 7, "train": 2, "valid": 0, "test": 1, "context": 0}


def test_the_counts_add_up():
    counts = build_counts(
        make_counts(dropped={"bot_users": 5}, quarantined={"bad_split": 1}), VOCABULARY, SESSIONS, USERS
    )
    assert counts["events_in"] == 15
    assert counts["events_in"] == counts["kept"] + sum(counts["dropped"].values()) + sum(counts["quarantined"].values())
    assert counts["dropped"] == {"bot_users": 5, "rare_items": 2}
    assert counts["collapsed"] == 1
    assert counts["events"] == {"train": 4, "test": 3}
    assert counts["users"] == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("sessions", "users"), [(SESSIONS | {"test": SESSIONS["train"]}, USERS), (SESSIONS, USERS | {"events": 6})]
)
def test_a_lost_event_stops_the_stage(sessions, users):
    with pytest.raises(RuntimeError, match="events don't add up"):
        build_counts(make_counts(), VOCABULARY, sessions, users)


def test_times_are_shown_in_utc():
    assert iso_time(DAY_US // 2) == "1970-01-01T12:00:00+00:00"
