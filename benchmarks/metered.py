"""Runs a command and prints what it cost, as one line of JSON: wall, cpu-seconds of the whole tree, exit code.

python -m benchmarks.metered COMMAND ...

A JVM is not waited for by the Python that started it, so its cpu-seconds are lost to the usual accounts. Where the
system allows it (Linux), orphans of the command become children of this process, which waits for them and counts them.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.lines import BenchmarkError
from benchmarks.paired import Timing
from benchmarks.places import ROOT

_SET_CHILD_SUBREAPER = 36


def run_metered(command: Sequence[str]) -> Timing:
    """What a command cost; its output goes to standard error.

    Raises: BenchmarkError when it ends badly.
    """
    own = [sys.executable, "-m", "benchmarks.metered", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(own, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"`{' '.join(command)}` ended with code {done.returncode}; its errors stand above")
    found = json.loads(done.stdout.splitlines()[-1])
    return Timing(found["wall"], found["cpu"])


def _main(command: Sequence[str]) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    wall = time.perf_counter() - started
    _wait_for_orphans()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime}))
    return code


def _wait_for_orphans() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
