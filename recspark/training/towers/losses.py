"""Losses of user vectors against candidate vectors, a chunk of score rows at a time, with their gradients.

    queries [R, D], candidates [C, D], which columns are a row's targets  ->  loss (a sum over targets)

A row of scores serves all targets of a user. Rows are scored in chunks and turned into their own gradients in place, so
memory is linear in the rows, never R x C, and the result is that of the plain formula.

Shapes: R = rows, C = candidates, H = hard negatives a row, P = targets, D = embedding_dim; r, p = those of a chunk.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

ABSENT = -1
"""In a row's hard negatives: none."""


def _no_cells() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Targets:
    """Columns that are right for a row, columns that do not count for it, and columns that are there with certainty.

    ``row``, ``column`` int64 [P], ``weight`` float32 [P]; ``masked_row``, ``masked_column`` int64 [M]: cells left out,
    such as a target that stands among the candidates a second time; ``certain_row``, ``certain_column`` int64 [E]:
    cells of what came into the candidates together with the row, its user's targets, which count once whatever the
    column's correction. All sorted by row.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    weight: NDArray[np.float32]
    masked_row: NDArray[np.int64] = field(default_factory=_no_cells)
    masked_column: NDArray[np.int64] = field(default_factory=_no_cells)
    certain_row: NDArray[np.int64] = field(default_factory=_no_cells)
    certain_column: NDArray[np.int64] = field(default_factory=_no_cells)


@dataclass(frozen=True)
class ScoreRows:
    """The targets of a chunk of rows, on its device; ``row`` counts from the chunk's first. Fields as of `Targets`."""

    row: Tensor
    column: Tensor
    weight: Tensor
    masked_row: Tensor
    masked_column: Tensor
    certain_row: Tensor
    certain_column: Tensor

    @property
    def certain_cells(self) -> tuple[Tensor, Tensor]:
        """Where scores stand that no correction is for."""
        return self.certain_row, self.certain_column

    @property
    def cells(self) -> tuple[Tensor, Tensor]:
        """Where the targets' scores stand."""
        return self.row, self.column


ScoreLoss = Callable[[Tensor, ScoreRows, Tensor | None], Tensor]
"""(scores [r, C + H] of a chunk, its targets, log weight of each column [C + H], None for 0) -> loss; scores become
gradients."""


