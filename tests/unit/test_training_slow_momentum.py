"""SlowMo by hand, and on one rank against its formula; several ranks are under tests/distributed."""

import numpy as np
import pytest
import torch
from torch import nn

from recspark.training.slow_momentum import SlowMomentum
from recspark.training.world import World


def walk(num_steps: int, momentum: float, learning_rate: float, rates: list[float]) -> tuple[float, SlowMomentum]:
    """Plain SGD from 1 under gradients 1, 2, 3 ...; an outer step after every second one."""
    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SlowMomentum(torch.optim.SGD([x], rates[0]), 2, momentum, learning_rate, World())
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = rates[step]
        x.grad = torch.full_like(x, step + 1)
        optimizer.step()
    return x.item(), optimizer


def test_two_periods_by_hand() -> None:
    # Steps of .1: 1 -> .9 -> .7; u = (1 - .7) / .1 = 3, x = 1 - .5 x .1 x 3 = .85.
    assert walk(2, 0.6, 0.5, [0.1] * 2)[0] == pytest.approx(0.85)
    # .85 -> .55 -> .15; u = .6 x 3 + (.85 - .15) / .1 = 8.8, x = .85 - .5 x .1 x 8.8 = .41.
    assert walk(4, 0.6, 0.5, [0.1] * 4)[0] == pytest.approx(0.41)


def test_momentum_0_and_rate_1_change_nothing_on_one_rank() -> None:
    assert walk(4, 0.0, 1.0, [0.1] * 4)[0] == pytest.approx(1 - 0.1 * 10)


def test_the_momentum_is_in_units_of_the_rate_of_its_time() -> None:
    # .1: 1 -> .7, u = 3, x = .7 at rate 1. Then .05: .7 -> .55 -> .35; u = .5 x 3 + .35 / .05 = 8.5, x = .7 - .425.
    assert walk(4, 0.5, 1.0, [0.1, 0.1, 0.05, 0.05])[0] == pytest.approx(0.275)


def test_a_stop_within_a_period_changes_nothing() -> None:
    whole, _ = walk(6, 0.6, 0.5, [0.1] * 6)
    first, stopped = walk(3, 0.6, 0.5, [0.1] * 6)
    x = nn.Parameter(torch.tensor([first], dtype=torch.float64))
    resumed = SlowMomentum(torch.optim.SGD([x], 0.1), 2, 0.6, 0.5, World())
    resumed.load_state_dict(stopped.state_dict())
    for step in range(3, 6):
        x.grad = torch.full_like(x, step + 1)
        resumed.step()
        resumed.zero_grad()
    assert x.item() == whole


def test_it_reaches_the_least_squares_solution() -> None:
    random = np.random.default_rng(0)
    a, wanted = torch.from_numpy(random.normal(size=(50, 4))), torch.from_numpy(random.normal(size=4))
    x = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = SlowMomentum(torch.optim.SGD([x], 0.05), 4, 0.5, 1.0, World())
    for _ in range(400):
        optimizer.zero_grad()
        (a @ (x - wanted)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(x.detach(), wanted, rtol=0, atol=1e-6)
