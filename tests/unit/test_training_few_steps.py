"""Which trainings are told to be short, worked by hand, and that a trainer says so once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recspark.config.schema import TrainingConfig
from recspark.training.backend import CPU, TORCH
from recspark.training.few_steps import find_smaller_batch, warn_of_few_steps
from recspark.training.schedule import Schedule
from recspark.training.world import World
from tests.unit.test_training_trainer import Steps, open_trainer


@pytest.mark.parametrize(
    ("num_steps", "batch", "num_lanes", "smaller"),
    [
        (5, 1024, 64, 64),  # 102.4 would do: one lane's worth
        (5, 1024, 4, 100),  # the multiple of 4 below 102.4
        (40, 1024, 64, 768),  # 819.2
        (2, 1024, 64, 64),  # a row a lane is the least there is
        (2, 64, 64, None),
    ],
)
def test_the_batch_that_makes_steps_enough(num_steps: int, batch: int, num_lanes: int, smaller: int | None) -> None:
    assert find_smaller_batch(num_steps, batch, num_lanes) == smaller


def warn(
    steps_per_epoch: int, backend: str = TORCH, rank: int = 0, batch_sequences: int = 1024, num_rows: int = 9999
) -> None:
    of_backend: Any = SimpleNamespace(name=backend)
    reader: Any = SimpleNamespace(num_lanes=64, num_rows=num_rows)
    config = TrainingConfig(batch_sequences=batch_sequences)
    warn_of_few_steps(of_backend, Schedule(5, steps_per_epoch, 0.5), reader, config, World(rank=rank, world_size=2))


def test_a_short_training_is_told_what_to_lower(capsys: pytest.CaptureFixture[str]) -> None:
    warn(1)
    (said,) = capsys.readouterr().err.splitlines()
    assert "warning: only 5 steps in all" in said
    assert "lower training.batch_sequences, now 1,024, to 64" in said
    warn(1, batch_sequences=4096, num_rows=2000)  # of 2,000 a tenth: 200
    assert "now 4,096, to 192" in capsys.readouterr().err
    warn(1, batch_sequences=64)
    assert "training.batch_sequences is as low as its 64 lanes allow; raise training.epochs" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"steps_per_epoch": 10}, {"backend": CPU}, {"rank": 1}])
def test_nothing_is_said_of_enough_steps_of_the_kernel_and_by_other_ranks(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    warn(**{"steps_per_epoch": 1, **given})
    assert capsys.readouterr().err == ""


def test_a_trainer_says_it_once_and_not_again_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Steps()
    backend.name = TORCH
    open_trainer(tmp_path, backend, batch_sequences=4).train()
    assert capsys.readouterr().err.count("only 12 steps in all") == 1
    open_trainer(tmp_path, backend, batch_sequences=4).train()
    assert "only 12 steps" not in capsys.readouterr().err
