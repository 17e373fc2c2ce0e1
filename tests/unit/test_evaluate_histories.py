"""Who is scored, on what, and every count; by hand and against a slow reading of the rules."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.contracts.tables import USER_HISTORIES
from recspark.errors import DataError
from recspark.evaluate.histories import CaseSpec, build_cases, read_by_time
from tests.helpers.tiny_lake import build_histories


def histories(*users):
    """user_histories of (train, valid, context, test) lists, user_idx from 0."""
    rows = [
        {
            "user_idx": idx,
            "item_idx": [i for part in parts for i in part],
            "ts": [0] * sum(map(len, parts)),
            "weight": [1.0] * sum(map(len, parts)),
            "event_type": [0] * sum(map(len, parts)),
            "num_train": len(parts[0]),
            "num_valid": len(parts[1]),
            "num_context": len(parts[2]),
        }
        for idx, parts in enumerate(users)
    ]
    return pa.Table.from_pylist(rows, schema=USER_HISTORIES.schema)


USERS = histories(
    ([3, 5, 3], [8], [2], [9, 5, 9, 4]),  # warm
    ([], [], [1], [6]),  # cold: context only
    ([1], [2], [], []),  # nothing to find
    ([], [], [], [7]),  # no history
    ([6], [7], [], [6, 7]),  # all seen
    ([], [4], [], [3, 1]),  # cold: validation only
)
NUM_EVENTS = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])


def as_dict(cases, rows):
    return {u: rows.row(r).tolist() for r, u in enumerate(cases.user_idx.tolist())}


def test_scoring_test_takes_train_valid_and_context_as_history():
    cases = build_cases(USERS, NUM_EVENTS, CaseSpec())
    assert as_dict(cases, cases.history) == {0: [3, 5, 3, 8, 2], 1: [1], 5: [4]}
    assert as_dict(cases, cases.relevant) == {0: [4, 9], 1: [6], 5: [1, 3]}
    assert as_dict(cases, cases.masked) == {0: [2, 3, 5, 8], 1: [1], 5: [4]}
    assert cases.is_cold.tolist() == [False, True, True]


def test_every_count_is_right():
    counts = build_cases(USERS, NUM_EVENTS, CaseSpec()).counts
    assert counts == {
        "users_known": 6,
        "users_without_held_out_items": 1,
        "users_without_history": 1,
        "users_with_all_relevant_seen": 1,
        "users_eligible": 3,
        "users": 3,
        "users_warm": 1,
        "users_cold": 2,
        "history_events": 7,
        "history_events_unknown": 0,
        "median_history_events": 1.0,
        "held_out_items": 6,  # {4, 5, 9}, {6}, {1, 3}
        "held_out_items_seen": 1,
        "relevant_items": 5,
        "relevant_items_unknown": 1,
        "masked_items": 6,
    }
    unscored = counts["users_without_held_out_items"] + counts["users_without_history"]
    assert counts["users_known"] == unscored + counts["users_with_all_relevant_seen"] + counts["users_eligible"]


def test_a_history_runs_by_time_where_validation_items_lie_between_train_items():
    """user_share holds out items of any time, and the table has them behind all train items."""
    parts, days = [([3, 5, 4], [8, 6], [], [9])], [[1, 3, 5, 2, 5, 7]]
    cases = build_cases(build_histories(parts, days), NUM_EVENTS, CaseSpec())
    assert cases.history.row(0).tolist() == [3, 8, 5, 4, 6]  # at one time as in the table
    assert read_by_time(build_histories(parts, days))[0].row(0).tolist() == [3, 8, 5, 4, 6, 9]


def test_history_train_leaves_valid_out_and_keeps_context():
    cases = build_cases(USERS, NUM_EVENTS, CaseSpec(history="train"))
    assert as_dict(cases, cases.history) == {0: [3, 5, 3, 2], 1: [1], 4: [6]}
    assert as_dict(cases, cases.relevant) == {0: [4, 9], 1: [6], 4: [7]}
    assert as_dict(cases, cases.masked)[0] == [2, 3, 5]  # 8 is no history now, so it may be listed


def test_scoring_valid_finds_valid_items_from_train_and_context():
    cases = build_cases(USERS, NUM_EVENTS, CaseSpec(split="valid"))
    assert as_dict(cases, cases.history) == {0: [3, 5, 3, 2], 2: [1], 4: [6]}
    assert as_dict(cases, cases.relevant) == {0: [8], 2: [2], 4: [7]}


def test_unmasked_seen_items_are_relevant_and_may_be_listed():
    cases = build_cases(USERS, NUM_EVENTS, CaseSpec(mask_seen=False))
    assert as_dict(cases, cases.relevant) == {0: [4, 5, 9], 1: [6], 4: [6, 7], 5: [1, 3]}
    assert cases.masked.lengths.tolist() == [0, 0, 0, 0]
    assert cases.counts["users_with_all_relevant_seen"] == 0
    assert cases.counts["masked_items"] == 0


def test_max_users_takes_the_same_users_whoever_else_is_there():
    many = histories(*[([1], [], [], [2])] * 200)
    chosen = build_cases(many, NUM_EVENTS, CaseSpec(max_users=50))
    assert len(chosen) == chosen.counts["users"] == 50
    assert chosen.counts["users_eligible"] == 200
    assert np.all(np.diff(chosen.user_idx) > 0)
    assert chosen.user_idx.tolist() != list(range(50))
    fewer = build_cases(many.slice(0, 100), NUM_EVENTS, CaseSpec(max_users=50)).user_idx
    assert set(chosen.user_idx[chosen.user_idx < 100]) <= set(fewer)


def test_random_histories_equal_a_slow_reading_of_the_rules():
    random = np.random.default_rng(5)
    users = [tuple(random.integers(0, 10, random.integers(0, 4)).tolist() for _ in range(4)) for _ in range(300)]
    cases = build_cases(histories(*users), NUM_EVENTS, CaseSpec())
    expected = {}
    for idx, (train, valid, context, test) in enumerate(users):
        history = train + valid + context
        relevant = sorted(set(test) - set(history))
        if history and relevant:
            expected[idx] = (history, relevant, sorted(set(history)), not train)
    assert as_dict(cases, cases.history) == {u: e[0] for u, e in expected.items()}
    assert as_dict(cases, cases.relevant) == {u: e[1] for u, e in expected.items()}
    assert as_dict(cases, cases.masked) == {u: e[2] for u, e in expected.items()}
    assert cases.is_cold.tolist() == [e[3] for e in expected.values()]


def test_nobody_to_score_says_why():
    with pytest.raises(DataError) as error:
        build_cases(histories(([1], [], [], []), ([], [], [], [2]), ([3], [], [], [3])), NUM_EVENTS, CaseSpec())
    assert str(error.value) == (
        "evaluate: no user can be scored on split test: of 3 users 1 have no test events, 1 no history (train+valid "
        "and context), 1 nothing relevant that is unseen; move split.cut, choose another split.kind, or set "
        "evaluate.mask_seen to false"
    )
