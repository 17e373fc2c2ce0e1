"""Sides as processes: calls, errors, and nothing on standard output but answers. And what a command's tree costs."""

import sys

import pytest

from benchmarks.lines import BenchmarkError
from benchmarks.metered import run_metered
from benchmarks.worker import Worker, WorkerError, serve

_MODULE = "tests.unit.test_benchmarks_worker"


def _add(a, b):
    print("noise of a library")
    return {"sum": a + b}


def _leave():
    sys.exit(3)


def test_calls_are_answered_in_a_process_that_stays(capfd):
    with Worker(_MODULE) as worker:
        assert worker.ask("add", a=1, b=2) == {"sum": 3}
        assert worker.ask("add", a=5, b=2) == {"sum": 7}
        with pytest.raises(WorkerError, match=r"add failed:(.|\n)*unsupported operand"):
            worker.ask("add", a=5, b=None)
        assert worker.ask("add", a=1, b=1) == {"sum": 2}
    assert "noise of a library" in capfd.readouterr().err


def test_an_end_in_mid_call_is_told():
    with Worker(_MODULE) as worker, pytest.raises(WorkerError, match="ended with 3 during 'leave'"):
        worker.ask("leave")


ORPHAN = """
import subprocess, sys
busy = "import time; end = time.process_time() + 1\\nwhile time.process_time() < end: pass"
subprocess.Popen([sys.executable, "-c", busy])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans over")
def test_the_cost_of_a_command_includes_children_it_did_not_wait_for():
    assert run_metered([sys.executable, "-c", ORPHAN]).cpu > 0.9


def test_a_command_that_fails_is_named():
    with pytest.raises(BenchmarkError, match=r"-c raise SystemExit\(4\)` ended with code 4"):
        run_metered([sys.executable, "-c", "raise SystemExit(4)"])


if __name__ == "__main__":
    serve({"add": _add, "leave": _leave})
