"""How processes end: with their code, all output and exit handlers, and without the interpreter's tear-down."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from recspark.ending import calm_ending

class Fragile:
    def __del__(self):
        print("torn down")

held = Fragile()
with calm_ending():
    atexit.register(lambda: print("handler"))
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("work")
    {end}
"""


def run(end: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PROGRAM.format(end=end)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("end", "code"), [("pass", 0), ("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1)]
)
def test_threads_and_handlers_end_their_work_and_nothing_is_torn_down(end, code):
    done = run(end)
    assert done.returncode == code
    assert done.stdout.split() == ["work", "thread", "handler"]
    assert done.stderr.strip() == ("why" if "why" in end else "")


def test_an_exception_ends_as_ever():
    done = run("raise KeyError('lost')")
    assert done.returncode == 1
    assert "KeyError: 'lost'" in done.stderr
    assert "torn down" in done.stdout


def test_output_that_nobody_reads_is_no_success():
    program = PROGRAM.format(end="print('x' * 10); sys.stdout.close()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
