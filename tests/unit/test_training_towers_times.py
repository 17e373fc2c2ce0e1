"""Time features where the moment alone decides: learned from targets' times, asked for at any moment by every path."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recspark.config import Run
from recspark.errors import QueryError
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.pipeline.evaluate_stage import evaluate
from recspark.pipeline.recommend import Batch, plan_batch
from recspark.retrieval.query import recommend_for_user
from recspark.retrieval.serving import Recommender, read_blocks
from recspark.training.job import train
from tests.helpers.tiny_lake import rows_of, write_stage
from tests.helpers.tower_lake import plan_towers

NUM_USERS, NUM_ITEMS, NUM_TRAIN = 400, 12, 5
FIRST, SECOND = 2, 3
"""What users take in one phase of time and in the other; all begin with item 0."""
EPOCH, MONDAY = (dt.datetime(*day, tzinfo=dt.UTC) for day in ((1970, 1, 1), (2026, 1, 5)))
MINUTE, DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)
LATER = MONDAY + 210 * DAY
MOMENTS = {"hour_of_day": [LATER + 9 * 60 * MINUTE, LATER + 21 * 60 * MINUTE], "day_of_week": [LATER, LATER + 5 * DAY]}
"""A moment of either phase, after all events; by `time_since_last` each user has his own."""
GAPS = [10 * MINUTE, 3 * DAY]
"""Of `time_since_last`."""
FEATURES = ("hour_of_day", "day_of_week", "time_since_last")


def micros(time: dt.datetime) -> int:
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def draw_time(feature: str, phase: int, last: dt.datetime, random: np.random.Generator) -> dt.datetime:
    """A moment of a phase after ``last``."""
    if feature == "time_since_last":
        return last + GAPS[phase]
    if feature == "hour_of_day":
        moment = MONDAY + int(random.integers(20)) * DAY + (9 + 12 * phase) * 60 * MINUTE
    else:
        moment = MONDAY + int(random.integers(3)) * 7 * DAY + 5 * phase * DAY + int(random.integers(1440)) * MINUTE
    while moment <= last:
        moment += 7 * DAY
    return moment


def write_phases(run: Run, feature: str) -> None:
    """Users with item 0, then with what the phase of a moment says, four times in train and once in test."""
    random, rows = np.random.default_rng(4), []
    for user in range(NUM_USERS):
        items, times = [0], [MONDAY - int(random.integers(1, 9000)) * MINUTE]
        for _ in range(NUM_TRAIN):
            phase = int(random.integers(2))
            times.append(draw_time(feature, phase, times[-1], random))
            items.append((FIRST, SECOND)[phase])
        same = {"weight": [1.0] * len(items), "event_type": [0] * len(items)}
        same |= {"num_train": NUM_TRAIN, "num_valid": 0, "num_context": 0}
        rows.append({"user_idx": user, "item_idx": items, "ts": [micros(t) for t in times]} | same)
    counts = np.bincount([i for row in rows for i in row["item_idx"][:-1]], minlength=NUM_ITEMS) + 1
    items_ = [{"item_idx": i, "item_id": f"i{i}", "num_events": int(n), "active": True} for i, n in enumerate(counts)]
    users = [{"user_idx": u, "user_id": f"u{u}", "num_events": NUM_TRAIN} for u in range(NUM_USERS)]
    tables: dict[str, list[dict[str, Any]]] = {"items": items_, "users": users, "user_histories": rows}
    write_stage(run, "sessions", {name: rows_of(name, own) for name, own in tables.items()})


def plan(folder: Path, features: tuple[str, ...], at: str | None = None) -> Run:
    towers = {"user": {"time_features": features, "history": {"dropout": 0.0}}}
    training = {"epochs": 25, "num_lanes": 2, "batch_sequences": 64}
    sections = {"evaluate": {"ks": [1], "mask_seen": False}, "recommend": {"k": 1, "mask_seen": False, "at": at}}
    return plan_towers(folder, "two_tower", towers, training=training, sections=sections)


def build(folder: Path, feature: str, features: tuple[str, ...]) -> Run:
    run = plan(folder, features)
    write_phases(run, feature)
    train(run)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A trained run a feature."""
    return {feature: build(tmp_path_factory.mktemp(feature), feature, (feature,)) for feature in FEATURES}


