"""What this machine has and the chain needs: each version found, needed, and how to mend it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from recspark.errors import RecsparkError
from recspark.lake.jars import DELTA_VERSION, SPARK_VERSION, find_delta_jars, has_delta_jars
from recspark.lake.java import find_java

OK, WARN, FAIL = "ok", "warn", "FAIL"
_MIN_MEMORY_GIB = 4
_MIN_DISK_GIB = 5
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the doctor: ``status`` is ok, warn (a part is missing that not everyone needs) or FAIL."""

    name: str
    status: str
    found: str
    needed: str
    mend: str = ""


def check_machine(conf: str | None = None) -> list[Check]:
    """All checks, those of a config's lake included where one is given."""
    checks = [_check_python(), _check_java(), _check_package("pyspark", SPARK_VERSION),
              _check_package("delta-spark", DELTA_VERSION), _check_jars(), _check_torch(), _check_faiss()]  # fmt: skip
    for name in ("deltalake", "pyarrow", "numba", "pandas"):
        checks.append(_check_installed(name))
    checks += [_check_memory(), _check_disk(os.getcwd())]
    return checks + (_check_config(conf) if conf else [])


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
            lines.append(f"{'':<{width + 8}}-> {check.mend}")
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
    try:
        java = find_java()
    except RecsparkError as error:
        return Check("java", FAIL, "none usable", "17 or 21", str(error))
    return Check("java", OK, f"{java.major} from {java.origin} ({java.home})", "17 or 21")


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
    if not _version("torch"):
        return Check("torch", FAIL, "not installed", ">= 2.10", "pip install 'recspark[train]'")
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = f"CUDA {torch.version.cuda}, {gpus} GPU" if gpus else "no CUDA device: trains on the CPU"
    return Check("torch", OK, f"{torch.__version__}, {device}", ">= 2.10; a GPU is optional")


def _check_faiss() -> Check:
    if importlib.util.find_spec("faiss") is None:
        return Check("faiss", FAIL, "not installed", "1.15.1", "pip install 'recspark[index]' (or [index-gpu])")
    import faiss

    count: Callable[[], int] = getattr(faiss, "get_num_gpus", lambda: 0)
    return Check("faiss", OK, f"{faiss.__version__}, {count()} GPU", "1.15.1; a GPU is optional")


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


def _check_config(conf: str) -> list[Check]:
    from recspark.pipeline.open_run import open_run

    try:
        run = open_run(conf)
    except RecsparkError as error:
        return [Check("config", FAIL, conf, "a config without problems and a source that is there", str(error))]
    return [Check("config", OK, f"{conf}: {len(run.stages)} stages, lake {run.lake}", "a config without problems")]
