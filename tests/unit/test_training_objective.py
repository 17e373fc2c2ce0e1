"""What a batch costs before anything is learned: by hand, and as the first step of a backend finds it."""

import numpy as np
import pytest

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.training.objective import Objective, Place, build_objective
from recspark.training.sequence_files import Sequences
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World

PLACE = Place(0, 0, 0, 0)
ROWS = [[0, 1, 2, 3], [2, 5], [4], [7, 6, 5, 4, 3, 2, 1, 0], []]


def batch_of(rows: list[list[int]]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Sequences(np.concatenate([np.array(row, np.int32) for row in rows]), offsets)


def objective_of(model: dict[str, str] | None = None, groups: list[int] | None = None, **training: object) -> Objective:
    config = TrainingConfig.model_validate({"num_negatives": 4, "dynamic_window": False, **training})
    found = None if groups is None else np.array(groups, np.int32)
    return build_objective(ModelConfig.model_validate(model or {}), config, np.arange(1, 9), 3, found)


@pytest.mark.parametrize(
    ("knobs", "pairs", "weight"),
    [
        ({"window": 1}, 3 * 2 + 2 + 7 * 2, 3 * 2 + 2 + 7 * 2),
        ({"window": "session"}, 4 * 3 + 2 + 8 * 7, 4 + 2 + 8),
        ({"window": 2, "position_decay": 0.5}, 3 * 2 + 2 * 2 + 2 + 7 * 2 + 6 * 2, 3 * 2 + 2 + 2 + 7 * 2 + 6),
    ],
)
def test_a_pair_asks_about_itself_and_its_negatives(knobs: dict[str, object], pairs: int, weight: float) -> None:
    for groups, questions in ((None, 1 + 4), ([0] * 8, 1 + 4 + 2)):
        objective = objective_of(groups=groups, num_group_negatives=2, **knobs)
        loss, found_pairs = objective.untrained_loss(batch_of(ROWS), PLACE)
        assert (loss, found_pairs) == (pytest.approx(weight * questions * np.log(2)), pairs)


@pytest.mark.parametrize("kind", ["skip_gram", "cbow"])
@pytest.mark.parametrize("objective", ["negative_sampling", "hierarchical_softmax"])
@pytest.mark.parametrize("window", [3, "session"])
def test_it_is_the_first_loss_of_a_step(kind: str, objective: str, window: int | str) -> None:
    """Output rows start at zero, so nothing is learned before a batch's only step."""
    fitted = objective_of({"kind": kind, "objective": objective}, window=window, mask_positives=False)
    backend = TorchBackend(6, fitted, World(), num_threads=1)
    backend.step(backend.prepare(batch_of(ROWS), PLACE), 0.1)
    assert backend.untrained_loss(batch_of(ROWS), PLACE) == pytest.approx(backend.take_loss(), rel=1e-6)


def test_an_empty_batch_costs_nothing() -> None:
    assert objective_of().untrained_loss(batch_of([[], [3]]), PLACE) == (0.0, 0)
