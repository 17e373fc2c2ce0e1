"""What a ranking head learns from: some targets of a step, each beside what the retrieval would list with it.

    user 7 has seen [3, 5], target 8    ->    [8 | 31, 12, 40]

At serving the head is shown the first `ranking.candidates` items of the retrieval. So a share num_negatives /
candidates of what the step compares with is drawn, and of these the best num_negatives by the towers as they are: a
sample of those first items, for that share of the cost. Draws hang on (seed, step) and on users or items: any number of
ranks makes the same.

Shapes: T = targets ranked, C = 1 + num_negatives, M = candidates drawn, L = items of the longest history, I = items of
the step, N = items of all histories, R = rows of scores, D = embedding_dim.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recspark.config.towers import RankingConfig
from recspark.contracts.shards import hash_ids
from recspark.evaluate.lists import blocks
from recspark.evaluate.ragged import Ragged, group_by_length
from recspark.models.ranking_head import RankingHead
from recspark.models.towers import Similarity
from recspark.training.lanes import hash_place
from recspark.training.towers.examples import Examples
from recspark.training.towers.losses import ABSENT
from recspark.training.towers.network import Compared
from recspark.training.towers.step import Ints, TowerStep

_TARGET, _CANDIDATE = 8, 9
_MOST_TARGETS = 1 << 20
"""Of a user."""
_PAIRS_AT_ONCE = 1 << 19
"""Pairs of candidate and history item whose layers are kept for the gradient; of more, they are computed twice."""
_FEWEST_GROUPS = 4
_SCORES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class RankedRows:
    """Targets with their negatives. ``row`` int64 [T]: their rows of scores; ``start``, ``length`` int64 [T]: which
    items of all histories come before them; ``places`` int64 [T, C] of the step's items, the target's first (`ABSENT`:
    no negative); ``weight`` float32 [T].
    """

    row: Ints
    start: Ints
    length: Ints
    places: Ints
    weight: NDArray[np.float32]


class RankingLoss:
    """The head's own loss on a step."""

    def __init__(self, head: RankingHead, similarity: Similarity, config: RankingConfig, seed: int) -> None:
        self._head, self._similarity, self._config, self._seed = head, similarity, config, seed

    @property
    def untrained_cost(self) -> float:
        """What a target costs while all scores are alike."""
        return math.log(1 + self._config.num_negatives) if self._config.loss == "softmax" else 2 * math.log(2)

    def measure(self, step: TowerStep, compared: Compared) -> tuple[Tensor, float]:
        """(loss summed over the targets ranked, their weight); 0 where the step has none."""
        rows = self._choose_rows(step, compared)
        assert compared.history is not None, "the config is checked: a head has histories to look at"
        users_RD, history_ND = self._similarity.candidates(compared.queries), compared.history
        users_RD, history_ND, items_ID = (self._pass_gradient(x) for x in (users_RD, history_ND, compared.items))

        def measure_group(group: Ints) -> Tensor:
            index, is_there = _padded_places(rows.start[group], rows.length[group])
            places = _tensor(rows.places[group], items_ID)
            h_TLD = history_ND[_tensor(index, history_ND)] * _tensor(is_there, history_ND)[..., None]
            u_TD, v_TCD = users_RD[_tensor(rows.row[group], users_RD)], items_ID[places.clamp(min=0)]
            retrieved_TC = torch.einsum("td,tcd->tc", u_TD, v_TCD)
            scores_TC = self._head(u_TD, h_TLD, _tensor(rows.length[group], places), v_TCD, retrieved_TC)
            costs_T = find_costs(scores_TC, places != ABSENT, self._config.loss)
            return torch.dot(costs_T, _tensor(rows.weight[group], costs_T))

        width = rows.places.shape[1]
        num_pairs = int(rows.length.sum()) * width
        is_large, most = num_pairs > _PAIRS_AT_ONCE, max(min(_PAIRS_AT_ONCE, num_pairs // _FEWEST_GROUPS), 1)
        loss = users_RD.new_zeros(())
        for group in group_by_length(rows.length, width, most):
            # Computed again for the gradient where the layers of all pairs would be too much to keep.
            loss += checkpoint(measure_group, group, use_reentrant=False) if is_large else measure_group(group)
        return loss, float(rows.weight.sum())

    def _pass_gradient(self, x: Tensor) -> Tensor:
        """The same numbers; of their gradient a share `joint` goes on."""
        share, kept = self._config.joint, x.detach()
        return kept + share * (x - kept) if share else kept

    def _choose_rows(self, step: TowerStep, compared: Compared) -> RankedRows:
        examples, history = step.examples, step.examples.history
        key = hash_place(self._seed, step.place.global_step, _TARGET)
        chosen = choose_targets(examples, self._config.max_targets, key)
        row = examples.target_row[chosen]
        owner = examples.row_user[row]
        start = history.offsets[:-1][owner]
        length = row - start + 1 if examples.is_prefixes else history.lengths[owner]
        targets = step.candidates[step.targets.column[chosen]]
        negatives = self._draw_negatives(step, compared, row, owner)
        places = np.concatenate([targets[:, None], negatives], 1)
        return RankedRows(row, start, length, places, step.targets.weight[chosen])

    def _draw_negatives(self, step: TowerStep, compared: Compared, row: Ints, owner: Ints) -> Ints:
        """Places [T, at most num_negatives] of the step's items, `ABSENT` where there are fewer."""
        key = hash_place(self._seed, step.place.global_step, _CANDIDATE)
        drawn = draw_share(step.found.items, self._config.num_negatives / self._config.candidates, key)
        items, places = step.found.items[drawn], step.candidates[drawn]
        known = step.examples.history, _targets_by_user(step.examples)
        width, found = min(self._config.num_negatives, len(items)), []
        queries_RD, items_MD = compared.queries.detach(), compared.items.detach()[_tensor(places, compared.items)]
        for start, stop in blocks(len(row), max(1, _SCORES_AT_ONCE // len(items))):
            scores_TM = queries_RD[_tensor(row[start:stop], queries_RD)] @ items_MD.T
            for own in known:
                rows, columns = _find_places(own.take(owner[start:stop]), items)
                scores_TM[_tensor(rows, scores_TM), _tensor(columns, scores_TM)] = -torch.inf
            best = scores_TM.topk(width, dim=1)
            is_there = torch.isfinite(best.values).cpu().numpy()
            found.append(np.where(is_there, places[best.indices.cpu().numpy()], ABSENT))
        return np.concatenate(found) if found else np.empty((0, width), np.int64)


def choose_targets(examples: Examples, max_targets: int, key: int) -> Ints:
    """At most ``max_targets`` of each user's targets, drawn: ascending places [T] among all."""
    owner = examples.row_user[examples.target_row]
    counts = np.bincount(owner, minlength=len(examples.users))
    first = np.cumsum(counts) - counts
    number = np.arange(len(owner)) - first[owner]
    order = np.lexsort((hash_ids(examples.users[owner] * _MOST_TARGETS + number, key), owner))
    return np.sort(order[np.arange(len(order)) - first[owner[order]] < max_targets])


def draw_share(items: Ints, share: float, key: int) -> Ints:
    """Ascending places of a drawn share of the items, at least one."""
    count = min(max(math.ceil(share * len(items)), 1), len(items))
    return np.sort(np.argsort(hash_ids(items, key), kind="stable")[:count])


def find_costs(scores_TC: Tensor, is_there: Tensor, loss: str) -> Tensor:
    """What each target costs [T]; its score is the first of its row.

    softmax: -log of its share among those that are there. bce: softplus(-s_0) + mean over negatives of softplus(s).
    """
    if loss == "softmax":
        return torch.logsumexp(scores_TC.masked_fill(~is_there, -torch.inf), 1) - scores_TC[:, 0]
    negatives, is_negative = scores_TC[:, 1:], is_there[:, 1:].to(scores_TC.dtype)
    means_T = (F.softplus(negatives) * is_negative).sum(1) / is_negative.sum(1).clamp(min=1)
    return F.softplus(-scores_TC[:, 0]) + means_T


def _targets_by_user(examples: Examples) -> Ragged:
    """All targets of each user; they come in the order of users."""
    owner = examples.row_user[examples.target_row]
    return Ragged.from_lengths(np.bincount(owner, minlength=len(examples.users)), examples.target_item)


def _find_places(known: Ragged, items: Ints) -> tuple[Ints, Ints]:
    """(rows, columns) where a row knows one of ``items``, which ascend."""
    columns = np.minimum(np.searchsorted(items, known.values), len(items) - 1)
    is_there = items[columns] == known.values
    return known.row_of_value[is_there], columns[is_there]


def _padded_places(start: Ints, length: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """(places, whether something is there) [T, L] of the histories that begin at ``start``."""
    distance = np.arange(max(int(length.max(initial=0)), 1))
    is_there = distance < length[:, None]
    return np.where(is_there, start[:, None] + distance, 0), is_there


def _tensor(array: NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
