"""Sessions and histories as numpy kernels: hand-worked cuts, and plain Python for random logs in any batches."""

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recspark.config.schema import SessionsConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import SESSIONS, USER_HISTORIES
from recspark.sessions.histories import build_histories
from recspark.sessions.sessionize import (
    END_US,
    NUM_EVENTS,
    ORDINAL,
    START_US,
    SessionRules,
    build_sessions_of,
    cut_long_sessions,
    plan_rules,
)
from recspark.sessions.user_events import BASKET, PART, RANK, TS_US, read_users

SECOND = 1_000_000
NO_LIMIT = SessionRules(by_basket=False, gap_us=None, max_span_us=None, max_items=10**9, collapse_repeats=False)
SCHEMA = pa.schema(
    [(PART, pa.int32()), (c.USER_ID, pa.string()), (RANK, pa.int8()), (TS_US, pa.int64()), (c.ITEM_IDX, pa.int32()),
     (c.WEIGHT, pa.float32()), (c.EVENT_TYPE, pa.int8()), (BASKET, pa.string())]
)  # fmt: skip


def to_batches(rows, sizes=(10**9,)):
    """Rows (user, split, second, item, basket) as Arrow batches of the given sizes in turn."""
    table = pa.Table.from_pylist(
        [
            {PART: 4, c.USER_ID: user, RANK: c.SPLIT_RANK[split], TS_US: int(second * SECOND), c.ITEM_IDX: item,
             c.WEIGHT: 1.0, c.EVENT_TYPE: item % 3, BASKET: basket}
            for user, split, second, item, basket in rows
        ],
        schema=SCHEMA,
    )  # fmt: skip
    start, batches = 0, [SCHEMA.empty_table().to_batches(max_chunksize=1)]
    while start < table.num_rows:
        size = sizes[len(batches) % len(sizes)]
        batches.append(table.slice(start, size).combine_chunks().to_batches())
        start += size
    return [batch for group in batches for batch in group]


def cut(rows, rules, sizes=(10**9,)):
    """Sessions as (user_idx, split, [(item, offset)], events before collapsing)."""
    tables = [
        build_sessions_of(users, rules).to_pylist() for users in read_users(iter(to_batches(rows, sizes)), {4: 10})
    ]
    return [
        (r[c.USER_IDX], r[c.SPLIT], list(zip(r[c.ITEM_IDX], r[c.OFFSET_SECONDS], strict=True)), r[NUM_EVENTS])
        for table in tables
        for r in table
    ]


def of_ann(*seconds, split="train"):
    return [("ann", split, second, item, "b") for item, second in enumerate(seconds)]


def test_a_pause_longer_than_the_gap_starts_a_session():
    rules = SessionRules(False, gap_us=1800 * SECOND, max_span_us=None, max_items=100, collapse_repeats=True)
    rows = of_ann(0, 1800, 3600.000001, 5400.000001, 7201)  # 1800 s is no pause yet, 1800.000001 s is one
    assert cut(rows, rules) == [
        (10, "train", [(0, 0), (1, 1800)], 2),
        (10, "train", [(2, 0), (3, 1800)], 2),
        (10, "train", [(4, 0)], 1),
    ]


def test_full_sessions_are_cut_counting_from_their_own_start():
    rules = SessionRules(False, gap_us=100 * SECOND, max_span_us=None, max_items=2, collapse_repeats=True)
    rows = of_ann(0, 10, 20, 500, 510, 520, 530)
    assert [[item for item, _ in s[2]] for s in cut(rows, rules)] == [[0, 1], [2], [3, 4], [5, 6]]


def test_collapsed_repeats_count_towards_max_items():
    rules = SessionRules(False, None, None, max_items=3, collapse_repeats=True)
    rows = [("ann", "train", s, item, "b") for s, item in enumerate([7, 7, 7, 7, 8])]
    assert cut(rows, rules) == [(10, "train", [(7, 0)], 3), (10, "train", [(7, 0), (8, 1)], 2)]


def test_wide_sessions_are_cut_at_the_span_from_their_own_start():
    rules = SessionRules(False, gap_us=1000 * SECOND, max_span_us=25 * SECOND, max_items=100, collapse_repeats=True)
    rows = of_ann(0, 10, 25, 26, 51, 52)
    assert [[item for item, _ in s[2]] for s in cut(rows, rules)] == [[0, 1, 2], [3, 4], [5]]


