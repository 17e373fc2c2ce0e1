"""What a step of towers works on: rows, items, candidates and targets, each by its place in the others.

Shapes: B = this rank's users, R = rows, P = targets, I = items whose vectors are needed, C = candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.models.item_neighbours import Near
from recspark.training.objective import Place
from recspark.training.towers.candidates import Candidates
from recspark.training.towers.examples import Examples
from recspark.training.towers.losses import ABSENT, Targets

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TowerStep:
    """A step of this rank. ``items`` int64 [I] ascending; ``history`` [N], ``candidates`` [C] and ``hard`` [R, H] are
    places in it (`ABSENT`: no negative); ``found`` says what the candidates count. ``near`` has the neighbours of the
    items, where the item tower reads any.
    """

    examples: Examples
    place: Place
    items: Ints
    history: Ints
    candidates: Ints
    found: Candidates
    targets: Targets
    hard: Ints | None = None
    near: Near | None = None

    @property
    def inputs(self) -> Ints:
        """The items whose inputs are needed, ascending: ``items`` and their neighbours."""
        return self.items if self.near is None else self.near.items


def build_step(examples: Examples, found: Candidates, place: Place, hard_items: Ints | None = None) -> TowerStep:
    """The step of this rank's examples against the global candidates; ``hard_items`` [R, H] are item_idx."""
    inputs = examples.history.values.astype(np.int64)
    wanted = [found.items, inputs] + ([] if hard_items is None else [hard_items[hard_items != ABSENT]])
    items = np.unique(np.concatenate(wanted)) if sum(map(len, wanted[1:])) else found.items
    column = found.columns_of(examples.target_item)
    targets = Targets.of(examples.target_row, column, examples.target_weight)
    hard = None
    if hard_items is not None:
        hard = np.where(hard_items == ABSENT, ABSENT, np.searchsorted(items, hard_items))
    history, candidates = np.searchsorted(items, inputs), np.searchsorted(items, found.items)
    return TowerStep(examples, place, items, history, candidates, found, targets, hard)
