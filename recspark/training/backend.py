"""What the trainer asks of a backend, and which one a run gets."""

import importlib.util
from typing import Any, Protocol, runtime_checkable

from recspark.config.schema import TrainingConfig
from recspark.errors import TrainingError
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.tables import SkipGramTables
from recspark.training.towers.result import TowerResult
from recspark.training.warm_start import StartRows
from recspark.training.world import Launch

CPU, TORCH = "cpu", "torch"


class Backend(Protocol):
    """A model in training on this rank. Calls marked collective are made by all ranks in the same order."""

    name: str

    def prepare(self, batch: Sequences, place: Place) -> Any:
        """What `step` needs of this rank's part of a global batch; called ahead of it in another thread."""

    def untrained_loss(self, batch: Sequences, place: Place) -> tuple[float, int]:
        """(loss sum, pairs) that `take_loss` would tell of a batch if all scores were 0, as at a cold start."""

    def step(self, prepared: Any, learning_rate: float) -> None:
        """Learns from a global batch. Collective."""

    def take_loss(self) -> tuple[float, int]:
        """(loss sum, pairs) of this rank since the last call."""

    def is_finite(self) -> bool:
        """Whether this rank's state is free of NaN and infinity."""

    def save(self, folder: str) -> None:
        """Writes the state into a local folder that exists. Collective."""

    def load(self, folder: str) -> None:
        """Reads what `save` wrote, on any number of ranks. Collective."""

    def part(self, items: range) -> SkipGramTables:
        """The model's rows of these items, whoever holds them; every rank may ask for others. Collective."""


@runtime_checkable
class StartsWarm(Protocol):
    """A backend whose model can go on from an earlier one."""

    def start_from(self, start: StartRows) -> None:
        """Puts an earlier model's rows in the place of the initial ones."""


@runtime_checkable
class TowerTraining(Protocol):
    """A backend whose model makes vectors of users by a tower."""

    def result(self) -> TowerResult:
        """All that is exported, the same on every rank. Collective."""


def choose_backend(config: TrainingConfig, launch: Launch, recorded: str | None = None) -> tuple[str, str, str]:
    """(backend, device, reason) of a run: ``training.backend``, or by what is there when it is ``auto``.

    ``recorded`` is the backend of a checkpoint to go on from: ``auto`` keeps it, as they compute differently.

    Raises: TrainingError when the wanted backend can't run here.
    """
    if config.backend == "auto" and recorded:
        return _keep_backend(recorded, launch)
    if config.backend == CPU:
        if launch.world_size > 1:
            raise TrainingError(
                f"training.backend cpu trains in one process, but torchrun started {launch.world_size}; "
                f"set training.backend to torch, or start one process"
            )
        return CPU, "cpu", "training.backend asks for it"
    num_gpus = _count_gpus()
    if num_gpus is None and (config.backend == TORCH or launch.world_size > 1):
        raise TrainingError("training.backend torch: torch is not installed; pip install 'recspark[train]'")
    if config.backend == TORCH:
        return TORCH, "cuda" if num_gpus else "cpu", "training.backend asks for it"
    if num_gpus:
        return TORCH, "cuda", f"{num_gpus} CUDA device{'s' if num_gpus > 1 else ''} found"
    if launch.world_size > 1:
        return TORCH, "cpu", f"no CUDA device, {launch.world_size} processes: gloo"
    return CPU, "cpu", "no CUDA device, one process"


def _keep_backend(recorded: str, launch: Launch) -> tuple[str, str, str]:
    """`choose_backend` for a checkpoint's backend."""
    made = f"training.backend auto: the checkpoint was made by backend {recorded}"
    if recorded == CPU and launch.world_size > 1:
        raise TrainingError(
            f"{made}, which trains in one process, but torchrun started {launch.world_size}, which only torch can use; "
            f"start one process, or set training.backend=torch to train another model from the start"
        )
    num_gpus = _count_gpus()
    if recorded == TORCH and num_gpus is None:
        raise TrainingError(
            f"{made}, but torch is not installed here, which leaves only cpu; pip install 'recspark[train]', or set "
            f"training.backend=cpu to train another model from the start"
        )
    return recorded, "cuda" if recorded == TORCH and num_gpus else "cpu", "the checkpoint was made by it"


def _count_gpus() -> int | None:
    """Usable CUDA devices, None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
