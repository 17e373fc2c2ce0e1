"""What this machine has and the chain needs: each version found, needed, and how to mend it."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence

from recspark.errors import RecsparkError
from recspark.lake.jars import DELTA_VERSION, SPARK_VERSION, find_delta_jars, has_delta_jars
from recspark.lake.java import SUPPORTED_JAVA, find_java
from recspark.pipeline.doctor_check import FAIL, OK, WARN, Check
from recspark.pipeline.doctor_resources import check_disk, check_memory

_MIN_TORCH, _MIN_FAISS = "2.10", "1.15.1"


def check_machine(conf: str | None = None, overrides: Sequence[str] = ()) -> list[Check]:
    """All checks, those of a config and its lake included where one is given."""
    checks = [_check_python(), _check_java(), _check_package("pyspark", SPARK_VERSION),
              _check_package("delta-spark", DELTA_VERSION), _check_jars(), _check_torch(), _check_faiss()]  # fmt: skip
    for name in ("deltalake", "pyarrow", "numba", "pandas"):
        checks.append(_check_installed(name))
    checks.append(check_memory())
    if conf is None:
        return [*checks, check_disk(os.getcwd())]
    from recspark.pipeline.doctor_config import check_config  # needs packages that may be what is missing

    return checks + check_config(conf, overrides)


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
