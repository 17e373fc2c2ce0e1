"""Rows of the built-in generator, made by Spark's workers from user numbers; dirt is put in here.

event_id        user_id   item_id  ts                    event_type  weight
u000000-00000   u000000   i00512   2026-01-08T12:15:04Z  view        1
u000000-00001   NULL      i01233   2026-01-08T12:15:49Z  view        1      (a planted bad row)
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from recspark.contracts import columns as c
from recspark.sources.planted import DIRT_KINDS, EVENT_TYPES, Ints, PlantedEvents, PlantedWorld
from recspark.sources.rows import as_rows
from recspark.sources.wanted import SYNTHETIC_NAMES

if TYPE_CHECKING:  # workers import this module, and need no pydantic
    from recspark.config.source import SourceConfig, SyntheticSource

COLUMNS = {name: name for name in SYNTHETIC_NAMES}
"""How the generator's rows are mapped; the config's own column map is for other sources."""

_SCHEMA = ", ".join(f"{n} string" for n in SYNTHETIC_NAMES)
_USERS_A_BATCH = 1000
_EVENTS_A_PARTITION = 500_000

_DIRTY_VALUES: dict[str, tuple[str, str | None]] = {
    "missing_user": (c.USER_ID, None),
    "missing_item": (c.ITEM_ID, None),
    "blank_item": (c.ITEM_ID, "  "),
    "invalid_user": (c.USER_ID, "u\u0000001"),
    "unreadable_time": (c.TS, "yesterday"),
    "impossible_time": (c.TS, "1970-01-01T00:00:00Z"),
    "unreadable_weight": (c.WEIGHT, "n/a"),
    "negative_weight": (c.WEIGHT, "-1"),
}
"""Kind of dirt: the column it spoils and what is written there; ``long_item`` depends on the config."""


def read_synthetic(spark: SparkSession, source: "SourceConfig", seed: int) -> DataFrame:
    """The generator's rows; the same ones for any number of partitions."""
    config = source.synthetic
    events = config.num_users * config.sessions_per_user * config.session_length
    cores = spark.sparkContext.defaultParallelism
    partitions = config.num_partitions or max(1, min(cores, config.num_users), int(events / _EVENTS_A_PARTITION))
    users = spark.range(0, config.num_users, 1, partitions)
    return as_rows(users.mapInArrow(make_generator(config, seed, source.max_id_bytes + 1), _SCHEMA))


def event_table(events: PlantedEvents, long_bytes: int) -> pa.Table:
    """The text rows of planted events, dirt included; overlong ids get ``long_bytes``."""
    user_ids = _numbered("u", events.user, 6)
    columns = {
        c.EVENT_ID: pc.binary_join_element_wise(user_ids, _numbered("", events.number, 5), "-"),
        c.USER_ID: user_ids,
        c.ITEM_ID: _numbered("i", events.item, 5),
        c.TS: pa.array(np.char.add(events.seconds.astype("datetime64[s]").astype("U19"), "Z"), pa.string()),
        c.EVENT_TYPE: pa.array(np.array(EVENT_TYPES)[events.event_type], pa.string()),
        c.WEIGHT: pa.array(np.full(len(events.user), "1"), pa.string()),
    }
    for kind, (column, value) in {**_DIRTY_VALUES, "long_item": (c.ITEM_ID, "x" * long_bytes)}.items():
        spoiled = pa.array(events.dirt == DIRT_KINDS.index(kind))
        columns[column] = pc.if_else(spoiled, pa.scalar(value, pa.string()), columns[column])
    return pa.table(columns)


def make_generator(
    config: "SyntheticSource", seed: int, long_bytes: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker function: batches of user numbers in, their rows out."""
    plain = config.model_dump_json()

    def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        world = _world(plain, seed)
        for batch in batches:
            users = batch.column(0).to_numpy()
            for start in range(0, len(users), _USERS_A_BATCH):
                yield from event_table(
                    world.build_events(users[start : start + _USERS_A_BATCH]), long_bytes
                ).to_batches()

    return generate


@lru_cache(maxsize=1)
def _world(plain: str, seed: int) -> PlantedWorld:
    """Built once a worker process."""
    return PlantedWorld(cast("SyntheticSource", SimpleNamespace(**json.loads(plain))), seed)


def _numbered(letter: str, numbers: Ints, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(letter, digits, "") if letter else digits
