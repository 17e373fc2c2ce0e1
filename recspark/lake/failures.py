"""What engines say of a full disk, a lost file or another writer, told in our words whoever said it.

    SparkException ... TASK_WRITE_FAILED ... java.io.IOException: No space left on device
      ->  sessions: the disk is full (No space left on device), 0.1 GiB are free in /data/lake; make room there and ...

No engine is imported: Spark's, arrow's, delta-rs' and faiss' errors have nothing in common but their texts.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from recspark.errors import LakeError, RecsparkError, SetupError, full_text
from recspark.lake.storage import join

_FULL_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "There is not enough space on the disk",
)
"""What systems say of a disk, a quota or a largest file size that is used up."""
_GONE = ("FILE_NOT_EXIST", "FileNotFoundException", "DELTA_FILE_NOT_FOUND", "PATH_NOT_FOUND", "does not exist")
_DAMAGED = (
    "Checksum error",
    "CRC checksum verification failed",
    "is not a Parquet file",
    "FAILED_READ_FILE",
    "CANNOT_READ_FILE_FOOTER",
    "EOFException",
)
"""What Spark's messages say of files that cannot be read, the most telling first."""
_OTHER_WRITER = re.compile(
    r"\bDELTA_(?:CONCURRENT_\w+|METADATA_CHANGED|PROTOCOL_CHANGED)|"
    r"\b(?:Concurrent(?:Write|Append|DeleteRead|DeleteDelete|Transaction)|MetadataChanged|ProtocolChanged)Exception\b"
)


@contextmanager
def explaining_failures(stage: str, lake: str) -> Iterator[None]:
    """Turns what an engine raises where the machine or the lake is at fault into one message.

    Raises: SetupError for a full disk; LakeError for a lost or damaged data file of our tables, and for another writer.
    """
    try:
        yield
    except RecsparkError:
        raise
    except Exception as error:
        problem = _explain(full_text(error), stage, lake)
        if problem is None:
            raise
        raise problem from error


def is_of_lake(text: str, lake: str) -> bool:
    """Whether an engine's message is about a full disk or a data file of our tables, and not about a source."""
    return find_full_disk(text) is not None or _find_data_file(text, lake) is not None


def find_full_disk(text: str) -> str | None:
    """The words for a full disk in an engine's message, None without any."""
    return next((sign for sign in _FULL_DISK if sign in text), None)


def _explain(text: str, stage: str, lake: str) -> RecsparkError | None:
    if sign := find_full_disk(text):
        return _full_disk(sign, stage, lake)
    if found := _find_data_file(text, lake):
        return _lost_file(*found, text, stage, lake)
    if other := _OTHER_WRITER.search(text):
        return LakeError(
            f"{stage}: another run committed to the same table of {lake} meanwhile ({other[0]}), and this one did not; "
            f"run again when it is done"
        )
    return None


def _full_disk(sign: str, stage: str, lake: str) -> SetupError:
    places = [f"paths.lake {lake}{_free(lake)}", f"scratch space {tempfile.gettempdir()}{_free(tempfile.gettempdir())}"]
    return SetupError(
        f"{stage}: the disk is full ({sign}): {', '.join(places)}. Make room, or move paths.lake or the scratch space "
        f"(spark.conf.spark.local.dir, TMPDIR), then run again: nothing of an unfinished stage counts, the run goes on "
        f"from the last finished one"
    )


def _free(place: str) -> str:
    """Free space of a local place, in brackets; nothing of a store."""
    try:
        return f" ({shutil.disk_usage(place).free / 2**30:.1f} GiB free)" if "://" not in place else ""
    except OSError:
        return ""


def _find_data_file(text: str, lake: str) -> tuple[str, str] | None:
    """(table, file) of the first data file of our tables that cannot be read; None where the message names none."""
    if not any(sign in text for sign in (*_GONE, *_DAMAGED)):
        return None
    below = re.escape(join(lake, "tables").split("://")[-1])
    found = re.search(rf"{below}/(?P<table>[a-z_]+)/[^\s,;'\")\]]*?(?P<file>[^/\s]+\.parquet)", text)
    return (found["table"], found["file"]) if found else None


def _lost_file(table: str, file: str, text: str, stage: str, lake: str) -> LakeError:
    uri = join(lake, "tables", table)
    is_gone = any(sign in text for sign in _GONE)
    cause = "is gone" if is_gone else f"is damaged ({next(sign for sign in _DAMAGED if sign in text)})"
    return LakeError(
        f"{stage}: a data file of {uri} {cause}: {file}; restore it, or remove {uri} and run `recspark run CONF` "
        f"again: what wrote the table is built anew"
    )
