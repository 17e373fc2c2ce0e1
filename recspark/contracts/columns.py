"""Column names, each once."""

EVENT_ID = "event_id"
USER_ID = "user_id"
ITEM_ID = "item_id"
TS = "ts"
EVENT_TYPE = "event_type"
WEIGHT = "weight"
SPLIT = "split"
BASKET_ID = "basket_id"
DAY = "day"
ROW_HASH = "row_hash"

ITEM_IDX = "item_idx"
USER_IDX = "user_idx"
NUM_EVENTS = "num_events"
FIRST_SEEN = "first_seen"
ACTIVE = "active"

SESSION_ID = "session_id"
START_TS = "start_ts"
END_TS = "end_ts"
OFFSET_SECONDS = "offset_seconds"

NUM_TRAIN = "num_train"
NUM_VALID = "num_valid"
NUM_CONTEXT = "num_context"

SRC_IDX = "src_idx"
DST_IDX = "dst_idx"
SCORE = "score"
COUNT = "count"

SRC = "src"
DST = "dst"
SRC_ID = "src_id"
DST_ID = "dst_id"

LINEAGE = "lineage"
NUM_UNITS = "num_units"
ROW_SUM = "row_sum"
SUM = "sum"

EPOCH = "epoch"
SHARD = "shard"
START_IDX = "start_idx"
WALK = "walk"

IDX = "idx"
ID = "id"
VECTOR = "vector"
QUERY_VECTOR = "query_vector"
BIAS = "bias"
MODEL_ID = "model_id"

PURPOSE = "purpose"
ITEM_IDS = "item_ids"
SCORES = "scores"

NAME = "name"
K = "k"
VALUE = "value"
SEGMENT = "segment"
NUM_USERS = "num_users"

STAGE = "stage"
STAGE_KEY = "stage_key"
REASON = "reason"
RAW = "raw"
SOURCE_FILE = "source_file"
RUN_ID = "run_id"

RELEASE_ID = "release_id"
STATE = "state"
INDEX_ID = "index_id"
MANIFEST_SHA256 = "manifest_sha256"
PREVIOUS_ID = "previous_id"
CREATED_AT = "created_at"
CHANGED_AT = "changed_at"
ACTIVATED_AT = "activated_at"

FEATURE_PREFIX = "f_"
"""Item and user features are stored as typed columns ``f_<name>``."""

TRAIN, VALID, TEST, CONTEXT = SPLITS = ("train", "valid", "test", "context")
"""The parts of a split; ``context`` is a query's history: never counted, learned from or scored."""

SPLIT_RANK = {TRAIN: 0, VALID: 1, CONTEXT: 2, TEST: 3}
"""Order of the parts inside a user's history, so that the counts of ``user_histories`` are prefix lengths."""
