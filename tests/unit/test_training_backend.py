"""Which backend a run gets, and why."""

import pytest

from recspark.config.schema import TrainingConfig
from recspark.errors import TrainingError
from recspark.training import backend
from recspark.training.backend import choose_backend
from recspark.training.world import Launch, find_launch

TWO = Launch(1, 2, 1, 2)


@pytest.mark.parametrize(
    ("wanted", "launch", "num_gpus", "chosen"),
    [
        ("auto", Launch(), 0, ("cpu", "cpu", "no CUDA device, one process")),
        ("auto", Launch(), None, ("cpu", "cpu", "no CUDA device, one process")),
        ("auto", TWO, 0, ("torch", "cpu", "no CUDA device, 2 processes: gloo")),
        ("auto", Launch(), 2, ("torch", "cuda", "2 CUDA devices found")),
        ("torch", Launch(), 0, ("torch", "cpu", "training.backend asks for it")),
        ("torch", TWO, 2, ("torch", "cuda", "training.backend asks for it")),
        ("cpu", Launch(), 2, ("cpu", "cpu", "training.backend asks for it")),
    ],
)
def test_auto_says_what_it_picks(
    monkeypatch: pytest.MonkeyPatch, wanted: str, launch: Launch, num_gpus: int | None, chosen: tuple[str, str, str]
) -> None:
    monkeypatch.setattr(backend, "_count_gpus", lambda: num_gpus)
    assert choose_backend(TrainingConfig.model_validate({"backend": wanted}), launch) == chosen


def test_the_cpu_kernel_refuses_several_processes() -> None:
    with pytest.raises(TrainingError, match="one process, but torchrun started 2; set training"):
        choose_backend(TrainingConfig(backend="cpu"), TWO)


def test_torch_has_to_be_installed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_count_gpus", lambda: None)
    for config, launch in ((TrainingConfig(backend="torch"), Launch()), (TrainingConfig(), TWO)):
        with pytest.raises(TrainingError, match=r"torch is not installed; pip install 'recspark\[train\]'"):
            choose_backend(config, launch)


@pytest.mark.parametrize(
    ("recorded", "launch", "num_gpus", "device"),
    [("cpu", Launch(), 2, "cpu"), ("torch", Launch(), 0, "cpu"), ("torch", TWO, 2, "cuda")],
)
def test_auto_keeps_the_backend_of_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, recorded: str, launch: Launch, num_gpus: int, device: str
) -> None:
    monkeypatch.setattr(backend, "_count_gpus", lambda: num_gpus)
    assert choose_backend(TrainingConfig(), launch, recorded)[:2] == (recorded, device)


def test_a_checkpoint_whose_backend_cannot_run_here_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_count_gpus", lambda: None)
    with pytest.raises(TrainingError, match=r"made by backend cpu, which .* started 2, .* training.backend=torch"):
        choose_backend(TrainingConfig(), TWO, "cpu")
    with pytest.raises(
        TrainingError, match=r"made by backend torch, but torch is not installed .*training.backend=cpu"
    ):
        choose_backend(TrainingConfig(), Launch(), "torch")


def test_the_launch_is_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert find_launch() == Launch(0, 1, 0, 1)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert find_launch() == Launch(3, 4, 1, 2)
