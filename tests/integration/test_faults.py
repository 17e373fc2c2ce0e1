"""Workers that die in the middle of a task change nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import dying_workers

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]


def test_workers_that_die_once_in_any_kernel_change_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.dying_workers", "local[2,4]", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["died"] == [dying_workers.GENERATOR, *(name for _, name in dying_workers.KERNELS)]
    assert len(found["calm"]) > 8
    assert found["mortal"] == found["calm"]
