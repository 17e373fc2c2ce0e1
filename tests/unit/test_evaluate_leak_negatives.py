"""The leak audit of explicit negatives: clean under every split; late, invented and repeated ones are caught."""

import numpy as np
import pytest

from recspark.contracts import columns as c
from recspark.errors import LakeError
from recspark.pipeline.verify import audit_run
from tests.helpers.leak_lake import DAY_US, NUM_ITEMS, NUM_USERS, START_US, Event, build_lake, draw_events
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage

CUT_US = START_US + 31 * DAY_US
TIME = {"kind": "time", "cut": "2026-02-01"}
SPLITS = {
    "time": TIME,
    "last_k": TIME | {"valid": {"kind": "last_k", "k": 1}},
    "user_share": TIME | {"valid": {"kind": "user_share"}},
    "valid_time": TIME | {"valid": {"kind": "time", "cut": "2026-01-20"}},
    "given": {"kind": "given"},
    "leave_last_out": {"kind": "leave_last_out"},
}
CHECKS = {"negatives.inputs", "negatives.cut", "negatives.events"}


def plan(folder, split):
    columns = {"ts": "ts", "split": "part", "event_type": "type"}
    return plan_tiny(
        folder,
        split=split,
        source={"kind": "files", "path": "events.csv", "format": "csv", "columns": columns},
        clean={"event_weights": {"skip": 0}},
        model={
            "kind": "two_tower",
            "embedding_dim": 2,
            "towers": {"negatives": {"explicit": {"event_types": ["skip"]}}},
        },
    )


def is_train(skip, own, split):
    """Whether a skip lies in the train part, from the labelled events of its user."""
    valid = (split.get("valid") or {}).get("kind")
    held_out = [e for e in own if e.part == (c.TEST if split["kind"] == "leave_last_out" else c.VALID)]
    by_order = split["kind"] == "leave_last_out" or valid == "last_k"
    if split["kind"] == "given" and skip.given != c.TRAIN:
        return False
    if split["kind"] == "time" and skip.ts >= CUT_US:
        return False
    if valid == "time" and skip.ts >= START_US + 19 * DAY_US:
        return False
    if by_order and any(skip.ts >= e.ts for e in held_out):
        return False
    return valid != "user_share" or skip.item not in {e.item for e in held_out}


class Shown:
    """A lake with skips; `user_negatives` holds those of the train part. To be changed before it is written."""

    def __init__(self, run, split):
        self.run, events, random = run, draw_events(run), np.random.default_rng(3)
        self.lake = build_lake(run, events)
        self.idx = {int(row["item_id"][1:]): row["item_idx"] for row in self.lake.tables["items"]}
        self.learned = {row["item_idx"] for row in self.lake.tables["items"] if row["num_events"]}
        self.skips, self.negatives = [], {}
        for user in range(NUM_USERS):
            own = [e for e in events if e.user == user]
            for ts in np.sort(random.integers(0, 45 * 86_400, 12)):
                given = str(random.choice([c.TRAIN, c.TEST]))
                item = int(random.integers(0, NUM_ITEMS - 1))
                skip = Event(10_000 + len(self.skips), user, item, START_US + int(ts) * 1_000_000, given=given)
                self.skips.append(skip)
                is_learned = self.idx.get(item) in self.learned and any(e.part == c.TRAIN for e in own)
                if is_learned and is_train(skip, own, split):
                    self.negatives.setdefault(user, []).append((self.idx[item], skip.ts))
        self.inputs = dict.fromkeys(("events", "items", "users", "user_histories"), 0)

    def write(self):
        lake, run = self.lake, self.run
        template = lake.tables["events"][0]
        for s in self.skips:
            row = {"event_id": f"s{s.number}", "user_id": f"u{s.user}", "item_id": f"i{s.item}", "ts": s.ts}
            lake.tables["events"].append(template | row | {"event_type": "skip", "split": s.given})
        lake.counts["events_in"] += len(self.skips)
        lake.counts["dropped"] = {"event_weights": len(self.skips)}
        for stage in ("ingest", "sessions"):
            tables = {n: rows_of(n, lake.tables[n]) for n in run.stages[stage].spec.tables if n in lake.tables}
            counts = lake.counts if stage == "sessions" else {}
            write_stage(run, stage, tables, inputs=lake.inputs[stage], counts=counts)
        rows = [
            {"user_idx": u, "item_idx": [i for i, _ in own], "ts": [ts for _, ts in own], "event_type": [0] * len(own)}
            for u, own in self.negatives.items()
        ]
        tables = {"user_negatives": rows_of("user_negatives", rows)}
        write_stage(run, "negatives", tables, inputs=self.inputs, facts={"event_types": ["skip"]})
        return {check.name: check for check in audit_run(run).checks}


@pytest.fixture(params=SPLITS)
def shown(request, tmp_path):
    return Shown(plan(tmp_path, SPLITS[request.param]), SPLITS[request.param])


def test_negatives_of_the_train_part_are_clean_under_every_split(shown):
    checks = shown.write()
    assert {name for name in checks if name.startswith("negatives.")} == CHECKS
    assert {check.status for name, check in checks.items() if name in CHECKS} == {"clean"}
    assert not [check.describe() for check in checks.values() if check.status == "LEAK"]
    assert checks["negatives.cut"].rows == sum(map(len, shown.negatives.values())) > 50
    assert checks["negatives.cut"].latest_us == max(ts for own in shown.negatives.values() for _, ts in own)


def leaks_of(shown):
    return {name for name, check in shown.write().items() if check.status == "LEAK"}


def test_a_negative_that_the_split_holds_out_is_caught(shown):
    split, taken = shown.run.config.split, {(u, *event) for u, own in shown.negatives.items() for event in own}
    late = next(
        s for s in reversed(shown.skips)
        if s.user in shown.negatives and shown.idx.get(s.item) in shown.learned
        and (s.user, shown.idx[s.item], s.ts) not in taken
    )  # fmt: skip
    shown.negatives[late.user].append((shown.idx[late.item], late.ts))
    leaks = leaks_of(shown)
    assert leaks == {"negatives.events"} if split.kind == "given" else "negatives.cut" in leaks


def test_a_negative_that_never_happened_is_caught(shown):
    own = next(iter(shown.negatives.values()))
    item, ts = own[0]
    own[0] = item, ts - 1
    assert leaks_of(shown) == {"negatives.events"}


def test_a_negative_counted_twice_is_caught(shown):
    own = next(iter(shown.negatives.values()))
    own.insert(0, own[0])
    assert leaks_of(shown) == {"negatives.events"}


def test_negatives_of_other_versions_are_caught(shown):
    shown.inputs["user_histories"] = 5
    assert leaks_of(shown) == {"negatives.inputs"}


def test_users_and_items_of_another_build_are_an_error_of_the_lake(shown):
    shown.negatives[NUM_USERS + 7] = [(0, START_US)]
    with pytest.raises(LakeError, match=r"user_negatives holds user_idx 37, `users` has 0\.\.29"):
        shown.write()
