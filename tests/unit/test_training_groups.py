"""Negatives of an item's own group: who can be drawn, how often, and who does not count."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.errors import DataError
from recspark.lake.arrow import find_table
from recspark.training.groups import build_group_noise, read_groups
from recspark.training.objective import Objective, Place, build_objective
from tests.helpers.family_oracle import ragged
from tests.helpers.tiny_lake import plan_tiny, write_sessions

COUNTS = np.array([1, 4, 9, 16, 25, 36, 0, 49])
START = Place(0, 0, 0, 0)
GROUPS = np.int32([0, 0, 0, 1, 1, -1, 1, 2])  # items 0-2, items 3, 4 and 6 (never seen), item 7; item 5 has none


def objective_of(kind: str = "skip_gram", **knobs) -> Objective:
    config = TrainingConfig(**{"noise_exponent": 0.5, "num_group_negatives": 4, "window": 1} | knobs)
    return build_objective(ModelConfig(kind=kind), config, COUNTS, 1, GROUPS)


def draw(objective: Objective, rows: list[list[int]], place: Place = START) -> np.ndarray:
    return objective.draw_group_negatives(objective.draw(ragged(rows), place), place)


def test_members_are_the_seen_items_of_a_group():
    noise = build_group_noise(GROUPS, np.sqrt(COUNTS) / np.sqrt(COUNTS).sum())
    parts = [noise.members[low:high].tolist() for low, high in zip(noise.starts, noise.starts[1:], strict=False)]
    assert parts == [[0, 1, 2], [3, 4], [7]]


def test_draws_follow_the_noise_inside_the_group_and_leave_out_the_item_itself():
    found = draw(objective_of(), [[0, 7]] * 5000)[::2]
    drawn = np.bincount(found[found >= 0], minlength=8)
    # Of the group's 1, 2, 3 (square roots of the counts) item 0 draws 1 and 2 at 2/6 and 3/6, itself at 1/6.
    assert drawn[[0, 3, 4, 5, 6, 7]].sum() == 0
    assert stats.chisquare([*drawn[[1, 2]], (found < 0).sum()], [20_000 * p / 6 for p in (2, 3, 1)]).pvalue > 1e-3


def test_items_without_a_group_or_alone_in_it_have_none():
    assert (draw(objective_of(), [[5, 7, 5, 7]]) == -1).all()


@pytest.mark.parametrize(
    ("kind", "is_masked", "expected"),
    # Windows of 1: item 0 predicts 1 in skip-gram, so only 2 is left; in CBOW it predicts itself.
    [("skip_gram", True, {-1, 2}), ("skip_gram", False, {-1, 1, 2}), ("cbow", True, {-1, 1, 2})],
)
def test_positives_do_not_count_where_they_are_masked(kind, is_masked, expected):
    found = draw(objective_of(kind, mask_positives=is_masked), [[0, 1]] * 200)[::2]
    assert set(found.ravel().tolist()) == expected


def test_draws_do_not_depend_on_who_holds_a_row():
    rows = np.random.default_rng(1).integers(0, 8, (20, 6)).tolist()
    objective = objective_of(subsample=0.05)
    whole = draw(objective, rows)
    parts = [draw(objective, rows[low:high], Place(0, 0, 0, low)) for low, high in ((0, 7), (7, 20))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (draw(objective, rows, Place(0, 1, 1, 0))[:10] != whole[:10]).any()


def test_without_groups_nothing_is_drawn():
    objective = build_objective(ModelConfig(), TrainingConfig(), COUNTS, 1)
    assert draw(objective, [[0, 1, 2]]).shape == (3, 0)


def test_groups_are_read_by_value(tmp_path: Path):
    run = plan_tiny(tmp_path)
    values = ["b", None, "a", "b"]
    write_sessions(run, [1, 1, 1, 1], [([0, 1], [], [], [2])], f_market=values, f_empty=[None, None, None, None])
    items = find_table(run.lake, run.stages["sessions"], "items")
    groups = read_groups(items, "market").tolist()
    assert groups[0] == groups[3] != groups[2]
    assert groups[1] == -1
    with pytest.raises(DataError, match=r"no item has a value of f_empty, so training.negative_group has no groups"):
        read_groups(items, "empty")
