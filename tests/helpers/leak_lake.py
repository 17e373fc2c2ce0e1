"""A whole lake of a few users, made by plain Python from labelled events, stage by stage: an audit finds it clean.

What a test changes in a `LeakLake` before it is written is the leak: in the events' labels, where all that follows
agrees with it, or in a single table or record.
"""

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.lake.folders import publish_folder
from tests.helpers.graph_oracle import Unit, build_graph
from tests.helpers.tiny_lake import rows_of, write_stage

DAY_US = 86_400_000_000
START_US = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
NUM_USERS, NUM_ITEMS, COLD = 30, 20, 19
"""Item `i19` has events in February only, as user `u0` has."""
RANK = {c.TRAIN: 0, c.VALID: 1, c.CONTEXT: 2, c.TEST: 3}


@dataclass
class Event:
    """One event with the part that it was put in; ``given`` is the source's own column."""

    number: int
    user: int
    item: int
    ts: int
    part: str = c.TRAIN
    given: str | None = None


@dataclass
class LeakLake:
    """Rows of all tables by name, and what the records of the stages say."""

    run: Run
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    model_inputs: dict[str, int] = field(default_factory=dict)

    def write(self, onto: "LeakLake | None" = None) -> None:
        """Commits all stages in order, and the model's manifest; only those that differ from a lake written before."""
        for stage in ("ingest", "sessions", "graph", "item_knn_graph", "walks", "train"):
            if onto and self._of_stage(stage) == onto._of_stage(stage):
                continue
            names = self.run.stages[stage].spec.tables
            own = {name: stage if stage == "item_knn_graph" else name for name in names}
            tables = {name: rows_of(name, self.tables[key]) for name, key in own.items() if key in self.tables}
            more = {"inputs": self.inputs.get(stage, {}), "facts": self.facts.get(stage, {})}
            write_stage(self.run, stage, tables, counts=self.counts if stage == "sessions" else {}, **more)
        publish_folder(
            self.run.lake, "models", self.run.stages["train"].id, [], counts={}, config={}, inputs=self.model_inputs,
            facts={}, run_id=self.run.run_id,
        )  # fmt: skip

    def _of_stage(self, stage: str) -> list[Any]:
        names = [stage] if stage == "item_knn_graph" else self.run.stages[stage].spec.tables
        counts = self.counts if stage == "sessions" else None
        return [self.inputs.get(stage), self.facts.get(stage), counts, *map(self.tables.get, names)]

    def row(self, table: str, **wanted: Any) -> dict[str, Any]:
        """The first row with these values."""
        return next(row for row in self.tables[table] if row | wanted == row)


def draw_events(run: Run) -> list[Event]:
    """Events of all users over 45 days, labelled by the run's split."""
    random = np.random.default_rng(5)
    events = []
    for user in range(NUM_USERS):
        first_day = 0 if user else 32
        for ts in np.sort(random.integers(first_day * 86_400, 45 * 86_400, random.integers(4, 15))):
            day = int(ts) // 86_400
            item = COLD if day > 31 and random.random() < 0.2 else int(random.integers(0, NUM_ITEMS - 1))
            events.append(Event(len(events), user, item, START_US + int(ts) * 1_000_000 + len(events)))
    label(events, run, random)
    return events


def label(events: list[Event], run: Run, random: np.random.Generator) -> None:
    """Puts each event into its part, user by user."""
    split, valid = run.config.split, run.config.split.valid
    for user in range(NUM_USERS):
        own = [e for e in events if e.user == user]
        if split.kind == "given" or (valid and valid.kind == "given"):
            for event in own:
                event.given = str(random.choice([c.TRAIN, c.TRAIN, c.TRAIN, *c.SPLITS]))
        for event in own:
            event.part = _test_or_train(event, own, split)
        if valid:
            _label_valid([e for e in own if e.part == c.TRAIN], valid)


def _test_or_train(event: Event, own: list[Event], split: Any) -> str:
    if split.kind == "given":
        return str(event.given)
    is_test = event.ts >= _to_us(split.cut) if split.kind == "time" else event is own[-1] and len(own) > 1
    return c.TEST if is_test else c.TRAIN


def _label_valid(train: list[Event], valid: Any) -> None:
    items = sorted({e.item for e in train})
    chosen = {
        "last_k": train[-1:] if len(train) > 1 else [],
        "user_share": [e for e in train if e.item == items[0]] if len(items) > 1 else [],
        "time": [e for e in train if valid.cut and e.ts >= _to_us(valid.cut)],
        "given": [e for e in train if e.given == c.VALID],
    }[valid.kind]
    for event in chosen:
        event.part = c.VALID


