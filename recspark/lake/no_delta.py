"""Why a path of this machine is no Delta table, and what to set instead: often it holds plain files.

/data/shop (a.parquet, b.parquet)   ->   "the folder has no _delta_log; parquet files lie there: ... set ... to parquet"
"""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import urlparse

from recspark.lake.storage import open_filesystem

LOG_FOLDER = "_delta_log"

_FORMATS = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "json": "jsonl", "jsonl": "jsonl", "ndjson": "jsonl"}
_PACKED = {"gz", "bz2", "zst", "snappy", "lz4", "deflate"}
_MAX_FILES = 10_000
"""Looked at of a large folder: enough to tell what it holds."""


def explain_no_table(path: str, kind_key: str | None, format_key: str) -> str | None:
    """What is at a local path without a Delta log, and what to set where files lie there; None for all other paths.

    ``kind_key`` is the config key to set to `files` (None where there is none), ``format_key`` that of the format.
    """
    if urlparse(path).scheme not in ("", "file"):
        return None
    place = Path(open_filesystem(path)[1])
    if (log := place / LOG_FOLDER).is_dir():
        has_commits = any(file.suffix in (".json", ".parquet") for file in log.iterdir())
        return None if has_commits else f"its {LOG_FOLDER} holds no commit; restore it"
    if not place.exists():
        return "no such folder; check the path"
    no_folder = f"it is a file, a table is a folder with {LOG_FOLDER}"
    found = f"the folder has no {LOG_FOLDER}" if place.is_dir() else no_folder
    return f"{found}{_advise(place, kind_key, format_key)}"


def _advise(place: Path, kind_key: str | None, format_key: str) -> str:
    """What to do instead; files below a Delta table are never offered as they lie: removed rows would come back."""
    if above := next((folder for folder in place.parents if (folder / LOG_FOLDER).is_dir()), None):
        return f"; it lies in the Delta table {above}: give that path"
    files = list(islice(_list_files(place), _MAX_FILES))
    if tables := sorted({str(file.parent.parent) for file in files if file.parent.name == LOG_FOLDER}):
        return f"; Delta tables below it: {', '.join(tables[:3])}{', ...' if len(tables) > 3 else ''}"
    formats = Counter(name for file in files if (name := _find_format(file)))
    if not formats:
        return "; check the path"
    (name, _), *_ = formats.most_common(1)
    kind = f"{kind_key} to files and " if kind_key else ""
    return f"; {name} files lie there: to read them set {kind}{format_key} to {name}"


def _list_files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder, name) for name in names)


def _find_format(file: Path) -> str | None:
    """The value of a `format` key that reads a file, by the end of its name; None where none does."""
    ends = [end for end in file.name.lower().split(".")[1:] if end not in _PACKED]
    return _FORMATS.get(ends[-1]) if ends else None
