"""SHA-256 of tables' data files, read whole and in blocks: bit rot leaves names, sizes and row counts as they are.

part-00000-5f0c....parquet  ->  {"part-00000-5f0c....parquet": "9c1e..."}
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from recspark.errors import LakeError, first_line
from recspark.lake.folders import hash_file
from recspark.lake.storage import join

_FILES_AT_ONCE = 4


def hash_files(uri: str, files: Sequence[str]) -> dict[str, str]:
    """File -> SHA-256, of files below a table; costs one reading of them, of 1 MiB a file at a time.

    Raises: LakeError naming a file that cannot be read.
    """
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return dict(zip(files, pool.map(partial(_hash, uri), files), strict=True))


def _hash(uri: str, file: str) -> str:
    try:
        return hash_file(uri, file).sha256
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{join(uri, file)}: the data file cannot be read ({first_line(error)}); restore it") from error
