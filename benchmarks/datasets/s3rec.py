"""Amazon sets in time order: S3-Rec's (one user a line) and BERT4Rec's (one event a line, gzipped).

The configs hold out the last item as test and the one before as validation.
"""

import gzip
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from benchmarks.datasets.events import TRAIN, write_sequences


def prepare_sequences(raw: Path, path: Path) -> None:
    """Lines of "user item item ..."."""
    lines = (line.split() for line in raw.read_text().splitlines())
    write_sequences(((user, TRAIN, list(map(int, items))) for user, *items in lines), path)


def prepare_pairs(raw: Path, path: Path) -> None:
    """Gzipped lines of "user item", a user's in order and together."""
    write_sequences(_read_pairs(raw), path)


def _read_pairs(raw: Path) -> Iterator[tuple[str, str, list[int]]]:
    with gzip.open(raw, "rt") as file:
        for user, lines in groupby((line.split() for line in file), key=lambda pair: pair[0]):
            yield user, TRAIN, [int(item) for _, item in lines]
