"""Losses against their plain formulas, their gradients, and the correction of samples against the whole catalogue."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recspark.training.towers.losses import ABSENT, Targets, build_loss, retrieval_loss, untrained_cost

NUM_ROWS, NUM_ITEMS, DIM = 7, 11, 4
MARGIN, NEGATIVE_WEIGHT = 0.3, 1.7
LOSSES = ("softmax", "bce", "bpr", "triplet", "ccl")
TARGETS = [(0, 3), (0, 5), (2, 1), (2, 1), (3, 0), (6, 10)]  # a row of two, none in rows 1, 4, 5, one twice


def vectors(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def targets(masked: list[tuple[int, int]] | None = None) -> Targets:
    row, column = (np.array(a) for a in zip(*TARGETS, strict=True))
    weight = np.linspace(0.5, 1.5, len(row)).astype(np.float32)
    out = np.array(masked or np.empty((0, 2)), np.int64).reshape(-1, 2)
    return Targets(row, column, weight, out[:, 0], out[:, 1])


def plain(
    name: str,
    scores: Tensor,
    correction: Tensor,
    found: Targets,
    hard: Tensor | None,
    hard_weight: Tensor | None = None,
) -> Tensor:
    """One target at a time, straight from the formulas; ``hard`` scores [R, H] count ``hard_weight`` [H] each."""
    total = torch.zeros((), dtype=torch.float64)
    own_of = {r: {c for row, c in TARGETS if row == r} for r in range(NUM_ROWS)}
    out_of = {r: set(found.masked_column[found.masked_row == r].tolist()) for r in range(NUM_ROWS)}
    for (r, c), w in zip(TARGETS, found.weight.tolist(), strict=True):
        negatives = [j for j in range(NUM_ITEMS) if j not in own_of[r] | out_of[r]]
        s, weights = scores[r, negatives], correction[negatives].exp()
        if hard is not None:
            own_weight = torch.ones(hard.shape[1], dtype=torch.float64) if hard_weight is None else hard_weight
            s, weights = torch.cat([s, hard[r]]), torch.cat([weights, own_weight])
            is_there = s > -torch.inf
            s, weights = s[is_there], weights[is_there]
        own, share = scores[r, c], weights / weights.sum()
        if name == "softmax":
            others = scores[r, sorted(own_of[r])].exp().sum() + (weights * s.exp()).sum()
            cost = others.log() - own
        elif name == "bce":
            cost = F.softplus(-own) + NEGATIVE_WEIGHT * (share * F.softplus(s)).sum()
        elif name == "bpr":
            cost = -(share * F.logsigmoid(own - s)).sum()
        elif name == "triplet":
            cost = (share * F.relu(MARGIN - own + s)).sum()
        else:
            cost = 1 - own + NEGATIVE_WEIGHT * (share * F.relu(s - MARGIN)).sum()
        total = total + w * cost
    return total


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_plain_formula(name: str, chunk_rows: int) -> None:
    q, v = vectors(NUM_ROWS, 0), vectors(NUM_ITEMS + 2, 1)
    correction = torch.linspace(-1, 1, NUM_ITEMS, dtype=torch.float64)
    hard = torch.tensor([[NUM_ITEMS, NUM_ITEMS + 1], [ABSENT, ABSENT], [ABSENT, 4]] + [[2, ABSENT]] * 4)
    found = targets(masked=[(0, 2), (3, 7)])
    loss = build_loss(name, MARGIN, NEGATIVE_WEIGHT)
    got = retrieval_loss(loss, q, v, found, correction, hard, NUM_ITEMS, chunk_rows)
    got_gradients = torch.autograd.grad(got * 3, (q, v))
    hard_scores = torch.einsum("rd,rhd->rh", q, v[hard.clamp_min(0)]).masked_fill(hard == ABSENT, -torch.inf)
    expected = plain(name, q @ v[:NUM_ITEMS].T, correction, found, hard_scores)
    torch.testing.assert_close(got, expected)
    for one, other in zip(got_gradients, torch.autograd.grad(expected * 3, (q, v)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("has_correction", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_rows_own_negatives_count_what_their_columns_say(name: str, has_correction: bool) -> None:
    q, v, found = vectors(NUM_ROWS, 6), vectors(NUM_ITEMS + 2, 7), targets()
    correction = torch.linspace(-1, 1, NUM_ITEMS, dtype=torch.float64) if has_correction else None
    weight = torch.tensor([0.25, 3.0], dtype=torch.float64)
    hard = torch.tensor([[NUM_ITEMS, NUM_ITEMS + 1], [ABSENT, ABSENT], [ABSENT, 4]] + [[2, ABSENT]] * 4)
    loss = build_loss(name, MARGIN, NEGATIVE_WEIGHT)
    got = retrieval_loss(loss, q, v, found, correction, hard, NUM_ITEMS, 3, hard_correction_H=weight.log())
    hard_scores = torch.einsum("rd,rhd->rh", q, v[hard.clamp_min(0)]).masked_fill(hard == ABSENT, -torch.inf)
    shared = torch.zeros(NUM_ITEMS, dtype=torch.float64) if correction is None else correction
    expected = plain(name, q @ v[:NUM_ITEMS].T, shared, found, hard_scores, weight)
    torch.testing.assert_close(got, expected)
    gradients, wanted = (torch.autograd.grad(one, (q, v)) for one in (got, expected))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    loss, found = build_loss(name, MARGIN, NEGATIVE_WEIGHT), targets()

    def cost(q: Tensor, v: Tensor) -> Tensor:
        return retrieval_loss(loss, q, v, found, chunk_rows=2)

    assert torch.autograd.gradcheck(cost, (vectors(NUM_ROWS, 2), vectors(NUM_ITEMS, 3)))


def test_softmax_in_chunks_is_torchs_cross_entropy_in_float32() -> None:
    rows, items = 300, 1000
    q, v = (torch.randn(n, 16, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (rows, items))
    column = np.random.default_rng(0).integers(0, items, rows)
    found = Targets(np.arange(rows), column, np.ones(rows, np.float32))
    got = torch.autograd.grad(retrieval_loss(build_loss("softmax", 0, 0), q, v, found, chunk_rows=64), (q, v))
    expected = torch.autograd.grad(F.cross_entropy(q @ v.T, torch.from_numpy(column), reduction="sum"), (q, v))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_large_scores_stay_finite() -> None:
    q = torch.full((1, DIM), 100.0, requires_grad=True)
    found = Targets(np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.float32))
    loss = retrieval_loss(build_loss("softmax", 0, 0), q, torch.eye(DIM) * 100, found)
    assert float(loss.detach()) == pytest.approx(np.log(DIM), rel=1e-3)  # of scores of 10,000


@pytest.mark.parametrize("name", LOSSES)
def test_the_untrained_cost_is_that_of_zero_vectors(name: str) -> None:
    q, v = torch.zeros(2, DIM), torch.zeros(NUM_ITEMS, DIM)
    found = Targets(np.arange(2), np.arange(2), np.ones(2, np.float32))
    loss = retrieval_loss(build_loss(name, MARGIN, NEGATIVE_WEIGHT), q, v, found)
    assert float(loss) / 2 == pytest.approx(untrained_cost(name, NUM_ITEMS, MARGIN, NEGATIVE_WEIGHT), rel=1e-5)


def test_bfloat16_products_are_near() -> None:
    q, v = vectors(NUM_ROWS, 4, torch.float32), vectors(NUM_ITEMS, 5, torch.float32)
    loss = build_loss("softmax", 0, 0)
    exact, rounded = (
        torch.autograd.grad(retrieval_loss(loss, q, v, targets(), precision=p), (q, v))
        for p in (torch.float32, torch.bfloat16)
    )
    for one, other in zip(exact, rounded, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
