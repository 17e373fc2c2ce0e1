"""Amazon sets in time order: S3-Rec's (one user a line) and BERT4Rec's (one event a line, gzipped).

The configs hold out the last item as test and the one before as validation.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.datasets.events import TRAIN, write_sequences


def prepare_sequences(raw: Path, path: Path) -> None:
    """Lines of "user item item ..."; beside them, the items' attributes as a file of its own where the set has some."""
    attributes = raw.with_name(f"{raw.stem}_item2attributes.json")
    if attributes.exists():
        write_attributes(json.loads(attributes.read_text()), path.with_name(f"{raw.stem}-attributes.parquet"))
    lines = (line.split() for line in raw.read_text().splitlines())
    write_sequences(((user, TRAIN, list(map(int, items))) for user, *items in lines), path)


def write_attributes(attributes: dict[str, list[int]], path: Path) -> None:
    """One row an item: item_id and its attributes in one text, "4|17|23"."""
    texts = ["|".join(map(str, values)) for values in attributes.values()]
    pq.write_table(pa.table({"item_id": list(attributes), "attributes": texts}), path)


def prepare_pairs(raw: Path, path: Path) -> None:
    """Gzipped lines of "user item", a user's in order and together."""
    write_sequences(_read_pairs(raw), path)


def _read_pairs(raw: Path) -> Iterator[tuple[str, str, list[int]]]:
    with gzip.open(raw, "rt") as file:
        for user, lines in groupby((line.split() for line in file), key=lambda pair: pair[0]):
            yield user, TRAIN, [int(item) for _, item in lines]
