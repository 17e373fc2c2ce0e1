"""What a tree of processes cost: children that live, children that ended, and the memory of all."""

import subprocess
import sys

from benchmarks.process_tree import MemoryWatch, cpu_seconds, memory_bytes, timed_tree

_BUSY = "import time; end = time.process_time() + .5\nwhile time.process_time() < end: pass"
_HOLD = "held = bytearray(100_000_000); print(len(held), flush=True); input()"


def test_a_child_counts_while_it_lives_and_once_it_was_waited_for():
    before = cpu_seconds()
    with timed_tree() as timing:
        child = subprocess.Popen([sys.executable, "-c", f"{_BUSY}\ninput()"], stdin=subprocess.PIPE)
        while cpu_seconds() < before + 0.5:
            assert child.poll() is None
        child.communicate(b"\n")
    assert timing.cpu >= 0.5
    assert timing.wall >= timing.cpu / 4


def test_memory_is_that_of_the_whole_tree():
    before = memory_bytes()
    with MemoryWatch() as watch:
        child = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.readline()
        assert memory_bytes()["total"] >= before["total"] + 80_000_000
        while watch.peak["python"] < before["python"] + 80_000_000:
            assert child.poll() is None
        child.communicate(b"\n")
    assert watch.peak["total"] >= watch.peak["python"] > 0
    assert watch.peak["jvm"] < before["jvm"] + 80_000_000  # the tests' own Spark may run beside it