def softmax_scores(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
    """sum over targets of w (log sum_j exp(s_j + correction_j) - s_target).

    A row's own targets, and the other ones of its user, stand in the sum as themselves, uncorrected: they are in it
    with certainty. With correction log(count_j / Q(j)) of a sample, the sum is then an unbiased estimate of that over
    the catalogue.

    Source: Bengio & Senecal 2008, eq. 5; Yi et al. 2019, eq. 4; targets uncorrected as in Khrylchenko et al. 2025.
    """
    target_p = scores[rows.cells]
    if correction is not None:
        certain = scores[rows.certain_cells]
        scores += correction
        scores[rows.certain_cells] = certain
        scores[rows.cells] = target_p
    scores[rows.masked_row, rows.masked_column] = -torch.inf
    peak_r = scores.amax(1, keepdim=True)
    total_r = scores.sub_(peak_r).exp_().sum(1)
    weight_r = torch.zeros_like(total_r).index_add_(0, rows.row, rows.weight.to(total_r))
    loss = torch.dot(weight_r, total_r.log() + peak_r[:, 0]) - torch.dot(rows.weight.to(target_p), target_p)
    scores.mul_((weight_r / total_r)[:, None])
    scores.index_put_(rows.cells, -rows.weight.to(target_p), accumulate=True)
    return loss


def build_bce(negative_weight: float) -> ScoreLoss:
    """w (softplus(-s_target) + negative_weight x mean over negatives of softplus(s)), each on its own (logistic)."""

    def bce_scores(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
        target_p, share = scores[rows.cells], _share_negatives(scores, rows, correction)
        share.mul_(negative_weight)
        loss = torch.dot(rows.weight, F.softplus(-target_p)) + (F.softplus(scores) * share).sum()
        scores.sigmoid_().mul_(share)
        scores.index_put_(rows.cells, -rows.weight * torch.sigmoid(-target_p), accumulate=True)
        return loss

    return bce_scores


def build_ccl(margin: float, negative_weight: float) -> ScoreLoss:
    """w (1 - s_target + negative_weight x mean over negatives of max(0, s - margin)). Source: Mao et al. 2021."""

    def ccl_scores(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
        target_p, share = scores[rows.cells], _share_negatives(scores, rows, correction)
        share.mul_(negative_weight)
        loss = torch.dot(rows.weight, 1 - target_p) + (F.relu(scores - margin) * share).sum()
        scores.copy_((scores > margin).to(scores) * share)
        scores.index_put_(rows.cells, -rows.weight, accumulate=True)
        return loss

    return ccl_scores


def bpr_scores(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
    """w x mean over negatives of softplus(s - s_target). Source: Rendle et al. 2009."""
    return _pair_scores(scores, rows, correction, F.softplus, torch.sigmoid)


def build_triplet(margin: float) -> ScoreLoss:
    """w x mean over negatives of max(0, margin + s - s_target). Source: Schroff et al. 2015, with all negatives."""

    def triplet_scores(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
        def cost(ahead: Tensor) -> Tensor:
            return F.relu(ahead + margin)

        return _pair_scores(scores, rows, correction, cost, lambda ahead: (ahead + margin > 0).to(ahead))

    return triplet_scores


def build_loss(name: str, margin: float, negative_weight: float) -> ScoreLoss:
    """The loss of a name in section `model.towers`."""
    if name == "bce":
        return build_bce(negative_weight)
    if name == "ccl":
        return build_ccl(margin, negative_weight)
    if name == "triplet":
        return build_triplet(margin)
    return {"softmax": softmax_scores, "bpr": bpr_scores}[name]


def untrained_cost(name: str, num_candidates: int, margin: float, negative_weight: float) -> float:
    """What a target costs while all similarities are 0."""
    costs = {
        "softmax": math.log(max(num_candidates, 2)),
        "bce": math.log(2) * (1 + negative_weight),
        "bpr": math.log(2),
        "triplet": max(margin, 1e-6),
        "ccl": 1.0,
    }
    return costs[name]


def retrieval_loss(
    loss: ScoreLoss,
    queries_RD: Tensor,
    candidates_CD: Tensor,
    targets: Targets,
    correction_C: Tensor | None = None,
    hard_RH: Tensor | None = None,
    num_shared: int | None = None,
    chunk_rows: int = 256,
    precision: torch.dtype = torch.float32,
    hard_correction_H: Tensor | None = None,
) -> Tensor:
    """The loss of all targets, summed; differentiable in queries and candidates, once.

    ``correction_C`` is the log of what a shared candidate counts, 0 for all by default. ``hard_RH`` int64 has rows of
    ``candidates_CD`` that are negatives of one row each (`ABSENT`: none), ``hard_correction_H`` the log of what those
    of a column count, once by default; only the first ``num_shared`` candidates are everyone's. ``precision`` is that
    of the matrix products.
    """
    shared = len(candidates_CD) if num_shared is None else num_shared
    correction = None if correction_C is None else correction_C.to(queries_RD)
    own = None if hard_correction_H is None else hard_correction_H.to(queries_RD)
    settings = _Settings(loss, targets, correction, hard_RH, own, shared, chunk_rows, precision)
    out: Tensor = _RetrievalLoss.apply(queries_RD, candidates_CD, settings)
    return out


@dataclass(frozen=True)
class _Settings:
    loss: ScoreLoss
    targets: Targets
    correction: Tensor | None
    hard_RH: Tensor | None
    hard_correction: Tensor | None
    num_shared: int
    chunk_rows: int
    precision: torch.dtype


class _RetrievalLoss(torch.autograd.Function):
    """Finds the gradients together with the loss, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, queries_RD: Tensor, candidates_CD: Tensor, settings: _Settings) -> Tensor:
        query_gradient, candidate_gradient = torch.empty_like(queries_RD), torch.zeros_like(candidates_CD)
        shared_CD = candidates_CD[: settings.num_shared]
        if settings.precision != torch.float32:
            shared_CD = shared_CD.to(settings.precision)
        shared_DC, slope_DC = shared_CD.t().contiguous(), torch.zeros_like(candidates_CD[: settings.num_shared].t())
        buffer = shared_CD.new_empty(min(settings.chunk_rows, len(queries_RD)), settings.num_shared)
        total = torch.zeros((), dtype=torch.float64, device=queries_RD.device)
        for own, rows in _cut_rows(settings, queries_RD):
            x_rD = queries_RD[own]
            scores = torch.mm(x_rD.to(shared_DC.dtype), shared_DC, out=buffer[: len(x_rD)]).to(x_rD)
            hard_rH = None if settings.hard_RH is None else settings.hard_RH[own]
            scores, correction = _add_hard(scores, x_rD, candidates_CD, hard_rH, settings)
            total += settings.loss(scores, rows, correction).double()
            slope = scores[:, : settings.num_shared].to(shared_CD.dtype)
            query_gradient[own] = (slope @ shared_CD).to(x_rD)
            # Transposed, the same product takes two thirds of the time on a CPU.
            slope_DC += (x_rD.t().to(slope.dtype) @ slope).to(x_rD)
            if hard_rH is not None:
                hard_slope = scores[:, settings.num_shared :]
                _add_hard_gradients(hard_slope, hard_rH, x_rD, candidates_CD, query_gradient[own], candidate_gradient)
        candidate_gradient[: settings.num_shared] += slope_DC.t()
        ctx.save_for_backward(query_gradient, candidate_gradient)
        return total.to(queries_RD)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        query_gradient, candidate_gradient = ctx.saved_tensors
        return query_gradient * slope, candidate_gradient * slope, None


def _cut_rows(settings: _Settings, queries_RD: Tensor) -> Iterator[tuple[slice, ScoreRows]]:
    """Chunks of rows with their targets."""
    targets, num_rows = settings.targets, len(queries_RD)
    starts = [*range(0, num_rows, settings.chunk_rows), num_rows]
    borders = [np.searchsorted(rows, starts) for rows in (targets.row, targets.masked_row, targets.certain_row)]
    for place, (start, stop) in enumerate(itertools.pairwise(starts)):
        parts = [slice(*border[place : place + 2]) for border in borders]
        yield slice(start, stop), _take_rows(targets, parts, start, queries_RD)


def _take_rows(targets: Targets, parts: list[slice], first_row: int, like: Tensor) -> ScoreRows:
    """The targets of a chunk's rows; ``parts`` has its targets, masked and certain cells."""

    def move(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(like.device, non_blocking=True)

    own, masked, certain = parts
    return ScoreRows(
        move(targets.row[own] - first_row),
        move(targets.column[own]),
        move(targets.weight[own]).to(like.dtype),
        move(targets.masked_row[masked] - first_row),
        move(targets.masked_column[masked]),
        move(targets.certain_row[certain] - first_row),
        move(targets.certain_column[certain]),
    )


def _add_hard(
    scores: Tensor, x_rD: Tensor, candidates_CD: Tensor, hard_rH: Tensor | None, settings: _Settings
) -> tuple[Tensor, Tensor | None]:
    """Scores and log weights with the columns of each row's hard negatives; those that are absent score -inf."""
    if hard_rH is None:
        return scores, settings.correction
    correction, own = settings.correction, settings.hard_correction
    if correction is None:
        correction = scores.new_zeros(scores.shape[1])
    if own is None:
        own = scores.new_zeros(hard_rH.shape[1])
    found = torch.einsum("rd,rhd->rh", x_rD, candidates_CD[hard_rH.clamp_min(0)])
    found = found.masked_fill(hard_rH == ABSENT, -torch.inf)
    return torch.cat([scores, found], 1), torch.cat([correction, own])


def _add_hard_gradients(
    slope_rH: Tensor, hard_rH: Tensor, x_rD: Tensor, candidates_CD: Tensor, query_gradient: Tensor, gradient_CD: Tensor
) -> None:
    slope_rH = slope_rH.masked_fill(hard_rH == ABSENT, 0)
    place = hard_rH.clamp_min(0)
    query_gradient += torch.einsum("rh,rhd->rd", slope_rH, candidates_CD[place])
    gradient_CD.index_add_(0, place.flatten(), (slope_rH[..., None] * x_rD[:, None]).flatten(0, 1))


def _share_negatives(scores: Tensor, rows: ScoreRows, correction: Tensor | None) -> Tensor:
    """What each cell weighs as a negative [r, C + H]: by its column's weight, a row's together as all its targets.

    Scores of cells that are none (own targets, masked, absent) become 0.
    """
    share = torch.ones_like(scores)
    if correction is not None:
        share = correction.exp().expand_as(scores).clone()
        share[rows.certain_cells] = 1
    share[rows.cells] = 0
    share[rows.masked_row, rows.masked_column] = 0
    is_absent = scores == -torch.inf
    share.masked_fill_(is_absent, 0)
    scores.masked_fill_(is_absent, 0)
    weight_r = scores.new_zeros(len(scores)).index_add_(0, rows.row, rows.weight)
    return share.mul_((weight_r / share.sum(1).clamp_min(1e-12))[:, None])


def _pair_scores(
    scores: Tensor,
    rows: ScoreRows,
    correction: Tensor | None,
    cost: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    block: int = 256,
) -> Tensor:
    """Costs of how far a negative is ahead of a target, over all pairs of a row; a block of targets at a time."""
    target_p, share = scores[rows.cells], _share_negatives(scores, rows, correction)
    weight_r = scores.new_zeros(len(scores)).index_add_(0, rows.row, rows.weight).clamp_min(1e-12)
    gradient, loss = torch.zeros_like(scores), scores.new_zeros(())
    for start in range(0, len(target_p), block):
        part = slice(start, start + block)
        row, column = rows.row[part], rows.column[part]
        pair_share = share[row] * (rows.weight[part] / weight_r[row])[:, None]
        ahead = scores[row] - target_p[part, None]
        loss = loss + (cost(ahead) * pair_share).sum()
        pull = slope(ahead) * pair_share
        gradient.index_add_(0, row, pull)
        gradient.index_put_((row, column), -pull.sum(1), accumulate=True)
    scores.copy_(gradient)
    return loss
