"""Memory that a process keeps for its next arrays."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from recspark.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_arrays_of_one_size_take_the_memory_of_the_last_one() -> None:
    given_back, kept = count_faults("given back"), count_faults("kept")
    assert given_back > 200  # 800 MB, by huge pages at least
    assert kept < given_back / 10
