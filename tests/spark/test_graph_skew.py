"""Skew that breaks self-joins, in a JVM of half a gigabyte: exact within the stated caps, within the planned memory."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.graph_skew import MILLION, TASK_MEMORY_MB

pytestmark = pytest.mark.spark
CASES = {
    "hot_item_in_blocks": {"hot_items": [7], "capped_events": 0},
    "long_session": {"capped_events": MILLION - 1000},
    "busy_user": {"capped_events": 0, "capped_user_events": 0},
    "busy_user_capped": {"capped_users": 1, "capped_user_events": MILLION - 5_000},
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What each case printed; one JVM for all of them."""
    command = [sys.executable, "-m", "tests.helpers.graph_skew", str(tmp_path_factory.mktemp("skew")), *CASES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=560, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in found}


@pytest.mark.parametrize("case", CASES)
def test_a_skewed_graph_is_exact_within_caps_and_memory(lines, case):
    """Anonymous memory of a Python worker, above that of one that did next to nothing."""
    line = lines[case]
    assert line["wrong"] == 0
    assert line["rows"] > 10_000
    assert line["extra_mb"] <= TASK_MEMORY_MB
    assert {name: line[name] for name in CASES[case]} == CASES[case]
