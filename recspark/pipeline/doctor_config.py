"""What a config asks for: a source that is there, Delta's own version, a lake that can be written."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs as pafs

from recspark.config import RunConfig, load_config
from recspark.errors import LakeError, RecsparkError, SetupError
from recspark.lake.jars import DELTA_PACKAGE, check_packages
from recspark.lake.storage import check_lake, open_filesystem
from recspark.pipeline.doctor_check import FAIL, OK, Check
from recspark.pipeline.doctor_resources import check_disk, check_heap
from recspark.pipeline.open_run import open_run

_GOOD_CONFIG = "a config without problems, a source that is there and as it says"
_GOOD_LAKE = "a folder or store that can be written"
_MEND_LAKE = "give your user the right to write there, or set paths.lake to another folder"


def check_config(conf: str, overrides: Sequence[str]) -> list[Check]:
    """The checks of a config, its source and its lake; of a config with problems, those alone."""
    try:
        config = load_config(conf, overrides)
    except RecsparkError as error:
        return [Check("config", FAIL, conf, _GOOD_CONFIG, str(error)), check_disk(os.getcwd())]
    return [
        _check_source(conf, overrides),
        check_heap(config.spark),
        *_check_packages(config),
        *_check_lake(config.paths.lake),
    ]


def _check_source(conf: str, overrides: Sequence[str]) -> Check:
    try:
        run = open_run(conf, overrides)
    except RecsparkError as error:
        return Check("config", FAIL, conf, _GOOD_CONFIG, str(error))
    return Check("config", OK, f"{conf}: {len(run.stages)} stages, lake {run.lake}", _GOOD_CONFIG)


def _check_packages(config: RunConfig) -> list[Check]:
    """One line where the config names packages for Spark."""
    packages, needed = config.spark.conf.get("spark.jars.packages"), f"no Delta but {DELTA_PACKAGE}"
    if packages is None:
        return []
    try:
        check_packages(packages)
    except SetupError as error:
        return [Check("spark packages", FAIL, packages, needed, str(error))]
    return [Check("spark packages", OK, packages, needed)]


def _check_lake(lake: str) -> list[Check]:
    """Whether the lake can be written, and, of a local one, how much room it has."""
    try:
        check_lake(lake)
    except LakeError:
        return [check_disk(os.getcwd())]  # the config's line says it
    filesystem, path = open_filesystem(lake)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return [Check("lake", OK, f"{lake} answers; writing is not tried", _GOOD_LAKE)]
    place = next(p for p in (Path(path), *Path(path).parents) if os.path.exists(p))
    flaw = _find_unwritable(place, with_folders=place == Path(path))
    found, status = (flaw, FAIL) if flaw else (f"{path} can be written", OK)
    return [Check("lake", status, found, _GOOD_LAKE, _MEND_LAKE), check_disk(str(place))]


def _find_unwritable(place: Path, with_folders: bool) -> str | None:
    """A folder in which no file can be made, and why: tried with nameless ones, that leave nothing behind."""
    folder = place
    try:
        for folder in [place, *(p for p in place.iterdir() if with_folders and p.is_dir())]:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return None
