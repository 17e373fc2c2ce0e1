"""How many CPUs this process may use: fewer than the machine has under taskset, Slurm or a container's limit."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def count_cpus() -> int:
    """Those of this process's affinity, and of its control group's quota (a started one counts)."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(allowed, _read_quota() or allowed))


def _read_quota() -> int | None:
    """CPUs of the quota in ``cpu.max`` ("150000 100000": 1.5, so 2), None without one."""
    try:
        quota, period = _QUOTA.read_text().split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None
