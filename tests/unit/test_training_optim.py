"""Row-wise Adagrad and Adam by hand."""

import numpy as np
import pytest
import torch

from recspark.training.optim import RowwiseAdagrad, RowwiseAdam


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


def test_rowwise_adam_is_its_formula_on_touched_rows_and_lazy_on_others() -> None:
    """Three steps, two of them on row 1; in numpy, a number a row for the second moment."""
    weight, squares = torch.ones(3, 2), torch.zeros(3)
    moments, steps = torch.zeros(3, 2), torch.zeros(3)
    expected, m, s, t = np.ones((3, 2)), np.zeros((3, 2)), np.zeros(3), np.zeros(3)
    for rows, gradient in (([0, 1], [[1.0, 2], [3, 4]]), ([1], [[-1.0, 0.5]]), ([2, 0], [[0.1, 0.2], [5, 5]])):
        optimizer = RowwiseAdam(0.1, moments, steps, weight_decay=0.5)
        optimizer.update(weight, squares, torch.tensor(rows), torch.tensor(gradient))
        for row, values in zip(rows, np.array(gradient), strict=True):
            g = values + 0.5 * expected[row]
            t[row] += 1
            m[row], s[row] = 0.9 * m[row] + 0.1 * g, 0.99 * s[row] + 0.01 * np.square(g).mean()
            expected[row] -= 0.1 * (m[row] / (1 - 0.9 ** t[row])) / np.sqrt(s[row] / (1 - 0.99 ** t[row]))
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(moments.numpy(), m, rtol=1e-5)
