"""Row-wise Adagrad by hand."""

import pytest
import torch

from recspark.training.optim import RowwiseAdagrad


def test_two_steps_by_hand() -> None:
    weight, squares = torch.zeros(3, 2), torch.zeros(3)
    optimizer, rows = RowwiseAdagrad(0.5), torch.tensor([2])
    optimizer.update(weight, squares, rows, torch.tensor([[3.0, 4.0]]))
    assert squares.tolist() == pytest.approx([0, 0, 12.5])  # (9 + 16) / 2
    assert weight[2].tolist() == pytest.approx([-0.5 * 3 / 12.5**0.5, -0.5 * 4 / 12.5**0.5])
    before = weight[2].clone()
    optimizer.update(weight, squares, rows, torch.tensor([[1.0, 1.0]]))
    assert squares[2] == pytest.approx(13.5)
    assert (weight[2] - before).tolist() == pytest.approx([-0.5 / 13.5**0.5] * 2)
    assert weight[:2].abs().sum() == 0


def test_a_zero_gradient_changes_nothing_even_on_a_fresh_row() -> None:
    weight, squares = torch.ones(1, 2), torch.zeros(1)
    RowwiseAdagrad(0.5).update(weight, squares, torch.tensor([0]), torch.zeros(1, 2))
    assert weight.tolist() == [[1, 1]]
    assert squares.tolist() == [0]
