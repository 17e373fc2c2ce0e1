"""Learning rates worked by hand."""

import pytest

from recspark.config.schema import TrainingConfig
from recspark.errors import TrainingError
from recspark.training.schedule import plan_schedule


def rates(steps_per_epoch: int, **config: object) -> list[float]:
    schedule = plan_schedule(
        TrainingConfig.model_validate({"epochs": 2, "learning_rate": 0.5, **config}), steps_per_epoch
    )
    return [schedule.rate(step) for step in range(schedule.num_steps)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.5, 0.5 * (1 - 0.99 / 4), 0.5 * (1 - 0.99 / 2), 0.5 * (1 - 0.99 * 3 / 4)]),
        ("constant", [0.5, 0.5, 0.5, 0.5]),
        # (1 - cos(pi t)) / 2 at t = 0, 1/4, 1/2, 3/4
        ("cosine", [0.5, 0.5 * (1 - 0.99 * 0.1464466), 0.5 * (1 - 0.99 * 0.5), 0.5 * (1 - 0.99 * 0.8535534)]),
    ],
)
def test_rates_worked_by_hand(kind: str, expected: list[float]) -> None:
    assert rates(2, schedule=kind) == pytest.approx(expected, abs=1e-7)


def test_the_default_falls_linearly_to_a_hundredth() -> None:
    found = rates(5000)
    assert found[0] == 0.5
    assert found[-1] == pytest.approx(0.005, rel=0.02)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_warming_up_raises_the_rate_to_what_the_schedule_says(kind: str) -> None:
    plain, warmed = rates(5, schedule=kind), rates(5, schedule=kind, warmup_steps=4)
    assert warmed[:4] == pytest.approx([p * share for p, share in zip(plain, (0.25, 0.5, 0.75, 1), strict=False)])
    assert warmed[4:] == plain[4:]


def test_warming_up_for_the_whole_training_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"warmup_steps: 10, but the whole training has 10 steps \(2 epochs of 5\)"):
        rates(5, warmup_steps=10)
    assert len(rates(5, warmup_steps=9)) == 10
