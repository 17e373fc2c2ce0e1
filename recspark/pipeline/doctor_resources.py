"""Memory and disk: what the machine, or its container, has, and whether that is enough for a config's JVM."""

import re
import shutil

from recspark.config.schema import SparkConfig
from recspark.memory import gib, total_memory_bytes
from recspark.pipeline.doctor_check import FAIL, OK, WARN, Check

_GIB = 2**30
_MIN_MEMORY_GIB = 4
_MIN_DISK_GIB = 5
_HEAP_SHARE = 0.75
"""Of the memory, at most: the JVM's Python workers stand beside it and need some too."""
_SIZE = re.compile(r"([1-9][0-9]*)([kmgt]?)b?")
_UNITS = {"k": 2**10, "m": 2**20, "": 2**20, "g": 2**30, "t": 2**40}
"""Of Spark's memory sizes: 4g, 4096m or 4096."""


def check_memory() -> Check:
    """Whether the chain fits at all."""
    total = total_memory_bytes() / _GIB
    status = OK if total >= _MIN_MEMORY_GIB else WARN
    return Check("memory", status, f"{total:.0f} GiB", f"{_MIN_MEMORY_GIB} GiB", "lower spark.driver_memory")


def check_disk(place: str) -> Check:
    """Whether there is room where the lake is, or will be."""
    free = shutil.disk_usage(place).free / _GIB
    status = OK if free >= _MIN_DISK_GIB else WARN
    return Check(
        "disk", status, f"{free:.0f} GiB free in {place}", f"{_MIN_DISK_GIB} GiB", "free some, or move paths.lake"
    )


def check_heap(spark: SparkConfig) -> Check:
    """Whether the JVM's heap fits the machine: Spark starts with any, and the system kills it when it is used."""
    name = "spark.conf spark.driver.memory" if "spark.driver.memory" in spark.conf else "spark.driver_memory"
    wanted = spark.conf.get("spark.driver.memory", spark.driver_memory)
    total = total_memory_bytes()
    needed = f"at most {gib(_HEAP_SHARE * total)}, three quarters of the memory"
    heap = _read_size(wanted)
    if heap is None:
        return Check("driver memory", FAIL, f"{name} {wanted!r}", needed, f"set {name} to a size such as 4g")
    status = OK if heap <= _HEAP_SHARE * total else WARN if heap <= total else FAIL
    mend = f"set {name} to {_suggest_heap(total)}: Python workers and the system need the rest"
    return Check("driver memory", status, f"{name} {wanted}, memory {gib(total)}", needed, mend)


def _read_size(text: str) -> int | None:
    """Bytes of a Spark memory size; None for a text that is none."""
    match = _SIZE.fullmatch(text.strip().lower())
    return int(match[1]) * _UNITS[match[2]] if match else None


def _suggest_heap(total: int) -> str:
    """Half of the memory, in whole GiB where there are any."""
    return f"{total // 2 // _GIB}g" if total >= 2 * _GIB else f"{total // 2 // 2**20}m"
