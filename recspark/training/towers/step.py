"""What a step of towers works on: rows, items, candidates and targets, each by its place in the others.

Shapes: B = this rank's users, R = rows, P = targets, I = items whose vectors are needed, C = candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspark.models.item_neighbours import Near
from recspark.training.objective import Place
from recspark.training.towers.candidates import Candidates
from recspark.training.towers.examples import Examples
from recspark.training.towers.losses import ABSENT, Targets

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RowNegatives:
    """Negatives of single rows: ``items`` int64 [R, H] item_idx (`ABSENT`: none), ``weight`` float32 [H] what one of a
    column counts beside a candidate that is expected once.
    """

    items: Ints
    weight: NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[tuple[Ints | None, float]]) -> "RowNegatives | None":
        """Those of several sources, each (items [R, H], what one counts), side by side; None where none has any."""
        found = [(items, weight) for items, weight in parts if items is not None]
        if not found:
            return None
        weights = np.repeat([weight for _, weight in found], [items.shape[1] for items, _ in found])
        return cls(np.concatenate([items for items, _ in found], 1), weights.astype(np.float32))


@dataclass(frozen=True)
class TowerStep:
    """A step of this rank. ``items`` int64 [I] ascending; ``history`` [N], ``candidates`` [C] and ``hard`` [R, H] are
    places in it (`ABSENT`: no negative); ``found`` says what the candidates count, ``hard_weight`` float32 [H] what the
    rows' own negatives do. ``near`` has the neighbours of the items, where the item tower reads any.
    """

    examples: Examples
    place: Place
    items: Ints
    history: Ints
    candidates: Ints
    found: Candidates
    targets: Targets
    hard: Ints | None = None
    hard_weight: NDArray[np.float32] | None = None
    near: Near | None = None

    @property
    def inputs(self) -> Ints:
        """The items whose inputs are needed, ascending: ``items`` and their neighbours."""
        return self.items if self.near is None else self.near.items


def build_step(examples: Examples, found: Candidates, place: Place, own: RowNegatives | None = None) -> TowerStep:
    """The step of this rank's examples against the global candidates and its rows' ``own`` negatives."""
    inputs = examples.history.values.astype(np.int64)
    wanted = [found.items, inputs] + ([] if own is None else [own.items[own.items != ABSENT]])
    items = np.unique(np.concatenate(wanted)) if sum(map(len, wanted[1:])) else found.items
    column = found.columns_of(examples.target_item)
    targets = Targets(examples.target_row, column, examples.target_weight)
    if found.correction is not None:
        rows, columns = find_certain(examples, column)
        targets = replace(targets, certain_row=rows, certain_column=columns)
    history, candidates = np.searchsorted(items, inputs), np.searchsorted(items, found.items)
    if own is None:
        return TowerStep(examples, place, items, history, candidates, found, targets)
    hard = np.where(own.items == ABSENT, ABSENT, np.searchsorted(items, own.items))
    return TowerStep(examples, place, items, history, candidates, found, targets, hard, own.weight)


def find_certain(examples: Examples, target_column: Ints) -> tuple[Ints, Ints]:
    """(rows, columns) [E] of the cells where a user's targets meet his own rows, by row: who drew the row drew them."""
    owner = examples.row_user[examples.target_row]
    counts = np.bincount(owner, minlength=len(examples.users))
    columns = target_column[np.argsort(owner, kind="stable")]
    rows = np.unique(examples.target_row)
    users = examples.row_user[rows]
    lengths, starts = counts[users], (np.cumsum(counts) - counts)[users]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(rows, lengths), columns[np.repeat(starts, lengths) + within]
