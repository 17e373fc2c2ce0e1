"""How much memory there is, and how much of it this process may still take."""

import ctypes
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Of glibc's mallopt(3)."""
_LARGEST_INT, _HEAP_STEP_BYTES = 2**31 - 1, 64 << 20


def free_memory_bytes() -> int:
    """Bytes the machine, or the container's limit where that is lower, has left."""
    limits = [_machine_free(), _cgroup_free()]
    return min(limit for limit in limits if limit is not None)


def total_memory_bytes() -> int:
    """Bytes the machine, or the container where that is less, has in all."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    return machine if limit is None else min(machine, limit)


def gib(num_bytes: float) -> str:
    """A size for people, such as ``1.5 GiB``."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _machine_free() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # macOS says only how much there is: half of it is a fair guess.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_free() -> int | None:
    try:
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    limit = _cgroup_limit()
    return None if limit is None else max(limit - used, 0)


def _cgroup_limit() -> int | None:
    """The container's limit; None without one (its file says ``max``)."""
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):
        return None


def keep_freed_memory() -> None:
    """Makes this process keep the memory of freed arrays for the next ones, where the C library is glibc.

    By default every array beyond some megabytes is new memory from the system, cleared page by page: a third of a
    training step that makes and frees the same large arrays again and again.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _HEAP_STEP_BYTES)):
        set_option(option, value)
