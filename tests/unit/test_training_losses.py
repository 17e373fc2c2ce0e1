"""Gradients written out by hand against autograd on the plain formula, pair by pair."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recspark.training.batches import TokenWindows
from recspark.training.losses import (
    Masked,
    find_borders,
    negative_gradients,
    positive_gradients,
    sum_by_row,
    target_gradients,
)
from recspark.training.token_windows import Windows


def random_windows(num_tokens: int, width: int, seed: int, *, is_flat: bool = False) -> TokenWindows:
    """Sentences of about 5 tokens with windows up to ``width``; weights by distance and by centre."""
    random = np.random.default_rng(seed)
    sentence = np.cumsum(random.random(num_tokens) < 0.2).astype(np.int32)
    reach = random.integers(1, width + 1, num_tokens).astype(np.int32)
    decay = np.concatenate([[0], 0.8 ** np.arange(width)]).astype(np.float32)
    share = random.random(num_tokens).astype(np.float32) if seed % 3 else None
    flat = random.random(num_tokens) < 0.3 if is_flat else None
    return TokenWindows(sentence, reach, flat, share, np.empty(0, np.float32), decay, width)


def weights_of(windows: TokenWindows) -> Tensor:
    """[T, T] float64: what token j of centre c's window weighs, by brute force."""
    size = len(windows.sentence)
    weights = torch.zeros(size, size, dtype=torch.float64)
    for c in range(size):
        for j in range(size):
            distance = abs(j - c)
            if windows.sentence[j] == windows.sentence[c] and 0 < distance <= windows.reach[c]:
                share = 1 if windows.share is None else windows.share[c]
                is_flat = windows.is_flat is not None and windows.is_flat[c]
                weights[c, j] = 1 if is_flat else float(share * windows.decay[distance])
    return weights


def double_windows(found: TokenWindows) -> Windows:
    return Windows(found, torch.empty(0, dtype=torch.float64))


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check(found: tuple[Tensor, ...], expected: Tensor, *leaves: Tensor) -> None:
    """Loss and gradients against autograd's of ``expected``."""
    if expected.requires_grad:
        expected.backward()
    assert float(found[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-9, abs=1e-12)
    for gradient, leaf in zip(found[1:], leaves, strict=True):
        wanted = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


STREAMS = [
    (tokens, width, flat) for tokens in (1, 2, 31, 32, 33, 100) for width in (1, 5, 40) for flat in (False, True)
]


@pytest.mark.parametrize("chunk_tokens", [1, 64, 512])
@pytest.mark.parametrize(("num_tokens", "width", "is_flat"), STREAMS)
def test_positive_gradients_are_those_of_autograd(
    num_tokens: int, width: int, is_flat: bool, chunk_tokens: int
) -> None:
    found = random_windows(num_tokens, width, num_tokens, is_flat=is_flat)
    x, y = randn(num_tokens, 7), randn(num_tokens, 7)
    expected = -(F.logsigmoid(y @ x.T) * weights_of(found)).sum()
    windows, every = double_windows(found), torch.arange(num_tokens)
    streams = (windows.gather(rows.detach(), every) for rows in (x, y))
    check(positive_gradients(*streams, windows, chunk_tokens), expected, x, y)


@pytest.mark.parametrize(("num_tokens", "width", "is_flat"), STREAMS)
def test_means_and_their_spread_are_those_of_autograd(num_tokens: int, width: int, is_flat: bool) -> None:
    found = random_windows(num_tokens, width, num_tokens, is_flat=is_flat)
    weights, windows, x = weights_of(found), double_windows(found), randn(num_tokens, 7)
    mean = weights / weights.sum(1, keepdim=True).clamp_min(1e-30) @ x
    torch.testing.assert_close(windows.mean(windows.gather(x.detach(), torch.arange(num_tokens))), mean.detach())
    wanted = torch.randn_like(mean)
    (mean * wanted).sum().backward()
    torch.testing.assert_close(windows.spread(wanted), _grad(x))


@pytest.mark.parametrize("chunk_tokens", [1, 7, 512])
@pytest.mark.parametrize("by_window", [True, False])
def test_target_gradients_are_those_of_autograd(chunk_tokens: int, by_window: bool) -> None:
    torch.manual_seed(3)
    found = random_windows(50, 4, 1)
    hidden, rows = randn(50, 6), randn(9, 6)
    row, sign = torch.randint(0, 9, (50, 5)), torch.randint(-1, 2, (50, 5)).double()
    own = torch.rand(50, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for c, weights in enumerate(weights_of(found) if by_window else torch.diag(own)):
        for j in weights.nonzero().flatten():
            costs = -F.logsigmoid(sign[c] * (rows[row[c]] @ hidden[j])) * sign[c].abs()
            expected = expected + weights[j] * costs.sum()
    weight_TW = double_windows(found).weights_by_offset() if by_window else own[:, None]
    check(target_gradients(hidden.detach(), weight_TW, row, sign, rows.detach(), chunk_tokens), expected, hidden, rows)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_negative_gradients_are_those_of_autograd(chunk_rows: int) -> None:
    torch.manual_seed(1)
    x, z = torch.randn(10, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    pairs, weight = torch.randint(4, 9, (10,)).float(), torch.rand(4)
    # The cell (2, 1) is masked twice, (5, 0) wholly.
    masked = Masked(torch.tensor([2, 2, 2, 5]), torch.tensor([1, 1, 3, 0]), torch.tensor([1.0, 2, 3, 0]))
    masked.weight[3] = pairs[5]
    counted = pairs[:, None].repeat(1, 4)
    counted.index_put_((masked.hidden, masked.negative), -masked.weight, accumulate=True)
    assert counted[5, 0] == 0
    expected = -(F.logsigmoid(-(x @ z.T)) * counted * weight).sum()
    expected.backward()
    loss, dx, dz = negative_gradients(
        x.detach(), z.detach(), pairs, weight, masked, find_borders(masked.hidden.numpy(), 10, chunk_rows), chunk_rows
    )
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(dx, _grad(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dz, _grad(z), rtol=1e-5, atol=1e-5)


def test_sums_by_row_are_those_of_a_loop() -> None:
    values, order, starts = torch.randn(7, 3), torch.tensor([6, 0, 2, 1, 5, 3, 4]), torch.tensor([0, 1, 4])
    expected = torch.stack([values[rows].sum(0) for rows in ([6], [0, 2, 1], [5, 3, 4])])
    torch.testing.assert_close(sum_by_row(values, order, starts), expected)


def test_a_pair_of_unit_scores_costs_what_the_formula_says() -> None:
    one = torch.ones(2, 1)
    both, near, decay = np.zeros(2, np.int32), np.ones(2, np.int32), np.array([0, 1], np.float32)
    found = TokenWindows(both, near, None, None, np.ones(2, np.float32), decay, 1)
    windows = Windows(found, one)
    stream = windows.gather(one, torch.arange(2))
    loss, dx, _ = positive_gradients(stream, stream, windows)
    assert float(loss) == pytest.approx(2 * 0.3132617)  # -log sigmoid(1), twice
    assert dx.flatten().tolist() == pytest.approx([-0.2689414] * 2)  # -(1 - sigmoid(1))


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