def test_a_split_is_never_bridged_or_broken_by_another():
    rules = SessionRules(False, gap_us=100 * SECOND, max_span_us=None, max_items=100, collapse_repeats=True)
    rows = [*of_ann(0, 60, 220), ("ann", "valid", 120, 5, "b"), *of_ann(230, split="test")]
    assert cut(rows, rules) == [
        (10, "train", [(0, 0), (1, 60)], 2),
        (10, "train", [(2, 0)], 1),
        (10, "valid", [(5, 0)], 1),
        (10, "test", [(0, 0)], 1),
    ]


def test_repeats_collapse_inside_a_session_only_and_their_weights_add():
    rules = SessionRules(False, gap_us=10 * SECOND, max_span_us=None, max_items=100, collapse_repeats=True)
    rows = [("ann", "train", s, item, "b") for s, item in ((0, 3), (1, 3), (2, 4), (3, 3), (4, 3), (50, 3))]
    users = next(read_users(iter(to_batches(rows)), {4: 0}))
    users = replace(users, weight=np.float32([1, 2, 4, 8, 16, 32]), event_type=np.arange(6, dtype=np.int8))
    first, second = build_sessions_of(users, rules).to_pylist()
    assert first[c.ITEM_IDX] == [3, 4, 3]
    assert first[c.WEIGHT] == [3, 4, 24]
    assert first[c.OFFSET_SECONDS] == [0, 2, 3]
    assert first[c.EVENT_TYPE] == [0, 2, 3]  # of the first event
    assert (first[START_US], first[END_US], first[NUM_EVENTS]) == (0, 4 * SECOND, 5)
    assert (second[c.ITEM_IDX], second[c.WEIGHT]) == ([3], [32])


def test_a_basket_is_a_session_even_when_baskets_interleave():
    rows = [("ann", "train", s, s, basket) for s, basket in enumerate("xyxzy")]
    rows += [("bob", "train", s, s, basket) for s, basket in enumerate("zx")]
    rules = SessionRules(True, None, None, 100, True)
    expected = [
        (10, "train", [(0, 0), (2, 2)], 2),
        (10, "train", [(1, 0), (4, 3)], 2),
        (10, "train", [(3, 0)], 1),
        (11, "train", [(0, 0)], 1),
        (11, "train", [(1, 0)], 1),
    ]
    assert cut(rows, rules) == expected
    assert cut(rows, rules, sizes=(1,)) == expected  # the order of baskets never hangs on the batch


def test_sessions_that_start_together_are_numbered():
    rows = [("ann", "train", 0, 0, "x"), ("ann", "train", 0, 1, "y"), ("ann", "train", 5, 2, "z"),
            ("ann", "test", 5, 2, "z"), ("bob", "train", 0, 0, "x")]  # fmt: skip
    rules = SessionRules(True, None, None, 100, True)
    groups = read_users(iter(to_batches(rows)), {4: 0})
    sessions = [session for users in groups for session in build_sessions_of(users, rules).to_pylist()]
    assert [s[ORDINAL] for s in sessions] == [0, 1, 0, 0, 0]


def test_rules_follow_the_order_of_the_source():
    config = SessionsConfig(gap_seconds=2, max_span_seconds=3, max_items=4)
    assert plan_rules(config, "time") == SessionRules(False, 2 * SECOND, 3 * SECOND, 4, True)
    assert plan_rules(config, "none") == SessionRules(False, None, None, None, True)  # one session a user
    basket = SessionsConfig(group_by="basket", collapse_repeats=False)
    assert plan_rules(basket, "time") == SessionRules(True, None, None, 200, False)
    assert plan_rules(SessionsConfig(group_by="user"), "time").gap_us is None


def test_histories_are_prefixes_by_split_and_keep_repeats():
    rows = [("ann", "train", 0, 3, "b"), ("ann", "train", 1, 3, "b"), ("ann", "valid", 0, 4, "b"),
            ("ann", "context", 5, 5, "b"), ("ann", "test", 9, 6, "b"), ("bob", "test", 2, 3, "b")]  # fmt: skip
    groups = read_users(iter(to_batches(rows)), {4: 7})
    ann, bob = (history for users in groups for history in build_histories(users).to_pylist())
    assert ann == {
        c.USER_IDX: 7, c.ITEM_IDX: [3, 3, 4, 5, 6], c.TS: [0, SECOND, 0, 5 * SECOND, 9 * SECOND], c.WEIGHT: [1.0] * 5,
        c.EVENT_TYPE: [0, 0, 1, 2, 0], c.NUM_TRAIN: 2, c.NUM_VALID: 1, c.NUM_CONTEXT: 1, c.USER_ID: "ann",
    }  # fmt: skip
    assert (bob[c.USER_IDX], bob[c.NUM_TRAIN], bob[c.ITEM_IDX]) == (8, 0, [3])


