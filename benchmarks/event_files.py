"""Parquet files of events from the project's generator, written by plain Python: what a growing source looks like."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recspark.config.source import SyntheticSource
from recspark.sources.planted import PlantedWorld
from recspark.sources.synthetic import event_table

COLUMNS = {name: name for name in ("event_id", "user_id", "item_id", "ts", "event_type", "weight")}
"""The column map of `source`."""
LAST_FIFTH = "2026-02-20"
"""Of eight weeks from 2026-01-05: a cut that leaves about a fifth of the events to test on."""
_EVENTS_A_USER = 84
_USERS_A_BATCH = 2_000
_BATCHES_A_FILE = 12


def write_events(folder: Path, num_events: int, num_items: int, seed: int = 1) -> int:
    """Writes about so many events, a file every two million; how many there are."""
    folder.mkdir(parents=True)
    written = 0
    writer: pq.ParquetWriter | None = None
    for number, rows in enumerate(event_batches(num_events, num_items, seed)):
        if number % _BATCHES_A_FILE == 0:
            if writer:
                writer.close()
            writer = pq.ParquetWriter(folder / f"part-{number // _BATCHES_A_FILE:03}.parquet", rows.schema)
        assert writer
        writer.write_table(rows)
        written += rows.num_rows
    assert writer
    writer.close()
    return written


def event_batches(num_events: int, num_items: int, seed: int) -> Iterator[pa.Table]:
    """Rows of two thousand users at a time; no bad rows, no bots."""
    num_users = max(1, num_events // _EVENTS_A_USER)
    clusters = max(1, num_items // 50)
    config = SyntheticSource(
        num_users=num_users, num_items=num_items, num_clusters=clusters, dirty_share=0, bot_share=0
    )
    world = PlantedWorld(config, seed)
    for start in range(0, num_users, _USERS_A_BATCH):
        yield event_table(world.build_events(np.arange(start, min(start + _USERS_A_BATCH, num_users))), 1)
