"""Co-occurrence in plain Python: dictionaries and loops over the definition, nothing shared with the code it checks."""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

DAY_US = 86_400_000_000


@dataclass
class Unit:
    """A session or a user's train history."""

    items: list
    weights: list
    time_us: int
    user: int = 0


def random_units(seed, num_units=150, num_items=40, longest=12, repeats=True):
    """Skewed items, repeats, units of one event, item 0 in most units; the last item never occurs."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, num_items) ** 0.9
    share /= share.sum()
    units = []
    for _ in range(num_units):
        size = int(random.integers(1, longest + 1))
        items = [int(i) for i in random.choice(num_items - 1, size, p=share, replace=repeats)]
        if repeats and random.random() < 0.6:
            items[int(random.integers(len(items)))] = 0
        # Multiples of 1/4 are exact in float32.
        weights = [float(w) / 4 for w in random.integers(1, 20, len(items))]
        time_us = int(random.integers(0, 60)) * DAY_US + int(random.integers(DAY_US))
        units.append(Unit(items, weights, time_us, user=len(units) % 17))
    return units


def cap_users(units, max_user_events):
    """Units cut to the newest events of their user."""
    room, cut = defaultdict(lambda: max_user_events), []
    for unit in sorted(units, key=lambda u: -u.time_us):
        kept = min(len(unit.items), room[unit.user])
        room[unit.user] -= kept
        first = len(unit.items) - kept
        cut.append(Unit(unit.items[first:], unit.weights[first:], unit.time_us, unit.user))
    return cut


def support_unit(number, unit, config):
    """What counts once: the unit, or its user."""
    return unit.user if config.support == "user" else number


def count_supporters(units, config, item):
    """Units (or users) that hold an item among the events that count; any item for None."""
    newest = [unit.items[-config.max_session_items :] for unit in units]
    held = (n for n, items in enumerate(newest) if (items if item is None else item in items))
    return len({support_unit(n, units[n], config) for n in held})


def count_pairs(units, config):
    """(weighted sums, supports) by (i, j), and the number of units that hold each item."""
    sums, supporters, holders = defaultdict(float), defaultdict(set), defaultdict(int)
    newest = max(u.time_us for u in units)
    for number, unit in enumerate(units):
        items, weights = unit.items[-config.max_session_items :], unit.weights[-config.max_session_items :]
        distinct = sorted(set(items))
        places = {i: [p for p, x in enumerate(items) if x == i] for i in distinct}
        total = {i: sum(weights[p] for p in places[i]) if config.use_event_weights else 1.0 for i in distinct}
        unit_weight = len(distinct) ** -config.length_power if distinct else 0.0
        if config.half_life_days:
            unit_weight *= 2 ** ((unit.time_us - newest) / (config.half_life_days * DAY_US))
        for i in distinct:
            holders[i] += 1
            for j in distinct:
                distance = min(abs(a - b) for a in places[i] for b in places[j])
                if i == j or (config.window and distance > config.window):
                    continue
                sums[i, j] += unit_weight * config.distance_decay ** (distance - 1) * (total[i] * total[j])
                supporters[i, j].add(support_unit(number, unit, config))
    return sums, {pair: len(who) for pair, who in supporters.items()}, holders


def build_graph(units, config):
    """{src: [(dst, score, count), ...]}, best first."""
    units = cap_users(units, config.max_user_events) if config.max_user_events else units
    sums, supports, holders = count_pairs(units, config)
    row_sums = defaultdict(float)
    for (i, _), weight in sums.items():
        row_sums[i] += weight
    smoothed_total = sum(r**config.ppmi_smoothing for r in row_sums.values())

    def score(i, j):
        weight = sums[i, j]
        if config.score == "count":
            return weight
        if config.score == "cosine":
            return weight * (holders[i] ** -config.source_exponent * holders[j] ** -config.candidate_exponent)
        if config.score == "jaccard":
            return weight / (holders[i] + holders[j] - weight)
        if config.score == "lift":
            return weight * len([u for u in units if u.items]) / (holders[i] * holders[j])
        if config.score == "llr":
            n_i, n_j, total = (count_supporters(units, config, item) for item in (i, j, None))
            return log_likelihood_ratio(supports[i, j], n_i, n_j, total)
        # The textbook form: P(i,j) / (P(i) P_s(j)).
        joint = weight / sum(row_sums.values())
        alone = row_sums[i] / sum(row_sums.values())
        context = row_sums[j] ** config.ppmi_smoothing / smoothed_total
        return math.log(joint / (alone * context)) - math.log(config.ppmi_shift)

    rows = defaultdict(list)
    for i, j in sums:
        value = float(np.float32(score(i, j)))
        if supports[i, j] >= config.min_support and value > 0:
            rows[i].append((j, value, supports[i, j]))
    limit = config.num_neighbours
    return {i: sorted(row, key=lambda e: (-e[1], e[0]))[:limit] for i, row in rows.items()}


def log_likelihood_ratio(both, source, candidate, total):
    """From the four cells of the table, as the G test is taught; 0 for pairs that avoid each other."""
    if both * total <= source * candidate:
        return 0.0
    table = np.array([[both, source - both], [candidate - both, total - source - candidate + both]], float)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(2 * sum(k * math.log(k / e) for k, e in zip(table.ravel(), expected.ravel(), strict=True) if k))


def rows_of(table):
    """The same form from rows of `item_graph` (an Arrow table or a list of batches)."""
    batches = table if isinstance(table, list) else table.to_batches()
    rows = [row for batch in batches for row in batch.to_pylist()]
    found = {r["src_idx"]: list(zip(r["dst_idx"], r["score"], r["count"], strict=True)) for r in rows}
    assert len(found) == len(rows), "an item has two rows"
    return found


def assert_same_graph(found, expected, rtol=1e-6):
    """The same items, neighbours in the same order, the same counts; scores within ``rtol``."""
    assert sorted(found) == sorted(expected)
    for i, row in expected.items():
        assert [e[0] for e in found[i]] == [e[0] for e in row], f"neighbours of {i}"
        assert [e[2] for e in found[i]] == [e[2] for e in row], f"counts of {i}"
        np.testing.assert_allclose([e[1] for e in found[i]], [e[1] for e in row], rtol=rtol, atol=1e-7)
