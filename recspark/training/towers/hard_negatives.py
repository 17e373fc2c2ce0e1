"""Negatives that are hard to tell from a row's target: near it in the graph, or near it for the model as it is now.

    target 7   graph   7 -> a user of it -> his item -> a user of that -> his item     [31]
               model   drawn from ranks 100..499 of the items nearest to 7             [12]

None of them is in the user's history; where a draw is, the row has one fewer. Their number grows by epochs. Draws hang
on the user and the place in his history, not on where a row stands: any number of ranks draws the same.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.config.towers import NegativesConfig
from recspark.contracts.shards import hash_ids
from recspark.evaluate.ragged import Ragged
from recspark.training.lanes import hash_place
from recspark.training.objective import Place
from recspark.training.towers.examples import Examples
from recspark.training.towers.losses import ABSENT

Ints = NDArray[np.int64]
_ANCHORS_AT_ONCE = 512
_GRAPH, _MODEL, _ANCHOR = 5, 6, 7


class HardNegatives:
    """Draws hard negatives a row; ``users_UN`` is the train part of all histories."""

    def __init__(self, config: NegativesConfig, users_UN: sp.csr_array, seed: int) -> None:
        self.config, self._seed = config, seed
        self._items_of_user, self._users_of_item = users_UN, sp.csr_array(users_UN.T)
        self._near = torch.empty(0, 0, dtype=torch.int32)

    @property
    def is_mined(self) -> bool:
        """Whether what is drawn hangs on the model."""
        return self.config.hard_model > 0

    def draw(self, examples: Examples, place: Place) -> Ints | None:
        """Items [R, H] of this rank's rows, `ABSENT` where there is none; None while there are none at all."""
        grown = min(1.0, place.epoch / self.config.hard_full_epoch) if self.config.hard_full_epoch else 1.0
        num_graph, num_model = int(self.config.hard_graph * grown), int(self.config.hard_model * grown)
        if not (num_graph or num_model) or not examples.num_rows:
            return None
        rows = examples.row_keys
        anchors = self._choose_anchors(examples, rows, place)
        found = [self._walk(anchors, self._units(rows, place, _GRAPH, n)) for n in range(num_graph)]
        if self._near.numel():
            found += [self._pick_near(anchors, self._units(rows, place, _MODEL, n)) for n in range(num_model)]
        if not found:
            return None
        found_RH = np.stack(found, 1)
        return np.where(self._is_of_user(examples, found_RH), ABSENT, found_RH)

    def is_due(self, global_step: int) -> bool:
        """Whether the model is to be looked at again before a step."""
        return self.is_mined and global_step % self.config.hard_refresh_steps == 0

    def mine(self, vectors_ND: Tensor, listed: Ints) -> None:
        """Finds the items of the ranks drawn from for every item, exactly; vectors are as they are compared.

        Cost: N^2 D multiplications and 4 N x (ranks) bytes.
        """
        last = max(1, min(self.config.hard_last_rank, len(listed) - 1))
        first = min(self.config.hard_first_rank, last - 1)
        own = vectors_ND[torch.from_numpy(listed).to(vectors_ND.device)]
        near = torch.empty(len(vectors_ND), last - first, dtype=torch.int32)
        names = torch.from_numpy(listed)
        for start in range(0, len(vectors_ND), _ANCHORS_AT_ONCE):
            scores = vectors_ND[start : start + _ANCHORS_AT_ONCE] @ own.T
            ranked = scores.topk(last, dim=1).indices[:, first:].cpu()
            near[start : start + _ANCHORS_AT_ONCE] = names[ranked].int()
        self._near = near

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold: what was mined last."""
        return {"near": self._near}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self._near = state["near"].cpu()

    def _is_of_user(self, examples: Examples, items_RH: Ints) -> NDArray[np.bool_]:
        """Whether items are in the train history of their row's user, however long ago."""
        histories = Ragged(self._items_of_user.indptr.astype(np.int64), self._items_of_user.indices)
        rows_RH = np.broadcast_to(examples.row_user[:, None], items_RH.shape)
        return histories.take(examples.users).contains(rows_RH, items_RH)

    def _choose_anchors(self, examples: Examples, rows: Ints, place: Place) -> Ints:
        """One target of each row, -1 for a row without any."""
        counts = np.bincount(examples.target_row, minlength=examples.num_rows)
        first = np.cumsum(counts) - counts
        chosen = first + (self._units(rows, place, _ANCHOR, 0) * counts).astype(np.int64)
        padded = np.append(examples.target_item, ABSENT)
        return np.where(counts > 0, padded[np.minimum(chosen, len(padded) - 1)], ABSENT)

    def _walk(self, anchors: Ints, units: NDArray[np.float64]) -> Ints:
        """Two steps item -> user -> item from each anchor; the four draws are digits of one number."""
        at = anchors
        for matrix in (self._users_of_item, self._items_of_user) * 2:
            starts = matrix.indptr.astype(np.int64)
            lengths = np.where(at == ABSENT, 0, starts[at + 1] - starts[at])
            scaled = units * np.maximum(lengths, 1)
            step = np.minimum(scaled.astype(np.int64), np.maximum(lengths - 1, 0))
            units = scaled - np.floor(scaled)
            reached = matrix.indices[np.minimum(starts[at] + step, len(matrix.indices) - 1)]
            at = np.where(lengths > 0, reached, ABSENT).astype(np.int64)
        return at

    def _pick_near(self, anchors: Ints, units: NDArray[np.float64]) -> Ints:
        near = self._near.numpy()
        return np.where(anchors == ABSENT, ABSENT, near[anchors, (units * near.shape[1]).astype(np.int64)])

    def _units(self, rows: Ints, place: Place, purpose: int, number: int) -> NDArray[np.float64]:
        bits = hash_ids(rows, hash_place(self._seed, place.global_step, purpose, number))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
