"""Events as all converters write them: user_id, item_id, split, and position where the source has an order."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TRAIN, TEST, CONTEXT = "train", "test", "context"


def write_sequences(sequences: Iterable[tuple[str, str, Sequence[int]]], path: Path, *, has_order: bool = True) -> None:
    """Writes (user_id, split, items) as one row an item; positions run on where a user comes again."""
    users, splits, items, positions = [], [], [], []
    seen: dict[str, int] = {}
    for user, split, sequence in sequences:
        start = seen.get(user, 0)
        seen[user] = start + len(sequence)
        users += [user] * len(sequence)
        splits += [split] * len(sequence)
        items.append(np.asarray(sequence, np.int64))
        positions.append(np.arange(start, start + len(sequence)))
    columns = {"user_id": users, "item_id": pa.array(np.concatenate(items)).cast(pa.string()), "split": splits}
    if has_order:
        columns["position"] = np.concatenate(positions)
    pq.write_table(pa.table(columns), path)
