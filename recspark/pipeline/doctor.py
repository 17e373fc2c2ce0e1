"""What this machine has and the chain needs: each version found, needed, and how to mend it."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recspark.errors import RecsparkError
from recspark.lake.jars import DELTA_VERSION, SPARK_VERSION, find_delta_jars, has_delta_jars
from recspark.lake.java import SUPPORTED_JAVA, find_java

OK, WARN, FAIL = "ok", "warn", "FAIL"
_MIN_MEMORY_GIB = 4
_MIN_DISK_GIB = 5
_MIN_TORCH, _MIN_FAISS = "2.10", "1.15.1"
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the doctor: ``status`` is ok, warn (a part is missing that not everyone needs) or FAIL."""

    name: str
    status: str
    found: str
    needed: str
    mend: str = ""


def check_machine(conf: str | None = None, overrides: Sequence[str] = ()) -> list[Check]:
    """All checks, those of a config and its lake included where one is given."""
    checks = [_check_python(), _check_java(), _check_package("pyspark", SPARK_VERSION),
              _check_package("delta-spark", DELTA_VERSION), _check_jars(), _check_torch(), _check_faiss()]  # fmt: skip
    for name in ("deltalake", "pyarrow", "numba", "pandas"):
        checks.append(_check_installed(name))
    checks.append(_check_memory())
    return checks + (_check_config(conf, overrides) if conf else [_check_disk(os.getcwd())])


def is_fit(checks: list[Check]) -> bool:
    """Whether the whole chain can run."""
    return all(check.status != FAIL for check in checks)


def describe_checks(checks: list[Check]) -> str:
    """One line a check; what to do stands below those that are not ok."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}  (needed: {check.needed})")
        if check.status != OK and check.mend:
            indent = " " * (width + 8)
            lines.append(f"{indent}-> " + check.mend.replace("\n", f"\n{indent}   "))
    verdict = "the chain can run" if is_fit(checks) else "the chain cannot run until every FAIL is mended"
    return "\n".join([*lines, verdict])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check("python", OK if good else FAIL, platform.python_version(), ">= 3.11", "install Python 3.11 or newer")


def _check_java() -> Check:
    needed = " or ".join(map(str, SUPPORTED_JAVA))
    try:
        java = find_java()
    except RecsparkError as error:
        return Check("java", FAIL, "none usable", needed, str(error))
    return Check("java", OK, f"{java.major} from {java.origin} ({java.home})", needed)


def _check_package(name: str, wanted: str) -> Check:
    found = _version(name)
    status = OK if found == wanted else FAIL
    return Check(name, status, found or "not installed", wanted, f"pip install {name}=={wanted}")


def _check_installed(name: str) -> Check:
    found = _version(name)
    return Check(name, OK if found else FAIL, found or "not installed", "any", "pip install 'recspark[all]'")


def _check_jars() -> Check:
    needed = f"Delta {DELTA_VERSION}"
    if has_delta_jars():
        return Check("delta jars", OK, f"in {os.environ.get('SPARK_HOME')}/jars", needed)
    if found := find_delta_jars():
        return Check("delta jars", OK, f"{len(found)} in the Ivy cache", needed)
    mend = "run `python -m recspark.lake.jars` once with access to Maven Central, or put them into $SPARK_HOME/jars"
    return Check("delta jars", WARN, "not fetched yet; the first run fetches them", needed, mend)


def _check_torch() -> Check:
    return _check_engine(
        "torch", f">= {_MIN_TORCH}; a GPU is optional", "pip install 'recspark[train]'", _look_at_torch
    )


def _check_faiss() -> Check:
    mend = "pip install 'recspark[index]' (or [index-gpu])"
    return _check_engine("faiss", f">= {_MIN_FAISS}; a GPU is optional", mend, _look_at_faiss)


def _check_engine(name: str, needed: str, mend: str, look: Callable[[], tuple[bool, str]]) -> Check:
    """An engine is loaded to look at it: a broken installation is a finding, not a crash."""
    try:
        is_good, found = look()
    except ImportError as error:
        return Check(name, FAIL, f"cannot be imported: {error}", needed, mend)
    return Check(name, OK if is_good else FAIL, found, needed, mend)


def _look_at_torch() -> tuple[bool, str]:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = f"CUDA {torch.version.cuda}, {gpus} GPU" if gpus else "no CUDA device: trains on the CPU"
    return is_at_least(torch.__version__, _MIN_TORCH), f"{torch.__version__}, {device}"


def _look_at_faiss() -> tuple[bool, str]:
    import faiss

    count: Callable[[], int] = getattr(faiss, "get_num_gpus", lambda: 0)
    return is_at_least(faiss.__version__, _MIN_FAISS), f"{faiss.__version__}, {count()} GPU"


def is_at_least(version: str, wanted: str) -> bool:
    """Whether a version such as 2.15.0+cu132 is not older than one such as 2.10."""
    found = [int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return found >= [int(n) for n in wanted.split(".")]


def _check_memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    status = OK if total >= _MIN_MEMORY_GIB else WARN
    return Check("memory", status, f"{total:.0f} GiB", f"{_MIN_MEMORY_GIB} GiB", "lower spark.driver_memory")


def _check_disk(place: str) -> Check:
    free = shutil.disk_usage(place).free / _GIB
    status = OK if free >= _MIN_DISK_GIB else WARN
    return Check(
        "disk", status, f"{free:.0f} GiB free in {place}", f"{_MIN_DISK_GIB} GiB", "free some, or move paths.lake"
    )


def _check_config(conf: str, overrides: Sequence[str]) -> list[Check]:
    from recspark.pipeline.open_run import open_run

    needed = "a config without problems, a source that is there and as it says"
    try:
        run = open_run(conf, overrides)
    except RecsparkError as error:
        return [Check("config", FAIL, conf, needed, str(error)), _check_disk(os.getcwd())]
    config = Check("config", OK, f"{conf}: {len(run.stages)} stages, lake {run.lake}", needed)
    return [config] if "://" in run.lake else [config, _check_disk(_existing_parent(run.lake))]


def _existing_parent(path: str) -> str:
    place = Path(path).absolute()
    return str(next(p for p in (place, *place.parents) if p.exists()))
