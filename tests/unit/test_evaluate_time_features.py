"""Codes of moments against the calendar, by loops; the same in torch; the last event is strictly before."""

import datetime as dt

import numpy as np
import pytest
import torch

from recspark.errors import QueryError
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import DAY, HOUR, NAMES, NEVER, SINCE_LAST, SIZES, encode_times, find_last
from recspark.models.time_sum import TimeSum
from recspark.retrieval.moments import find_moment

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MINUTE_US = 60_000_000


def micros(time):
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def draw_moments(num=2000):
    """(moments, last events), from microseconds to years apart; some last ones at the moment, behind it, or none."""
    random = np.random.default_rng(0)
    moment_us = random.integers(0, micros(dt.datetime(2100, 1, 1, tzinfo=dt.UTC)), num)
    gap_us = np.exp(random.uniform(0, np.log(3e14), num)).astype(np.int64)
    last_us = moment_us - np.where(random.random(num) < 0.1, -gap_us, gap_us)
    last_us[::50] = moment_us[::50]
    last_us[1::50] = NEVER
    return moment_us, np.where((last_us < 0), NEVER, last_us)


def test_codes_are_those_of_the_calendar():
    moment_us, last_us = draw_moments()
    found = encode_times(NAMES, moment_us, last_us)
    for moment, last, (hour, day, since) in zip(moment_us.tolist(), last_us.tolist(), found.tolist(), strict=True):
        time = EPOCH + dt.timedelta(microseconds=moment)
        assert (hour, day) == (time.hour + 1, time.isoweekday())
        if last == NEVER or last >= moment:
            assert since == 0
            continue
        expected, edge = 1, MINUTE_US
        while expected < 21 and moment - last >= edge:
            expected, edge = expected + 1, 2 * edge
        assert since == expected
    assert set(found[:, 2].tolist()) == set(range(22))


def test_the_example_of_the_module():
    moment, last = (micros(dt.datetime(2026, 2, 1, 14, m, tzinfo=dt.UTC)) for m in (30, 10))
    assert encode_times(NAMES, np.array([moment]), np.array([last])).tolist() == [[15, 7, 6]]


def test_what_is_not_known_is_code_0_and_says_nothing():
    nothing = np.array([NEVER])
    assert encode_times(NAMES, nothing, nothing).tolist() == [[0, 0, 0]]
    assert encode_times([SINCE_LAST], np.array([5]), nothing).tolist() == [[0]]
    torch.manual_seed(0)
    assert not TimeSum(NAMES, 4)(torch.zeros(1, 3, dtype=torch.int64)).any()


def test_codes_fit_the_tables():
    moment_us, last_us = draw_moments()
    found = encode_times(NAMES, moment_us, last_us)
    assert found.max(axis=0).tolist() == [SIZES[name] - 1 for name in NAMES]


@pytest.mark.parametrize("names", [NAMES, (SINCE_LAST,), (DAY, HOUR)])
def test_torch_makes_the_same_codes(names):
    moment_us, last_us = draw_moments()
    moment_us = np.append(moment_us, -1)
    last_us = np.where(np.append(last_us, NEVER) == NEVER, -1, np.append(last_us, NEVER))
    module = TimeSum(names, 4)
    found = module.encode(torch.from_numpy(moment_us), torch.from_numpy(last_us)).numpy()
    unknown = np.where(moment_us < 0, NEVER, moment_us)
    np.testing.assert_array_equal(found, encode_times(names, unknown, np.where(last_us < 0, NEVER, last_us)))
    codes = torch.from_numpy(found)
    expected = sum(module.maps[name].weight[codes[:, f]] for f, name in enumerate(names))
    torch.testing.assert_close(module(codes), expected)


def test_the_last_event_is_the_newest_strictly_before():
    random = np.random.default_rng(1)
    rows = [random.integers(0, 9, random.integers(0, 6)).tolist() for _ in range(60)]
    history, moments = Ragged.from_rows(rows), random.integers(0, 10, 60)
    found = find_last(history, history.values.astype(np.int64), moments)
    for row, moment, last in zip(rows, moments.tolist(), found.tolist(), strict=True):
        assert last == max((ts for ts in row if ts < moment), default=NEVER)


def test_a_moment_is_now_or_an_iso_time():
    assert find_moment("2026-02-01T01:00:00+01:00", "x") == micros(dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    assert find_moment("2026-02-01", "x") == find_moment(dt.datetime(2026, 2, 1), "x")
    before = micros(dt.datetime.now(dt.UTC))
    assert before <= find_moment(None, "x") <= micros(dt.datetime.now(dt.UTC))
    with pytest.raises(QueryError, match=r"query: --at: 'noon' is not an ISO time such as 2026-02-16 or 2026"):
        find_moment("noon", "query: --at")
