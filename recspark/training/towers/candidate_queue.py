"""Vectors of earlier batches' targets, kept as they were, as further candidates: first in, first out.

Source: Wang et al. 2021 (cross-batch negative sampling). All ranks see the same candidates, so all hold the same queue.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.config.towers import NegativesConfig
from recspark.training.lanes import permutation
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.losses import Targets
from recspark.training.towers.step import TowerStep


class CandidateQueue:
    """At most ``negatives.queue`` entries; used from step ``queue_after_steps`` on."""

    def __init__(self, config: NegativesConfig, dim: int, device: str) -> None:
        self._size, self._after = config.queue, config.queue_after_steps
        self._items = np.empty(0, np.int64)
        self._vectors = torch.empty(0, dim, device=device)

    def is_open(self, global_step: int) -> bool:
        """Whether a step is compared with it."""
        return global_step >= self._after and len(self._items) > 0

    def push(self, step: TowerStep, vectors_ID: Tensor) -> None:
        """Adds the candidates that stand for others' targets, each as often as it was one."""
        if not self._size or step.place.global_step + 1 < self._after:
            return
        assert step.found.target_counts is not None, "the config is checked: only sampled candidates are kept"
        drawn = np.repeat(np.arange(len(step.candidates)), step.found.target_counts)
        # Of a batch larger than the queue a part that does not hang on the order of items.
        drawn = drawn[permutation(len(drawn), step.place.global_step)[-self._size :]]
        places = step.candidates[drawn]
        self._items = np.concatenate([self._items, step.items[places]])[-self._size :]
        own = vectors_ID[torch.from_numpy(places).to(vectors_ID.device)]
        self._vectors = torch.cat([self._vectors, own])[-self._size :]

    def extend(
        self, step: TowerStep, candidates_CD: Tensor, targets: Targets, source: CandidateSource
    ) -> tuple[Tensor, NDArray[np.float32], Targets]:
        """(candidates, correction, targets) with the queue's columns behind the others'.

        An entry counts once and is expected as often as a target: with n entries, Q grows by n p for every column. What
        is there with certainty, a row's user's targets, is left out of the queue.
        """
        found, once = step.found, np.ones(len(self._items))
        assert found.counts is not None
        expected = source.expected_counts(found.num_targets + len(self._items))
        parts = [source.correct(found.items, found.counts, expected), source.correct(self._items, once, expected)]
        correction = np.concatenate(parts)
        rows, columns = self._find_items(found.items[targets.certain_column], targets.certain_row, len(candidates_CD))
        masked = replace(targets, masked_row=rows, masked_column=columns)
        return torch.cat([candidates_CD, self._vectors]), correction, masked

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {"items": torch.from_numpy(self._items), "vectors": self._vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self._items, self._vectors = state["items"].cpu().numpy(), state["vectors"]

    def _find_items(
        self, items: NDArray[np.int64], of_row: NDArray[np.int64], first_column: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows, columns) of entries that are one of the items [E] of a row [E], by row."""
        order = np.argsort(self._items, kind="stable")
        first, last = (np.searchsorted(self._items[order], items, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(of_row, counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, order[np.repeat(first, counts) + within] + first_column