def recall(run: Run) -> float:
    evaluate(run)
    value: float = find_done(run.lake, run.stages["evaluate"])[1].facts["metrics"]["two_tower"]["recall@1"]  # type: ignore[index]
    return value


@pytest.mark.parametrize("feature", FEATURES)
def test_an_evaluation_asks_at_the_time_of_the_first_held_out_event(trained: dict[str, Run], feature: str) -> None:
    assert recall(trained[feature]) > 0.95


def test_without_them_the_phases_cannot_be_told(tmp_path: Path) -> None:
    assert recall(build(tmp_path, "hour_of_day", ())) < 0.65


def plan_lists(run: Run, at: str | None) -> Batch:
    """Batch lists of the same run with `recommend.at`."""
    return plan_batch(plan(Path(run.lake).parent, run.config.model.towers.user.time_features, at))


@pytest.mark.parametrize("feature", MOMENTS)
def test_a_query_and_batch_lists_ask_at_the_moment_that_is_given(trained: dict[str, Run], feature: str) -> None:
    run = trained[feature]
    for moment, item in zip(MOMENTS[feature], (FIRST, SECOND), strict=True):
        assert recommend_for_user(run, "u5", 1, moment.isoformat())[0].item_id == f"i{item}"
        batch = plan_lists(run, moment.isoformat())
        assert batch.rules.until_us == micros(moment)
        (block,) = read_blocks(batch.pinned)
        rows = Recommender(batch.pinned, batch.rules).list_users(block["user_id"], block)
        assert np.mean([row == [f"i{item}"] for row in rows["item_ids"].to_pylist()]) > 0.95


def test_the_time_since_the_last_event_is_that_before_the_moment(trained: dict[str, Run]) -> None:
    """Asked for as of ten minutes or three days after his train event, whatever he did later."""
    run = trained["time_since_last"]
    histories = find_table(run.lake, run.stages["sessions"], "user_histories")
    for user in range(8):
        (row,) = read_table(histories, filters=[("user_idx", "=", user)]).to_pylist()
        newest, test = (EPOCH + dt.timedelta(microseconds=ts) for ts in row["ts"][-2:])
        for gap, item in zip(GAPS, (FIRST, SECOND), strict=True):
            if newest + gap > test:
                continue  # his test event would lie before
            assert recommend_for_user(run, f"u{user}", 1, (newest + gap).isoformat())[0].item_id == f"i{item}"


def test_by_default_users_are_asked_for_now_and_the_key_says_when(trained: dict[str, Run]) -> None:
    run = trained["hour_of_day"]
    now = micros(dt.datetime.now(dt.UTC))
    first, second = plan_lists(run, None), plan_lists(run, None)
    assert first.rules.until_us is not None
    assert second.rules.until_us is not None
    assert now <= first.rules.until_us < second.rules.until_us
    assert first.key != second.key
    assert first.record({}).facts["until_us"] == first.rules.until_us
    assert plan_lists(run, "2026-03-01").key == plan_lists(run, "2026-03-01").key
    assert recommend_for_user(run, "u5", 1)


def test_a_model_that_reads_no_times_is_asked_as_of_then_by_its_history(tmp_path: Path) -> None:
    run = build(tmp_path, "hour_of_day", ())
    assert plan_lists(run, None).rules.until_us is None
    early = MONDAY - 30 * DAY
    with pytest.raises(QueryError, match="'u5' has 0 events, none on an item that model"):
        recommend_for_user(run, "u5", 1, early.isoformat())
    with pytest.raises(QueryError, match="query: --at: 'soon' is not an ISO time"):
        recommend_for_user(run, "u5", 1, "soon")
