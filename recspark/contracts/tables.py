"""The Delta tables: schema, key, partitioning and format version of each.

A table's columns may be followed by feature columns (``f_<name>``) where ``has_features`` is set. A change of any
schema raises ``format_version``, which is part of every stage key: old versions stay readable, new runs rebuild.
"""

from dataclasses import dataclass

import pyarrow as pa

from recspark.contracts import columns as c

_INT = pa.int32()
_INTS = pa.list_(pa.field("element", pa.int32()))
_LONGS = pa.list_(pa.field("element", pa.int64()))
_FLOATS = pa.list_(pa.field("element", pa.float32()))
_STRINGS = pa.list_(pa.field("element", pa.string()))
_TINYINTS = pa.list_(pa.field("element", pa.int8()))
_TS = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class TableSpec:
    """The contract of one table. ``key`` columns identify a row within one version (and partition slice)."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = ()
    format_version: int = 1
    has_features: bool = False


def _table(name: str, key: tuple[str, ...], fields: dict[str, pa.DataType], **more: object) -> TableSpec:
    return TableSpec(name, pa.schema([pa.field(n, t) for n, t in fields.items()]), key, **more)  # type: ignore[arg-type]


EVENTS = _table(
    "events",
    (c.EVENT_ID,),
    {
        c.EVENT_ID: pa.string(),
        c.USER_ID: pa.string(),
        c.ITEM_ID: pa.string(),
        c.TS: _TS,
        c.EVENT_TYPE: pa.string(),
        c.WEIGHT: pa.float32(),
        c.BASKET_ID: pa.string(),  # null where the source has none
        c.SPLIT: pa.string(),  # null unless split.kind is `given`
        c.DAY: pa.date32(),  # UTC day of ts; files hold ranges of days
        c.ROW_HASH: pa.binary(),  # 16 bytes of the source row's SHA-256 where repeats are told by it, else null
    },
    format_version=2,
)

QUARANTINE = _table(
    "quarantine",
    (),
    {
        c.STAGE: pa.string(),
        c.STAGE_KEY: pa.string(),
        c.REASON: pa.string(),
        c.RAW: pa.string(),  # the refused row, as JSON
        c.SOURCE_FILE: pa.string(),
        c.RUN_ID: pa.string(),
    },
    partition_by=(c.STAGE, c.STAGE_KEY),
)

ITEMS = _table(
    "items",
    (c.ITEM_IDX,),
    {
        c.ITEM_IDX: _INT,  # dense from 0, by (num_events desc, item_id)
        c.ITEM_ID: pa.string(),
        c.NUM_EVENTS: pa.int64(),  # train events only; 0 = known by features or after the cut
        c.FIRST_SEEN: _TS,
        c.ACTIVE: pa.bool_(),
    },
    has_features=True,
)

USERS = _table(
    "users",
    (c.USER_IDX,),
    {c.USER_IDX: _INT, c.USER_ID: pa.string(), c.NUM_EVENTS: pa.int64()},
    has_features=True,
)

SESSIONS = _table(
    "sessions",
    (c.SESSION_ID,),
    {
        c.SESSION_ID: pa.string(),
        c.USER_IDX: _INT,
        c.START_TS: _TS,
        c.END_TS: _TS,
        c.ITEM_IDX: _INTS,
        c.OFFSET_SECONDS: _INTS,  # from start_ts
        c.WEIGHT: _FLOATS,
        c.EVENT_TYPE: _TINYINTS,  # code: position in the commit's `event_types`
        c.SPLIT: pa.string(),
        c.DAY: pa.date32(),  # UTC day of start_ts
    },
    partition_by=(c.SPLIT,),
)

USER_HISTORIES = _table(
    "user_histories",
    (c.USER_IDX,),
    {
        c.USER_IDX: _INT,
        c.ITEM_IDX: _INTS,  # sorted by (split rank, ts, event_id): train, valid, context, test
        c.TS: _LONGS,  # microseconds since the epoch, UTC
        c.WEIGHT: _FLOATS,
        c.EVENT_TYPE: _TINYINTS,
        c.NUM_TRAIN: _INT,
        c.NUM_VALID: _INT,
        c.NUM_CONTEXT: _INT,
    },
)

USER_NEGATIVES = _table(
    "user_negatives",
    (c.USER_IDX,),
    {
        c.USER_IDX: _INT,  # users with train events who were shown something and passed it over
        c.ITEM_IDX: _INTS,  # items with train events, sorted by (ts, item_idx); of the train part of the split alone
        c.TS: _LONGS,  # microseconds since the epoch, UTC
        c.EVENT_TYPE: _TINYINTS,  # code: position in the commit's `event_types`
    },
)

ITEM_GRAPH = _table(
    "item_graph",
    (c.SRC_IDX,),
    {
        c.SRC_IDX: _INT,
        c.DST_IDX: _INTS,  # best first: score descending, then dst_idx ascending
        c.SCORE: _FLOATS,
        c.COUNT: _INTS,  # support: distinct sessions or users with both items
    },
)

ITEM_GRAPH_EDGES = _table(
    "item_graph_edges",
    (c.SRC, c.DST),
    {
        c.SRC: _INT,  # item_idx; the names are GraphFrames'
        c.DST: _INT,
        c.WEIGHT: pa.float32(),  # `score` of item_graph
        c.COUNT: _INT,
        c.SRC_ID: pa.string(),  # item_id
        c.DST_ID: pa.string(),
    },
)

ITEM_PAIR_SUMS = _table(
    "item_pair_sums",
    (c.LINEAGE, c.SRC_IDX),
    {
        c.LINEAGE: pa.string(),  # source and graph settings; one slice each, added to from run to run
        c.SRC_IDX: _INT,
        c.NUM_UNITS: pa.int64(),  # sessions that hold the item
        c.ROW_SUM: pa.int64(),  # of `sum`
        c.DST_IDX: _INTS,  # ascending; every pair, unpruned
        c.SUM: _LONGS,  # weight in fixed point
        c.COUNT: _INTS,  # support
    },
    partition_by=(c.LINEAGE,),
)

ALS_FACTORS = _table(
    "als_factors",
    (c.ITEM_IDX,),
    {c.ITEM_IDX: _INT, c.VECTOR: _FLOATS},  # items with train events
)

WALKS = _table(
    "walks",
    (),  # a start has `num_walks` rows an epoch
    {c.EPOCH: _INT, c.SHARD: _INT, c.START_IDX: _INT, c.WALK: _INTS},
    partition_by=(c.EPOCH,),
)

_EMBEDDING_FIELDS: dict[str, pa.DataType] = {
    c.IDX: _INT,
    c.ID: pa.string(),
    c.VECTOR: _FLOATS,  # the candidate side
    c.QUERY_VECTOR: _FLOATS,  # null where it equals `vector`
    c.BIAS: pa.float32(),  # score = sim(query, vector) + bias
    c.MODEL_ID: pa.string(),
}
ITEM_EMBEDDINGS = _table("item_embeddings", (c.MODEL_ID, c.IDX), _EMBEDDING_FIELDS, partition_by=(c.MODEL_ID,))
USER_EMBEDDINGS = _table("user_embeddings", (c.MODEL_ID, c.IDX), _EMBEDDING_FIELDS, partition_by=(c.MODEL_ID,))

RECOMMENDATIONS = _table(
    "recommendations",
    (c.PURPOSE, c.MODEL_ID, c.USER_ID),
    {
        c.PURPOSE: pa.string(),  # `test` by evaluate, `serve` by recommend
        c.MODEL_ID: pa.string(),
        c.USER_ID: pa.string(),
        c.ITEM_IDS: _STRINGS,  # best first
        c.SCORES: _FLOATS,
    },
    partition_by=(c.PURPOSE, c.MODEL_ID),
)

METRICS = _table(
    "metrics",
    (c.STAGE_KEY, c.MODEL_ID, c.NAME, c.K, c.SEGMENT),
    {
        c.STAGE_KEY: pa.string(),
        c.MODEL_ID: pa.string(),
        c.NAME: pa.string(),
        c.K: _INT,  # 0 where a metric has no cut-off
        c.VALUE: pa.float64(),
        c.SEGMENT: pa.string(),  # `all`, users `warm` and `cold`; `cold_items`: only these are relevant
        c.NUM_USERS: pa.int64(),
    },
    partition_by=(c.STAGE_KEY,),
)

RELEASES = _table(
    "releases",
    (c.RELEASE_ID,),
    {
        c.RELEASE_ID: pa.string(),
        c.STATE: pa.string(),  # BUILDING, READY, ACTIVE, RETIRED, FAILED; at most one row is ACTIVE
        c.REASON: pa.string(),  # why it is in this state, in words
        c.MODEL_ID: pa.string(),
        c.INDEX_ID: pa.string(),
        c.MANIFEST_SHA256: pa.string(),  # of releases/<release_id>/manifest.json; null before it is written
        c.PREVIOUS_ID: pa.string(),  # the release that was active when this one became so; where a rollback goes
        c.CREATED_AT: _TS,
        c.CHANGED_AT: _TS,
        c.ACTIVATED_AT: _TS,  # null for one that never was active
    },
    format_version=2,  # since manifests hold the hashes of data files: releases made before are published again
)

TABLES = {
    t.name: t
    for t in (
        EVENTS,
        QUARANTINE,
        ITEMS,
        USERS,
        SESSIONS,
        USER_HISTORIES,
        USER_NEGATIVES,
        ITEM_GRAPH,
        ITEM_GRAPH_EDGES,
        ITEM_PAIR_SUMS,
        ALS_FACTORS,
        WALKS,
        ITEM_EMBEDDINGS,
        USER_EMBEDDINGS,
        RECOMMENDATIONS,
        METRICS,
        RELEASES,
    )
}
