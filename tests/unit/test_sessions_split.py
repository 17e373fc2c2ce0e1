"""Times of the config, and which column orders a user's events. (Needs pyspark to import, but starts no JVM.)"""

import pytest

from recspark.errors import ConfigError
from recspark.sessions.split import event_order, parse_time_us

FEBRUARY_16 = 1_771_200_000_000_000  # date -u -d 2026-02-16 +%s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-16", FEBRUARY_16),
        ("2026-02-16T00:00:00Z", FEBRUARY_16),
        ("2026-02-16 01:00:00+01:00", FEBRUARY_16),
        ("2026-02-16T00:00:00.000001", FEBRUARY_16 + 1),
        ("1969-12-31T23:59:59", -1_000_000),
    ],
)
def test_times_are_utc_where_they_name_no_zone(text, expected):
    assert parse_time_us(text, "split.cut") == expected


def test_a_bad_time_names_its_key():
    with pytest.raises(ConfigError, match=r"split.valid.cut: '16.02.2026' is not an ISO time such as 2026-02-16"):
        parse_time_us("16.02.2026", "split.valid.cut")


def test_unordered_sources_are_sorted_by_item():
    assert event_order("time") == event_order("position") == ("ts", "event_id", "item_id")
    assert event_order("none") == ("ts", "item_id", "event_id")
