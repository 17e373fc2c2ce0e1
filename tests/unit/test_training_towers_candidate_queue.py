"""The queue: first in, first out, expected as often as it is there, a row's own targets in it left out."""

from typing import Any

import numpy as np
import torch

from recspark.config.towers import NegativesConfig
from recspark.evaluate.ragged import Ragged
from recspark.training.objective import Place
from recspark.training.towers.candidate_queue import CandidateQueue
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.examples import Examples
from recspark.training.towers.step import TowerStep, build_step

COUNTS = np.array([4, 3, 2, 1, 6])
CONFIG = NegativesConfig(kind="sampled", uniform=0, queue=5, queue_after_steps=2)


def source() -> CandidateSource:
    return CandidateSource(CONFIG, COUNTS, np.ones(5, np.bool_), seed=0)


def step_of(targets: list[int], number: int) -> TowerStep:
    """A step of one user a target."""
    items = np.array(targets)
    history, rows = Ragged.empty(len(items)), np.arange(len(items))
    examples = Examples(rows, history, False, rows, items, np.ones(len(items), np.float32))
    return build_step(examples, source().draw(items, number), Place(0, number, number, 0))


def vectors_of(step: TowerStep) -> torch.Tensor:
    return torch.from_numpy(step.items.astype(np.float32))[:, None].repeat(1, 2)


def filled(*batches: list[int]) -> CandidateQueue:
    queue = CandidateQueue(CONFIG, 2, "cpu")
    for number, batch in enumerate(batches):
        step = step_of(batch, number)
        queue.push(step, vectors_of(step))
    return queue


def entries(queue: CandidateQueue) -> list[int]:
    state: dict[str, Any] = queue.state_dict()
    assert state["vectors"][:, 0].tolist() == state["items"].tolist()
    return sorted(state["items"].tolist())


def test_it_holds_the_newest_targets_from_the_step_on_that_is_asked_for() -> None:
    assert entries(filled([0, 0])) == []
    assert entries(filled([0, 0], [1, 2])) == [1, 2]
    assert entries(filled([0], [1, 2], [3, 3], [4])) == [1, 2, 3, 3, 4]
    assert entries(filled([0], [1], [3, 3], [4, 2, 2])) == [2, 2, 3, 3, 4]
    assert not filled([0], [1]).is_open(1)
    assert filled([0], [1]).is_open(2)


def test_its_columns_are_expected_as_targets_are_and_own_targets_are_masked() -> None:
    queue, step = filled([0], [1, 2]), step_of([1, 4, 4], 5)
    candidates, correction, targets = queue.extend(step, vectors_of(step), step.targets, source())
    shares = COUNTS / COUNTS.sum()
    order = queue.state_dict()["items"].tolist()
    assert candidates[:, 0].tolist() == [1, 4, *order]
    expected = np.log([1 / (5 * shares[1]), 2 / (5 * shares[4]), *(1 / (5 * shares[i]) for i in order)])
    np.testing.assert_allclose(correction, expected, rtol=1e-5)
    masked = list(zip(targets.masked_row.tolist(), targets.masked_column.tolist(), strict=True))
    assert masked == [(0, 2 + order.index(1))]


def test_it_goes_on_from_its_state() -> None:
    queue, other = filled([0], [1, 2]), CandidateQueue(CONFIG, 2, "cpu")
    other.load_state_dict(queue.state_dict())
    step = step_of([3], 6)
    for one in (queue, other):
        one.push(step, vectors_of(step))
    assert entries(queue) == entries(other) == [1, 2, 3]
