"""The sessions stage in plain Python: loops over dictionaries, no engine, nothing shared with the code it checks."""

import hashlib
import math
import random
from collections import Counter, defaultdict

RANK = {"train": 0, "valid": 1, "context": 2, "test": 3}
DAY_US = 86_400_000_000


def random_events(seed, num_events=120, num_users=6, num_items=9):
    """Small dirty logs: ties in time, repeats, several baskets a user, a few users with a single event."""
    rng = random.Random(seed)
    events = []
    for number in range(num_events):
        user = rng.choice([f"u{rng.randrange(num_users)}", f"u{rng.randrange(num_users)}", f"once{number}"])
        day = rng.randrange(4)
        second = rng.choice([rng.randrange(86_400), rng.randrange(600), 60 * rng.randrange(10)])
        events.append(
            {
                "event_id": f"e{number:04d}",
                "user_id": user,
                "item_id": f"i{min(rng.randrange(num_items), rng.randrange(num_items))}",
                "ts_us": 1_767_225_600_000_000 + day * DAY_US + second * 1_000_000 + rng.choice([0, 0, 500_000]),
                "event_type": rng.choice(["view", "view", "cart", "buy"]),
                "weight": rng.choice([1.0, 0.5, 2.0]),
                "basket_id": f"b{rng.randrange(4)}",
                "split": rng.choice(["train", "train", "train", "valid", "test", "context"]),
            }
        )
    rng.shuffle(events)
    return events


def build_sessions(events, config):
    """All that the stage should write, from events and a `RunConfig`, keyed by outside ids."""
    rows, fates = _refuse(events, config)
    _split(rows, config)
    rows = _drop_users(rows, config, fates)
    items, rows = _vocabulary(rows, config, fates)
    rows.sort(key=lambda r: (r["user_id"], RANK[r["split"]], *_order(r, config)))
    return {
        "items": items,
        "users": _users(rows),
        "histories": _histories(rows),
        "sessions": _sessions(rows, config),
        "fates": dict(fates),
    }


def _order(row, config):
    if config.source.order == "none":
        return row["ts_us"], row["item_id"], row["event_id"]
    return row["ts_us"], row["event_id"]


def _refuse(events, config):
    rows, fates = [], Counter()
    for event in events:
        clean = config.clean
        factor = clean.event_weights.get(event["event_type"], 1.0)
        if config.split.kind == "given" and event["split"] not in RANK:
            fates["bad_split"] += 1
        elif config.sessions.group_by == "basket" and event["basket_id"] is None:
            fates["no_basket_id"] += 1
        elif clean.event_types is not None and event["event_type"] not in clean.event_types:
            fates["event_types"] += 1
        elif factor == 0:
            fates["event_weights"] += 1
        else:
            rows.append({**event, "weight": event["weight"] * factor, "given": event["split"]})
    return rows, fates


def _by_user(rows):
    users = defaultdict(list)
    for row in rows:
        users[row["user_id"]].append(row)
    return users


def parse_us(text):
    """Microseconds of the few forms the tests use: a day, or a UTC time."""
    import calendar
    import time

    form = "%Y-%m-%d" if len(text) == 10 else "%Y-%m-%dT%H:%M:%SZ"
    return calendar.timegm(time.strptime(text, form)) * 1_000_000


def _split(rows, config):
    split = config.split
    for row in rows:
        if split.kind == "time":
            row["split"] = "test" if row["ts_us"] >= parse_us(split.cut) else "train"
        elif split.kind == "leave_last_out":
            row["split"] = "train"
    for user, own in _by_user(rows).items():
        if split.kind == "leave_last_out" and len(own) > 1:
            max(own, key=lambda r: _order(r, config))["split"] = "test"
        if split.valid:
            _cut_valid(user, [r for r in own if r["split"] == "train"], split.valid, config)


def _md5(*parts):
    return hashlib.md5("\x1f".join(map(str, parts)).encode()).hexdigest()