def _to_us(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1_000_000


def build_lake(run: Run, events: list[Event]) -> LeakLake:
    """All tables that follow from labelled events."""
    lake = LeakLake(run)
    train = Counter(e.item for e in events if e.part == c.TRAIN)
    names = sorted({e.item for e in events}, key=lambda i: (-train[i], i))
    idx = {item: place for place, item in enumerate(names)}
    lake.tables["events"] = [_event_row(e) for e in events]
    lake.tables["items"] = [
        {
            "item_idx": idx[item], "item_id": f"i{item}", "num_events": train[item], "active": train[item] > 0,
            "first_seen": min(e.ts for e in events if e.item == item),
        } for item in names
    ]  # fmt: skip
    _add_users(lake, events, idx)
    _add_graphs(lake)
    _add_walks(lake)
    _add_vectors(lake)
    lake.counts = {"events_in": len(events), "kept": len(events), "dropped": {}, "quarantined": {}}
    lake.inputs |= {"ingest": {"source": run.source}, "sessions": {"events": 0}}
    lake.inputs |= {"train": {"walks": 0, "items": 0, "users": 0, "user_histories": 0}}
    lake.inputs["walks"] = {"item_graph": 0, "items": 0}
    lake.model_inputs = dict(lake.inputs["train"])
    lake.facts["train"] = {"model_id": run.stages["train"].id, "embedding_dim": 2, "metric": "cosine"}
    return lake


def _event_row(e: Event) -> dict[str, Any]:
    return {
        "event_id": f"e{e.number:04}", "user_id": f"u{e.user}", "item_id": f"i{e.item}", "ts": e.ts, "weight": 1.0,
        "event_type": "view", "split": e.given, "day": dt.date(2026, 1, 1),
    }  # fmt: skip


def _add_users(lake: LeakLake, events: list[Event], idx: dict[int, int]) -> None:
    tables: dict[str, list[dict[str, Any]]] = {"users": [], "user_histories": [], "sessions": []}
    for user in range(NUM_USERS):
        own = sorted((e for e in events if e.user == user), key=lambda e: (RANK[e.part], e.ts, e.number))
        counts = Counter(e.part for e in own)
        tables["users"].append({"user_idx": user, "user_id": f"u{user}", "num_events": counts[c.TRAIN]})
        tables["user_histories"].append({
            "user_idx": user, "item_idx": [idx[e.item] for e in own], "ts": [e.ts for e in own],
            "weight": [1.0] * len(own), "event_type": [0] * len(own),
            **{f"num_{part}": counts[part] for part in (c.TRAIN, c.VALID, c.CONTEXT)},
        })  # fmt: skip
        by_session = defaultdict(list)
        for event in own:
            by_session[event.part, event.ts // (5 * DAY_US)].append(event)
        tables["sessions"] += [_session_row(user, part, of, idx) for (part, _), of in by_session.items()]
    lake.tables |= tables


def _session_row(user: int, part: str, events: list[Event], idx: dict[int, int]) -> dict[str, Any]:
    """A session; consecutive events of an item are one."""
    kept = [e for place, e in enumerate(events) if place == 0 or e.item != events[place - 1].item]
    return {
        "session_id": f"{user}-{part}-{events[0].ts}", "user_idx": user, "start_ts": events[0].ts,
        "end_ts": events[-1].ts, "item_idx": [idx[e.item] for e in kept],
        "offset_seconds": [(e.ts - events[0].ts) // 1_000_000 for e in kept], "weight": [1.0] * len(kept),
        "event_type": [0] * len(kept), "split": part, "day": dt.date(2026, 1, 1),
    }  # fmt: skip


def train_units(lake: LeakLake, group: str) -> list[Unit]:
    """Train sessions, or the train parts of histories, for the oracle of graphs."""
    if group == "session":
        rows = [row for row in lake.tables["sessions"] if row["split"] == c.TRAIN]
        return [Unit(row["item_idx"], row["weight"], row["end_ts"], row["user_idx"]) for row in rows]
    found = [(row, row["num_train"]) for row in lake.tables["user_histories"] if row["num_train"]]
    return [Unit(row["item_idx"][:n], row["weight"][:n], row["ts"][n - 1], row["user_idx"]) for row, n in found]


def _add_graphs(lake: LeakLake) -> None:
    configs = {"item_graph": lake.run.config.graph, "item_knn_graph": lake.run.config.baselines.item_knn.graph}
    for name, config in configs.items():
        edges = build_graph(train_units(lake, config.group), config)
        lake.tables[name] = [
            {"src_idx": src, "dst_idx": [e[0] for e in out], "score": [e[1] for e in out], "count": [e[2] for e in out]}
            for src, out in sorted(edges.items())
        ]
        source = "sessions" if config.group == "session" else "user_histories"
        lake.inputs["graph" if name == "item_graph" else name] = {source: 0, "items": 0}


def _add_walks(lake: LeakLake) -> None:
    config, random = lake.run.config.walks, np.random.default_rng(7)
    near = defaultdict(set)
    for row in lake.tables["item_graph"]:
        for dst in row["dst_idx"]:
            near[row["src_idx"]].add(dst)
            if config.symmetrize:
                near[dst].add(row["src_idx"])
    lake.tables["walks"] = []
    for start in sorted(near):
        walk = [start]
        while len(walk) < config.walk_length and near[walk[-1]]:
            leaps = random.random() < config.restart_probability
            walk.append(start if leaps else int(random.choice(sorted(near[walk[-1]]))))
        lake.tables["walks"].append({"epoch": 0, "shard": 0, "start_idx": start, "walk": walk})


def _add_vectors(lake: LeakLake) -> None:
    random, model_id = np.random.default_rng(9), lake.run.stages["train"].id
    vectors = {r["item_idx"]: random.normal(size=2) for r in lake.tables["items"] if r["num_events"]}
    same = {"model_id": model_id, "bias": 0.0, "query_vector": None}
    lake.tables["item_embeddings"] = [
        {"idx": i, "id": lake.row("items", item_idx=i)["item_id"], "vector": v.tolist()} | same
        for i, v in vectors.items()
    ]
    lake.tables["user_embeddings"] = []
    for row in lake.tables["user_histories"]:
        unit = [vectors[i] / np.linalg.norm(vectors[i]) for i in row["item_idx"][: row["num_train"]]]
        if unit:
            mean = np.mean(unit, axis=0).tolist()
            lake.tables["user_embeddings"].append({"idx": row["user_idx"], "id": "", "vector": mean} | same)
