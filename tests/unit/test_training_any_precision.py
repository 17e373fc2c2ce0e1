"""AdamW in bfloat16: equal to torch's in float32, to its formula in bfloat16, and with Kahan summation not stuck."""

import pytest
import torch
from torch import Tensor, nn

from recspark.training.any_precision import AnyPrecisionAdamW


def gradients(num_steps: int, size: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for _ in range(num_steps)]


def train(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: list[Tensor]) -> Tensor:
    for gradient in steps:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def start(dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 20).to(dtype))


def test_in_float32_it_is_adamw() -> None:
    ours, theirs = start(), start()
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    train(AnyPrecisionAdamW([ours], state_dtype=torch.float32, **settings), ours, gradients(50))
    train(torch.optim.AdamW([theirs], **settings), theirs, gradients(50))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def by_formula(steps: list[Tensor], lr: float, b1: float, b2: float, decay: float) -> tuple[list[float], list[float]]:
    """(parameters, compensations) after the steps, one number at a time, rounded where the docstring says."""

    def low(value: float) -> float:
        return float(torch.tensor(value, dtype=torch.float64).float().bfloat16())

    found = []
    for i, first in enumerate(start(torch.bfloat16).tolist()):
        w, m, v, c = first, 0.0, 0.0, 0.0
        for t, gradient in enumerate(steps, 1):
            g = low(float(gradient[i]))
            m_new, v_new = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            m, v = low(m_new), low(v_new)
            d = -lr * (m_new / (1 - b1**t)) / ((v_new / (1 - b2**t)) ** 0.5 + 1e-8) - lr * decay * w
            s = d + c
            rounded = low(w + s)
            w, c = rounded, low(s - (rounded - w))
        found.append((w, c))
    return [w for w, _ in found], [c for _, c in found]


def test_in_bfloat16_it_is_its_formula() -> None:
    parameter, steps = start(torch.bfloat16), gradients(30)
    optimizer = AnyPrecisionAdamW([parameter], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    found = train(optimizer, parameter, steps).double()
    compensation = optimizer.state[parameter]["compensation"].double()
    weights, compensations = (torch.tensor(x, dtype=torch.float64) for x in by_formula(steps, 0.01, 0.9, 0.99, 0.1))
    # Float32 arithmetic may round to the other neighbour; weight and compensation together do not jump.
    torch.testing.assert_close(found + compensation, weights + compensations, rtol=1e-3, atol=1e-4)
    assert (found == weights).float().mean() > 0.9


def test_small_steps_add_up_only_with_the_compensation() -> None:
    steps = [torch.ones(20)] * 400  # each moves a weight of 1 by .0005, an eighth of what bfloat16 can hold
    exact, low = nn.Parameter(torch.ones(20)), nn.Parameter(torch.ones(20, dtype=torch.bfloat16))
    plain = nn.Parameter(torch.ones(20, dtype=torch.bfloat16))
    train(torch.optim.AdamW([exact], lr=5e-4, weight_decay=0), exact, steps)
    train(AnyPrecisionAdamW([low], lr=5e-4), low, steps)
    train(torch.optim.AdamW([plain], lr=5e-4, weight_decay=0), plain, steps)
    assert exact[0].item() == pytest.approx(0.8, abs=1e-3)
    assert low[0].item() == pytest.approx(0.8, abs=0.01)  # moments of bfloat16 stop a little before the gradient
    assert plain[0].item() == 1


def test_the_state_is_as_small_as_it_says() -> None:
    for dtype, num_bytes in ((torch.float32, 4), (torch.bfloat16, 6)):
        parameter = start(dtype)
        optimizer = AnyPrecisionAdamW([parameter])
        train(optimizer, parameter, gradients(1))
        state = [t for name, t in optimizer.state[parameter].items() if name != "step"]
        assert sum(t.nbytes for t in state) == num_bytes * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resume_repeats_to_the_bit(dtype: torch.dtype) -> None:
    steps = gradients(20)
    whole, stopped = start(dtype), start(dtype)
    train(AnyPrecisionAdamW([whole], lr=0.01), whole, steps)
    optimizer = AnyPrecisionAdamW([stopped], lr=0.01)
    train(optimizer, stopped, steps[:9])
    resumed = AnyPrecisionAdamW([stopped], lr=0.01)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.state[stopped]["exp_avg"].dtype == torch.bfloat16
    train(resumed, stopped, steps[9:])
    torch.testing.assert_close(stopped, whole, rtol=0, atol=0)


def test_a_beta_that_bfloat16_cannot_follow_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"betas\[1\] 0.999 leaves torch.bfloat16 moments where they are; at most 0.996"
    ):
        AnyPrecisionAdamW([start()], betas=(0.9, 0.999))


def test_parameters_without_a_gradient_stay() -> None:
    parameter = start()
    AnyPrecisionAdamW([parameter], weight_decay=1.0).step()
    torch.testing.assert_close(parameter, start(), rtol=0, atol=0)
