"""Diginetica's click sessions: train sessions, and test cases of a prefix with the item that came next.

Each test case is a user of its own: its prefix is `context` (a query, nothing is learned from it), its target `test`.
The files are pickles of plain lists; they are read by an unpickler that knows nothing else.
"""

import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.datasets.events import CONTEXT, TEST, TRAIN, write_sequences


def prepare(raw: Path, path: Path) -> None:
    """Both pickles to events with splits and positions."""
    write_sequences(read_sequences(raw), path)


def read_sequences(raw: Path) -> Iterator[tuple[str, str, list[int]]]:
    """(session, split, items)."""
    for number, items in enumerate(load_lists(raw / "all_train_seq.txt.gz")):
        yield f"s{number}", TRAIN, items
    prefixes, targets = load_lists(raw / "test.txt")
    for number, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        yield f"t{number}", CONTEXT, prefix
        yield f"t{number}", TEST, [target]


class _ListsOnly(pickle.Unpickler):
    """Refuses everything that a pickle can name: lists, tuples and numbers need no name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"expected plain lists, found {module}.{name}")


def load_lists(path: Path) -> Any:
    """The lists of a pickle, gzipped or not.

    Raises: pickle.UnpicklingError when it holds anything else.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return _ListsOnly(file).load()
