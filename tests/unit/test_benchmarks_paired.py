"""Paired runs: order, ratios and which of the two counts."""

import pytest

from benchmarks.lines import speed_line
from benchmarks.paired import Paired, Timing, run_pairs, timed

PAIRED = Paired(project=[Timing(1, 2), Timing(2, 2), Timing(1, 1)], peer=[Timing(8, 8), Timing(8, 6), Timing(6, 9)])


def test_ratios_are_of_one_pair_each():
    wall, cpu = PAIRED.spread("wall"), PAIRED.spread("cpu")
    assert (wall.median, wall.low, wall.high) == (6, 4, 8)  # 8/1, 8/2, 6/1
    assert (cpu.median, cpu.low, cpu.high) == (4, 3, 9)  # 8/2, 6/2, 9/1
    assert PAIRED.lower == "cpu"
    assert PAIRED.median_seconds("peer") == {"wall": 8, "cpu": 8}


def test_who_begins_alternates():
    calls = []

    def side(name, seconds):
        calls.append(name)
        return Timing(seconds, seconds)

    paired = run_pairs(lambda: side("peer", 6.0), lambda: side("project", 2.0), 3)
    assert calls == ["peer", "project", "project", "peer", "peer", "project"]
    assert [t.wall for t in paired.project] == [2.0] * 3
    assert paired.spread("wall").median == 3


def test_the_lower_ratio_counts_unless_one_is_named():
    line = speed_line("sgns", "gensim", PAIRED, {"tokens": 5}, {"python": "3"}, "cmd", tokens_per_second=7)
    assert (line["ratio"], line["ratio_min"], line["ratio_max"], line["ratio_of"]) == (4, 3, 9, "cpu")
    assert (line["wall_ratio"], line["cpu_ratio"], line["runs"], line["tokens_per_second"]) == (6, 4, 3, 7)
    assert speed_line("ranks", "one", PAIRED, {}, {}, "cmd", counts="wall")["ratio"] == 6


def test_a_block_is_timed_in_both_ways():
    with timed() as timing:
        sum(i * i for i in range(200_000))
    assert timing.wall > 0
    assert timing.cpu == pytest.approx(timing.wall, rel=2, abs=0.5)
