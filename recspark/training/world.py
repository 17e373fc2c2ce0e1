"""The processes that train together: who this one is, where it computes, how it talks to the others.

Started plainly, a process is alone: no process group, no collectives. Under torchrun the group is gloo on CPUs; with a
GPU a rank, NCCL carries GPU tensors and gloo what lies on the CPU. Torch is imported only where it is needed.
"""

import datetime as dt
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import RankLost, SetupError, first_line
from recspark.training.host_exchange import HostExchange, open_host_exchange
from recspark.training.stopping import dying

if TYPE_CHECKING:
    from torch import Tensor

_GROUPS = itertools.count()
"""Numbers the groups that this process opens, as the other ranks number theirs."""
_ENDING_SECONDS = 2.0
"""A process that is killed loses its connections some time before it counts as ended."""


@dataclass(frozen=True)
class Launch:
    """What torchrun told this process; rank 0 of 1 where it was started plainly."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def find_launch() -> Launch:
    """Reads torchrun's environment variables."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    defaults = ("0", "1", "0", "1")
    return Launch(*(int(os.environ.get(name, default)) for name, default in zip(names, defaults, strict=True)))


@dataclass(frozen=True)
class World:
    """This process among its ``world_size`` ranks; ``device`` is cpu or cuda:N, ``transport`` none, gloo or nccl.

    Every rank notes in ``store`` which step it has reached, so that an error can name the one that is missing: gloo
    and NCCL only say that time is up or that a connection broke. ``host`` carries CPU rows where all ranks are on one
    host.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    transport: str = "none"
    store: Any = None
    timeout_seconds: float = 0
    host: HostExchange | None = None

    def arrive(self, step: int) -> None:
        """Notes that this rank is about to exchange data for a step."""
        if self.world_size > 1:
            self.store.set(f"step/{self.rank}", str(step))

    def exchange(self, rows: "Tensor", send_counts: Sequence[int], receive_counts: Sequence[int]) -> "Tensor":
        """Sends ``rows``, cut by ``send_counts``, to ranks 0, 1, ...; what they sent, in rank order."""
        import torch.distributed as dist

        if self.host and not rows.is_cuda:
            with self.naming_the_missing():
                return self.host.exchange(rows, send_counts, receive_counts)
        # gloo moves CPU tensors only: two ranks on one GPU go through the host.
        carried = rows if self.transport == "nccl" or not rows.is_cuda else rows.cpu()
        received = carried.new_empty((sum(receive_counts), *carried.shape[1:]))
        with self.naming_the_missing():
            dist.all_to_all_single(received, carried.contiguous(), list(receive_counts), list(send_counts))
        return received.to(rows.device)

    def gather_numbers(self, values: Sequence[float]) -> list[list[float]]:
        """The same numbers of every rank, in rank order, in float64: [world_size][len(values)]. Collective."""
        if self.world_size == 1:
            return [list(values)]
        import torch
        import torch.distributed as dist

        own = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        with self.naming_the_missing():
            dist.all_gather(found, own)
        return [numbers.tolist() for numbers in found]

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The sums of numbers over all ranks, in float64. Collective."""
        return [sum(numbers) for numbers in zip(*self.gather_numbers(values), strict=True)]

    def sum_arrays(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum of an array of one shape over all ranks; may be made in place. Collective."""
        if self.world_size == 1:
            return array
        import torch
        import torch.distributed as dist

        total = torch.from_numpy(array)
        with self.naming_the_missing():
            dist.all_reduce(total)
        return total.numpy()

    def gather_objects(self, value: Any) -> list[Any]:
        """A small object of every rank, in rank order. Collective."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world_size
        with self.naming_the_missing():
            dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Waits for all ranks. Collective."""
        self.gather_numbers([0.0])

    @contextmanager
    def naming_the_missing(self) -> Iterator[None]:
        """Turns a broken or overdue exchange into an error that says which ranks did not come.

        Raises: RankLost.
        """
        since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1:
                raise
            # Others may have begun to wait a little earlier, and ended ours by giving up.
            is_overdue = time.monotonic() - since >= 0.9 * self.timeout_seconds
            raise self._lost(is_overdue, first_line(error)) from error

    def _lost(self, is_overdue: bool, said: str) -> RankLost:
        """What is told where the others do not come; ``said`` by the transport."""
        ended = self.host.find_ended(0 if is_overdue else _ENDING_SECONDS) if self.host else []
        if ended:
            have = "have" if len(ended) > 1 else "has"
            what = f"rank {', '.join(map(str, ended))} of {self.world_size} {have} ended"
        elif is_overdue:
            limit = f"training.timeout_seconds {self.timeout_seconds:.0f}"
            what = f"rank {self.rank} of {self.world_size} waited for the others in vain ({limit})"
        else:
            what = f"rank {self.rank} of {self.world_size} has lost its connection to the others"
        return RankLost(
            f"{what}: {self._describe_missing()}. Look at that rank's log (was it killed for want of memory?), "
            f"then run the same command again: training goes on from the last checkpoint. With training.max_restarts "
            f"`recspark run` does so by itself. The transport said: {said}",
            first_left=min(set(range(self.world_size)) - set(ended)),
        )

    def _describe_missing(self) -> str:
        """Which ranks have not reached the step this one is at, as far as the store can still tell."""
        try:
            keys = [f"step/{rank}" for rank in range(self.world_size)]
            steps = [int(self.store.get(key)) if self.store.check([key]) else -1 for key in keys]
        except RuntimeError:
            return "the rank that started the group is gone"
        behind = [f"rank {rank} is at step {step}" for rank, step in enumerate(steps) if step < steps[self.rank]]
        here = f"this one is at step {steps[self.rank]}"
        return f"{', '.join(behind)}, {here}" if behind else f"all have reached this one's step {steps[self.rank]}"


@contextmanager
def open_world(launch: Launch, device: str, timeout_seconds: float) -> Iterator[World]:
    """The world of a launch, its process group closed at the end; ``device`` is cpu or cuda.

    Raises: SetupError when the other ranks can't be reached.
    """
    if device == "cuda":
        device = _use_gpu(launch)
    if launch.world_size == 1:
        yield World(device=device)
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # NCCL refuses two ranks on one GPU.
    has_own_gpu = device != "cpu" and torch.cuda.device_count() >= launch.local_world_size
    transport = "nccl" if has_own_gpu else "gloo"
    timeout = dt.timedelta(seconds=timeout_seconds)
    try:
        with dying():
            joined, _, _ = next(rendezvous("env://", timeout=timeout))
            # The store outlives a group: torchrun keeps it over restarts, torch over a second group of the same
            # processes. Without a prefix of its own the new group would look for the old ranks there.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = PrefixStore(f"attempt-{attempt}-{next(_GROUPS)}", joined)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if has_own_gpu else "cpu:gloo",
                store=store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timeout,
            )
    except (RuntimeError, ValueError) as error:
        raise SetupError(
            f"rank {launch.rank} of {launch.world_size} could not join the others within {timeout_seconds:.0f} s "
            f"({error}); start all ranks with torchrun, and check that they reach MASTER_ADDR"
        ) from error
    world = World(launch.rank, launch.world_size, device, transport, store, timeout_seconds)
    try:
        with _on_one_host(world, launch) as faster:
            yield faster
    finally:
        dist.destroy_process_group()


@contextmanager
def _on_one_host(world: World, launch: Launch) -> Iterator[World]:
    """The world with an exchange through shared memory, where all its ranks compute on this host's CPUs. Collective."""
    is_here = world.device == "cpu" and launch.local_world_size == launch.world_size
    host = open_host_exchange(world.rank, world.gather_objects, world.timeout_seconds) if is_here else None
    try:
        yield replace(world, host=host)
    finally:
        if host:
            host.close()


def _use_gpu(launch: Launch) -> str:
    """Binds this process to its GPU. Sums are made in a fixed order, so that a resumed run repeats to the bit."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    index = launch.local_rank % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return f"cuda:{index}"
