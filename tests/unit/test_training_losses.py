"""Gradients written out by hand against autograd on the plain formula, pair by pair."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recspark.training.losses import MaskedNegatives, negative_gradients, positive_gradients, sum_by_row


def pairs_of(sentence: list[int], windows: list[int]) -> list[tuple[int, int]]:
    """(input token, centre) of every pair, by brute force."""
    size = range(len(sentence))
    return [(j, c) for c in size for j in size if j != c and sentence[j] == sentence[c] and abs(j - c) <= windows[c]]


def random_stream(num_tokens: int, window: int, seed: int) -> tuple[list[int], list[int]]:
    random = np.random.default_rng(seed)
    sentence = np.cumsum(random.random(num_tokens) < 0.2).tolist()
    return sentence, random.integers(1, window + 1, num_tokens).tolist()


@pytest.mark.parametrize("num_tokens", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("window", [1, 5, 40])
def test_positive_gradients_are_those_of_autograd(num_tokens: int, window: int) -> None:
    sentence, windows = random_stream(num_tokens, window, seed=num_tokens)
    torch.manual_seed(num_tokens)
    x, y = (torch.randn(num_tokens, 7, requires_grad=True) for _ in range(2))
    pairs = pairs_of(sentence, windows)
    expected = sum((-F.logsigmoid(x[j] @ y[c]) for j, c in pairs), torch.zeros(()))
    if pairs:
        expected.backward()
    loss, dx, dy = positive_gradients(
        x.detach(),
        y.detach(),
        torch.tensor(sentence, dtype=torch.int32),
        torch.tensor(windows, dtype=torch.int32),
        window,
    )
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    for found, grad in ((dx, x.grad), (dy, y.grad)):
        torch.testing.assert_close(found, torch.zeros_like(found) if grad is None else grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_negative_gradients_are_those_of_autograd(chunk_rows: int) -> None:
    torch.manual_seed(1)
    x, z = torch.randn(10, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    pairs, weight = torch.randint(4, 9, (10,)).float(), torch.rand(4)
    # The cell (2, 1) is masked twice, (5, 0) wholly.
    masked = MaskedNegatives(torch.tensor([2, 2, 2, 5]), torch.tensor([1, 1, 3, 0]), torch.tensor([1.0, 2, 3, 0]))
    masked.pairs[3] = pairs[5]
    counted = pairs[:, None].repeat(1, 4)
    counted.index_put_((masked.row, masked.negative), -masked.pairs, accumulate=True)
    assert counted[5, 0] == 0
    expected = -(F.logsigmoid(-(x @ z.T)) * counted * weight).sum()
    expected.backward()
    loss, dx, dz = negative_gradients(x.detach(), z.detach(), pairs, weight, masked, chunk_rows)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(dx, _grad(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dz, _grad(z), rtol=1e-5, atol=1e-5)


def test_sums_by_row_are_those_of_a_loop() -> None:
    values, order, starts = torch.randn(7, 3), torch.tensor([6, 0, 2, 1, 5, 3, 4]), torch.tensor([0, 1, 4])
    expected = torch.stack([values[rows].sum(0) for rows in ([6], [0, 2, 1], [5, 3, 4])])
    torch.testing.assert_close(sum_by_row(values, order, starts), expected)


def test_a_pair_of_unit_scores_costs_what_the_formula_says() -> None:
    one = torch.ones(2, 1)
    windows = torch.ones(2, dtype=torch.int32)
    loss, dx, _ = positive_gradients(one, one, torch.zeros(2, dtype=torch.int32), windows, 1)
    assert float(loss) == pytest.approx(2 * 0.3132617)  # -log sigmoid(1), twice
    assert dx.flatten().tolist() == pytest.approx([-0.2689414] * 2)  # -(1 - sigmoid(1))


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
