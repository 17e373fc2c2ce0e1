"""The first lines of text files: a CSV's column names, and signs that a file is of another format. No JVM.

,user,item      [('', 'user', 'item')]
0,1,2      ->   has_rows True
"""

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from recspark.errors import SourceError, first_line
from recspark.sources.wanted import QuotingError, no_line, unreadable_file

_THREADS = 16
_BLOCK_BYTES = 1 << 14
_HEADER_BYTES = 1 << 20
_LINE_END = re.compile(rb"\r\n|\r|\n")
"""As Hadoop cuts lines."""
_FOREIGN = {
    b"PAR1\x15": "is Parquet; set its format to parquet",
    b"\x1f\x8b": "is gzip, which Spark unpacks only where the name ends in .gz; rename it",
    b"PK\x03\x04": "is a zip archive (or a spreadsheet), which Spark cannot read; unpack it, or save it as CSV",
    b"\xff\xfe": "is UTF-16; write it as UTF-8",
    b"\xfe\xff": "is UTF-16; write it as UTF-8",
}
"""How files begin that are no text, once they are unpacked as their name says."""


@dataclass(frozen=True)
class Header:
    """A CSV file's names, none where it has no line; ``has_rows``: a line comes after them."""

    file: str
    names: list[str]
    has_rows: bool


def find_header(filesystem: pafs.FileSystem, paths: Sequence[str], separator: str, where: str) -> list[str]:
    """The column names in the first line of the first file that has one.

    Raises: SourceError when no file has a line, a name comes twice, or a column has no name and headers differ.
    """
    for path in paths:
        if (header := read_header(filesystem, path, separator, where)).names:
            break
    else:
        raise no_line(where)
    if "" in header.names:  # Spark compares all others itself
        check_same(read_headers(filesystem, paths, separator, where), where)
    check_once(header.names, where)
    return header.names


def read_headers(filesystem: pafs.FileSystem, paths: Sequence[str], separator: str, where: str) -> list[Header]:
    """The headers of many files."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda path: read_header(filesystem, path, separator, where), paths))


def read_header(filesystem: pafs.FileSystem, file: str, separator: str, where: str) -> Header:
    """One file's header.

    Raises: SourceError for a file that is damaged or of another format.
    """
    try:
        with filesystem.open_input_stream(file, compression="detect") as stream:
            lines = _first_lines(stream, 2)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{where}: {unreadable_file(file, first_line(error))}") from error
    check_is_text(lines[0] if lines else b"", file, where)
    first = lines[0].decode("utf-8-sig", errors="replace") if lines else ""
    _check_no_json(first, file, where)
    try:
        names = next(csv.reader([first], delimiter=separator)) if lines else []
    except csv.Error as error:
        raise SourceError(f"{where}: the first line of {file} is no CSV header ({error}); check its format") from error
    return Header(file, names, len(lines) > 1)


def check_is_text(start: bytes, file: str, where: str) -> None:
    """Checks how a file begins.

    Raises: SourceError for one that is no UTF-8 text, whatever its lines were to hold.
    """
    for sign, problem in _FOREIGN.items():
        if start.startswith(sign):
            raise SourceError(f"{where}: {file} {problem}")


def check_same(headers: Sequence[Header], where: str) -> None:
    """Checks that files have one header, capitals aside, as Spark does.

    Raises: QuotingError naming two files that differ.
    """
    filled = [header for header in headers if header.names]
    for first, other in itertools.pairwise(filled):
        if [n.lower() for n in other.names] != [n.lower() for n in first.names]:
            advice = "give them one header or read them as separate sources"
            raise QuotingError(
                f"{where}: files disagree about their columns: {first.names} in {first.file}, {other.names} in "
                f"{other.file}; {advice}",
                f"{where}: files disagree about their columns: the first lines of {first.file} and {other.file} "
                f"differ (one may lack its header); {advice}",
            )


def check_once(names: Sequence[str], where: str) -> None:
    """Checks that each column has a name of its own.

    Raises: QuotingError naming those that come twice.
    """
    twice = sorted(name for name, times in Counter(name_columns(names)).items() if times > 1)
    if twice:
        raise QuotingError(
            f"{where}: the CSV header names {', '.join(twice)} more than once; rename them",
            f"{where}: the CSV header names {len(twice)} of its columns more than once (or is a row, and the header "
            f"missing); rename them",
        )


def name_columns(names: Sequence[str]) -> list[str]:
    """The header's names; a column without one is called by its place."""
    return [name or f"_c{place}" for place, name in enumerate(names)]


def _first_lines(stream: pa.NativeFile, count: int) -> list[bytes]:
    """The first lines that are not blank, as far as they lie in the first mebibyte; the last one may be cut."""
    start = b""
    while block := stream.read(_BLOCK_BYTES):
        start += block
        lines = [line for line in _LINE_END.split(start) if line.strip()]
        if len(lines) > count or len(start) >= _HEADER_BYTES:
            break
    return [line for line in _LINE_END.split(start) if line.strip()][:count]


def _check_no_json(line: str, file: str, where: str) -> None:
    if not line.lstrip().startswith("{"):
        return
    try:
        json.loads(line)
    except ValueError:
        return
    raise SourceError(f"{where}: the first line of {file} is a JSON object, no CSV header; set its format to jsonl")