def _cut_valid(user, train, valid, config):
    if not train:
        return
    train.sort(key=lambda r: _order(r, config))
    chosen = []
    if valid.kind == "last_k":
        chosen = train[1:][-valid.k :]
    elif valid.kind == "time":
        chosen = [r for r in train if r["ts_us"] >= parse_us(valid.cut)]
    elif valid.kind == "given":
        chosen = [r for r in train if r["given"] == "valid"]
    else:
        items = sorted({r["item_id"] for r in train}, key=lambda i: (_md5(valid.seed, user, i), i))
        draw = int(_md5(valid.seed, user)[:8], 16) / 2**32
        number = min(math.floor(len(items) * valid.fraction + draw), len(items) - 1)
        chosen = [r for r in train if r["item_id"] in items[:number]]
    for row in chosen:
        row["split"] = "valid"


def _drop_users(rows, config, fates):
    kept = []
    for own in _by_user(rows).values():
        before = [r for r in own if r["split"] != "test"] if config.split.kind == "time" else own
        for row in own:
            reason = _judge(own if row["split"] == "test" else before, config.clean)
            if reason:
                fates[reason] += 1
            else:
                kept.append(row)
    return kept


def _judge(own, clean):
    minutes = Counter(r["ts_us"] // 60_000_000 for r in own)
    if clean.max_user_events and len(own) > clean.max_user_events:
        return "bot_users"
    if clean.max_events_per_minute and max(minutes.values()) > clean.max_events_per_minute:
        return "flood_users"
    return "rare_users" if len(own) < clean.min_user_events else None


def _vocabulary(rows, config, fates):
    train = Counter(r["item_id"] for r in rows if r["split"] == "train")
    first = {}
    for row in rows:
        first[row["item_id"]] = min(first.get(row["item_id"], row["ts_us"]), row["ts_us"])
    enough = {i: n if n >= config.vocabulary.min_item_events else 0 for i, n in ((i, train[i]) for i in first)}
    order = sorted(first, key=lambda i: (-enough[i], i))
    items = [(idx, i, enough[i], first[i], enough[i] > 0) for idx, i in enumerate(order)]
    kept = [r for r in rows if r["split"] != "train" or enough[r["item_id"]]]
    if len(kept) < len(rows):
        fates["rare_items"] += len(rows) - len(kept)
    return items, kept


def _users(rows):
    num_train = {u: sum(r["split"] == "train" for r in own) for u, own in _by_user(rows).items()}
    return [(idx, user, num_train[user]) for idx, user in enumerate(sorted(num_train))]


def _histories(rows):
    return {
        user: {
            "events": [(r["item_id"], r["ts_us"], r["weight"], r["event_type"]) for r in own],
            "num": tuple(sum(r["split"] == s for r in own) for s in ("train", "valid", "context")),
        }
        for user, own in _by_user(rows).items()
    }


def _sessions(rows, config):
    """(user, split, start, end, events) of each session, events as (item, offset, weight, type)."""
    groups = defaultdict(list)
    for row in rows:
        basket = row["basket_id"] if config.sessions.group_by == "basket" else None
        groups[row["user_id"], row["split"], basket].append(row)
    found = []
    for (user, split, _), own in groups.items():
        for session in _cut(own, config):
            start = session[0]["ts_us"]
            found.append((user, split, start, session[-1]["ts_us"], _collapse(session, start, config)))
    return sorted(found)


def _cut(own, config):
    rules, by_gap = config.sessions, config.sessions.group_by == "gap" and config.source.order == "time"
    sessions = [[own[0]]]
    for row in own[1:]:
        current = sessions[-1]
        pause = row["ts_us"] - current[-1]["ts_us"] > rules.gap_seconds * 1_000_000
        wide = row["ts_us"] - current[0]["ts_us"] > rules.max_span_seconds * 1_000_000
        if len(current) == rules.max_items or (by_gap and (pause or wide)):
            sessions.append([])
        sessions[-1].append(row)
    return sessions


def _collapse(session, start, config):
    events = []
    for row in session:
        if config.sessions.collapse_repeats and events and events[-1][0] == row["item_id"]:
            item, offset, weight, event_type = events[-1]
            events[-1] = (item, offset, weight + row["weight"], event_type)
        else:
            events.append((row["item_id"], (row["ts_us"] - start) // 1_000_000, row["weight"], row["event_type"]))
    return tuple(events)
