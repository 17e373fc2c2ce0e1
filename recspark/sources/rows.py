"""Source rows in one shape, whatever they were read from: what every reader yields and `mapping` takes.

row (struct of the source's own columns)   bad_line   source_file
{u: "7", i: "85123A", t: "2010-12-01"}     NULL       file:/data/2010-12-01.csv.gz
{u: NULL, i: NULL, t: NULL}                "7,8512"   file:/data/2010-12-01.csv.gz
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, DataType, StringType, StructType

from recspark.contracts import columns as c
from recspark.errors import SourceError, full_text
from recspark.lake.failures import is_of_lake
from recspark.sources.wanted import DAMAGED, NANOSECONDS, QuotingError, gone_file, retyped_column, unreadable_file

ROW = "row"
BAD_LINE = "bad_line"
BAD_LINE_READ = "_recspark_bad_line"
"""Where Spark's readers put a line that they could not parse."""

_FILE_IN_MESSAGE = re.compile(r"(?:[Ff]ile|[Pp]ath)(?: does not exist)?[ :]+(?P<file>[a-z0-9]+:/[^\s,]+)")
_HEADER_IN_MESSAGE = re.compile(r"Header: (?:.*\n){1,4}?.*CSV file: \S+")
_GONE_SIGNS = ("FILE_NOT_EXIST", "PATH_NOT_FOUND", "FileNotFoundException")
_TYPE_MISMATCH = "PARQUET_COLUMN_DATA_TYPE_MISMATCH"
_MISMATCH_IN_MESSAGE = re.compile(
    r"column (?P<column>.+?)\. Expected Spark type (?P<wanted>.+?), actual Parquet type (?P<found>\w+)"
)
_READ_SIGNS = (
    "Unexpected end of",
    "EOFException",
    "is not a Parquet file",
    "Illegal Parquet type",
    "ZipException",
    "FAILED_READ_FILE",
    "CANNOT_READ_FILE",
    "Checksum error",
    "UNABLE_TO_INFER_SCHEMA",
)
"""What Spark's messages say of files that cannot be read, the most telling first."""


def as_rows(frame: DataFrame, source_file: Column | None = None) -> DataFrame:
    """A reader's frame in the common shape; its own ``BAD_LINE_READ`` column becomes ``bad_line``."""
    missing = F.lit(None).cast("string")
    own = [column for name, column in _mended(frame).items() if name != BAD_LINE_READ]
    return frame.select(
        F.struct(*own).alias(ROW),
        _mended(frame).get(BAD_LINE_READ, missing).alias(BAD_LINE),
        (missing if source_file is None else source_file).alias(c.SOURCE_FILE),
    )


def mend_text(frame: DataFrame) -> DataFrame:
    """The frame with text alone in its columns of text: bytes that are no UTF-8 become U+FFFD.

    Spark passes such bytes on as they are, and then no other reader of our tables could open them.
    """
    return frame.select(*_mended(frame).values())


def _mended(frame: DataFrame) -> dict[str, Column]:
    """The frame's columns by name; binary ones are read as text, which older writers of Parquet mean by them."""
    return {field.name: _mend(quoted(field.name), field.dataType).alias(field.name) for field in frame.schema.fields}


def _mend(value: Column, found: DataType) -> Column:
    return F.make_valid_utf8(value.cast("string")) if isinstance(found, StringType | BinaryType) else value


def quoted(name: str) -> Column:
    """A column by its exact name, dots and all."""
    return F.col(f"`{name.replace('`', '``')}`")


def source_column(name: str) -> Column:
    """A source column of rows in the common shape."""
    return F.col(f"{ROW}.`{name.replace('`', '``')}`")


def source_type(rows: DataFrame, name: str) -> DataType:
    """The type of a source column."""
    row_type = rows.schema[ROW].dataType
    assert isinstance(row_type, StructType)
    return row_type[name].dataType


def source_names(rows: DataFrame) -> list[str]:
    """The source's own column names."""
    row_type = rows.schema[ROW].dataType
    assert isinstance(row_type, StructType)
    return list(row_type.names)


def describe_columns(rows: DataFrame) -> list[list[str]]:
    """(name, type) of each source column, in order: equal lists mean that equal rows have equal hashes."""
    row_type = rows.schema[ROW].dataType
    assert isinstance(row_type, StructType)
    return [[field.name, field.dataType.simpleString()] for field in row_type.fields]


@contextmanager
def reading(where: str, lake: str | None = None, may_quote: bool = True) -> Iterator[None]:
    """Turns Spark's failures to read a source into one message that names the file.

    What fails in our own ``lake`` meanwhile is left as it is.

    Raises: SourceError for files that are damaged, gone or unreadable and for an impossible timestamp pattern; unless
    it ``may_quote``, without words that stand in the files.
    """
    try:
        yield
    except QuotingError as error:
        raise error if may_quote else SourceError(error.unquoted) from None
    except (PySparkException, Py4JJavaError) as error:  # collecting to Arrow leaves the latter as it is
        text = full_text(error)
        problem = None if lake is not None and is_of_lake(text, lake) else _describe(text, may_quote)
        if problem is None:
            raise
        raise SourceError(f"{where}: {problem}") from error


def _describe(text: str, may_quote: bool) -> str | None:
    """What the user has to mend, or None where the failure is not the source's."""
    if "DATETIME_PATTERN" in text or "DATETIME_WEEK_BASED" in text or "datetime pattern" in text.lower():
        first = text.splitlines()[0]
        return f"source.timestamp_format is no Spark datetime pattern ({first}); give one such as yyyy-MM-dd HH:mm:ss"
    if twice := re.search(r"\[COLUMN_ALREADY_EXISTS\] The column `(.+?)` already exists", text):
        shown = f" {twice[1]!r}" if may_quote else ""
        return f"a column{shown} stands there twice, capitals aside (in one line, or in lines of two kinds); rename one"
    header = _HEADER_IN_MESSAGE.search(text)
    if header:
        shown = " ".join(header[0].split()) if may_quote else header[0].rpartition("\n")[2]
        return f"files disagree about their columns: {shown}; give them one header or read them as separate sources"
    if not any(sign in text for sign in (*_READ_SIGNS, *_GONE_SIGNS)):
        return None
    match = _FILE_IN_MESSAGE.search(text)
    file = match["file"].rstrip(".") if match else "a file"
    if any(sign in text for sign in _GONE_SIGNS):
        return gone_file(file)
    if retyped := _TYPE_MISMATCH in text and _MISMATCH_IN_MESSAGE.search(text):
        return retyped_column(retyped["column"].strip("[]`"), retyped["wanted"], "others", retyped["found"], file)
    cause = next(sign for sign in _READ_SIGNS if sign in text)
    return unreadable_file(file, cause, NANOSECONDS if "TIMESTAMP(NANOS" in text else DAMAGED)
