"""The lines: what they must hold, how they are read and rendered, and what the command line refuses."""

import json
import subprocess
import sys

import pytest

from benchmarks.lines import BenchmarkError, check_line, find_versions, quality_line, read_lines, speed_line, to_text
from benchmarks.paired import Paired, Timing
from benchmarks.places import ROOT
from benchmarks.render import render_quality, render_speed

PAIRED = Paired([Timing(1, 2)], [Timing(8, 8)])
SPEED = speed_line(
    "sgns", "gensim workers=1", PAIRED, {"tokens": 5_000_000}, {"python": "3.11"}, "python -m benchmarks sgns"
)
QUALITY = quality_line(
    "gowalla", "rp3beta", "rp3beta", "recall@20", {1: 0.18, 2: 0.2}, 12.34, "python -m benchmarks quality"
)


def test_a_quality_line_is_a_mean_over_seeds():
    assert (QUALITY["value"], QUALITY["seeds"], QUALITY["values"]) == (pytest.approx(0.19), [1, 2], [0.18, 0.2])
    assert QUALITY["std"] == pytest.approx(0.0141421, abs=1e-6)  # of a sample: sqrt(2 x .01^2 / 1)
    assert quality_line("d", "m", "k", "hr@10", {7: 0.5}, 1.0, "c")["std"] == 0


def test_text_is_one_json_object_with_rounded_floats():
    line = json.loads(to_text(QUALITY | {"value": 0.123456789, "deep": {"x": [1.23456789]}}))
    assert (line["value"], line["deep"]) == (0.123457, {"x": [1.23457]})
    for found in (SPEED, QUALITY):
        assert "\n" not in to_text(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": None}, "ratio: expected int or float, got None"),
        ({"runs": True}, "runs: expected int, got True"),
        ({"work": "5 tokens"}, "work: expected dict, got '5 tokens'"),
        ({"ratio_max": float("inf")}, "ratio_max: inf is no finite number"),
    ],
)
def test_what_is_no_line_is_refused(change, message):
    with pytest.raises(BenchmarkError, match=message):
        check_line(SPEED | change)


def test_a_quality_line_has_other_keys():
    with pytest.raises(BenchmarkError, match="dataset: expected str, got None; model: "):
        check_line({"bench": "quality", "metric": "recall@20"})


def test_lines_are_read_by_file_and_place(tmp_path):
    (tmp_path / "a.jsonl").write_text(to_text(SPEED) + "\n" + to_text(QUALITY) + "\n")
    assert [line["bench"] for line in read_lines(tmp_path)] == ["sgns", "quality"]
    (tmp_path / "b.jsonl").write_text(to_text(SPEED) + "\n{oops\n")
    with pytest.raises(BenchmarkError, match=r"b\.jsonl, line 2: "):
        read_lines(tmp_path)


def test_the_newest_of_equal_lines_is_rendered():
    text = render_speed([SPEED, SPEED | {"ratio": 4.5}, SPEED | {"work": {"tokens": 1}}])
    assert text.count("| gensim workers=1 |") == 2
    assert "**4.50** (4.00 to 4.00) cpu" in text
    assert "tokens 5,000,000" in text
    assert "`python -m benchmarks sgns`" in text


def test_what_a_line_holds_besides_is_told_with_brackets():
    line = SPEED | {"peak_memory_mb": {"grown": 1900, "base": 247.5}, "epochs": [1, 2]}
    assert "| peak memory mb (grown 1,900, base 247.5), epochs [1; 2] |" in render_speed([line])


def test_quality_is_a_table_a_data_set():
    other = QUALITY | {"dataset": "dblp", "metric": "micro_f1@5"}
    text = render_quality([QUALITY, other])
    assert text.index("## gowalla") < text.index("## dblp")
    assert "| rp3beta | rp3beta | recall@20 | **0.1900** ± 0.0141 | 1, 2 | 12 | no trials recorded |" in text


def test_the_collected_results_are_lines():
    read_lines(ROOT / "benchmarks" / "results")


def test_versions_name_what_is_missing():
    found = find_versions("numpy", "no-such-package")
    assert found["no-such-package"] == "not installed"
    assert found["recspark"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quality", "gowalla"], "quality: needs DATASET MODEL"),
        (["quality", "moon", "skip_gram"], "no data set 'moon'; one of gowalla, s3-beauty"),
        (["growth", "more"], "growth: takes no further words, got more"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