def test_arrays_have_the_contract_types():
    users = next(read_users(iter(to_batches(of_ann(0, 1))), {4: 0}))
    sessions, histories = build_sessions_of(users, NO_LIMIT), build_histories(users)
    for table, batch in ((SESSIONS, sessions), (USER_HISTORIES, histories)):
        for field in table.schema:
            if pa.types.is_list(field.type):
                assert batch.schema.field(field.name).type == field.type


def random_rows(rng, num_rows):
    rows = []
    for _ in range(num_rows):
        user, split = f"u{rng.integers(6)}", c.SPLITS[rng.integers(4)]
        rows.append((user, split, float(rng.integers(60)), int(rng.integers(4)), f"b{rng.integers(3)}"))
    return sorted(rows, key=lambda r: (r[0], c.SPLIT_RANK[r[1]], r[2]))


def plain_sessions(rows, rules):
    """The rules as a loop over one event at a time."""
    groups = {}
    for user, split, second, item, basket in rows:
        groups.setdefault((user, split, basket if rules.by_basket else ""), []).append((second, item))
    user_idx = {user: 10 + i for i, user in enumerate(sorted({r[0] for r in rows}))}
    found = []
    for (user, split, _), events in groups.items():
        sessions = [[events[0]]]
        for event in events[1:]:
            pause = rules.gap_us is not None and (event[0] - sessions[-1][-1][0]) * SECOND > rules.gap_us
            wide = rules.max_span_us is not None and (event[0] - sessions[-1][0][0]) * SECOND > rules.max_span_us
            if pause or wide or len(sessions[-1]) == rules.max_items:
                sessions.append([])
            sessions[-1].append(event)
        for session in sessions:
            kept = [
                (item, int(second - session[0][0]))
                for place, (second, item) in enumerate(session)
                if not (rules.collapse_repeats and place and session[place - 1][1] == item)
            ]
            found.append((user_idx[user], split, kept, len(session)))
    return sorted(found)


@pytest.mark.parametrize("seed", range(60))
def test_random_logs_equal_plain_python_in_any_batches(seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, int(rng.integers(1, 150)))
    by_gap = bool(rng.integers(2))
    rules = SessionRules(
        by_basket=not by_gap and bool(rng.integers(2)),
        gap_us=int(rng.integers(1, 8)) * SECOND if by_gap else None,
        max_span_us=int(rng.integers(5, 20)) * SECOND if by_gap else None,
        max_items=int(rng.integers(1, 9)),
        collapse_repeats=bool(rng.integers(2)),
    )
    sizes = tuple(int(s) for s in rng.integers(1, 40, 3))
    assert sorted(cut(rows, rules, sizes)) == plain_sessions(rows, rules)


def test_users_are_numbered_across_batches():
    rows = [(user, "train", 0, 0, "b") for user in ("a", "b", "b", "b", "c", "c", "d")]
    for size in range(1, 9):
        groups = list(read_users(iter(to_batches(rows, (size,))), {4: 100}))
        assert np.concatenate([g.user_idx for g in groups]).tolist() == [100, 101, 102, 103]
        assert [n for g in groups for n in np.diff(g.offsets)] == [1, 3, 2, 1]
        assert [u for g in groups for u in g.user_ids.to_pylist()] == ["a", "b", "c", "d"]


def test_an_empty_partition_yields_nothing():
    assert list(read_users(iter([]), {})) == []
    assert list(read_users(iter(SCHEMA.empty_table().to_batches()), {})) == []


def test_a_user_of_a_million_events_takes_no_quadratic_work():
    ts_us = np.arange(1_000_000) * SECOND
    started = time.process_time()
    starts = cut_long_sessions(np.array([0]), ts_us, max_items=50, max_span_us=10 * SECOND)
    assert time.process_time() - started < 5  # 90,910 cuts; quadratic work would take minutes
    assert starts.tolist() == list(range(0, 1_000_000, 11))
