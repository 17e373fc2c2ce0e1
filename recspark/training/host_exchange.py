"""All-to-all of CPU rows between ranks of one host, through memory that they share.

gloo carries them over the loopback device, which costs several times what copying them costs. Here every rank writes
what it sends into an outbox, all meet, and each reads its part of the others' outboxes:

    outbox of rank 0:  [end of the part for rank 0, for rank 1, ...] [part for rank 1] [part for rank 2] ...

A rank has two outboxes, used in turn: when it writes one again, all have met after reading it, for the other's sake.
They are anonymous files (memfd): no limit of /dev/shm counts, and nothing stays behind when a process is killed.
"""

import mmap
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_SPARE_BYTES = 64 << 20
"""An outbox gives memory back only above this, and when it holds four times what is sent."""
_GROWTH = 1.25


class HostExchange:
    """Outboxes of this rank, and views of the others'; made by `open_host_exchange`."""

    def __init__(
        self, rank: int, own: "list[Outbox]", others: "dict[int, list[Inbox]]", meet: Callable[[], Any]
    ) -> None:
        self._rank, self._own, self._others, self._meet = rank, own, others, meet
        self._turn = 0

    def exchange(self, rows: "Tensor", send_counts: Sequence[int], receive_counts: Sequence[int]) -> "Tensor":
        """Sends ``rows``, cut by ``send_counts``, to ranks 0, 1, ...; what they sent, in rank order. Collective."""
        parts = list(rows.contiguous().split_with_sizes(list(send_counts)))
        turn, self._turn = self._turn, 1 - self._turn
        self._own[turn].write([as_bytes(part) for part in parts], self._rank)
        self._meet()
        received = rows.new_empty((sum(receive_counts), *rows.shape[1:]))
        for rank, part in enumerate(received.split_with_sizes(list(receive_counts))):
            if rank == self._rank:
                part.copy_(parts[rank])
            else:
                self._others[rank][turn].read_into(as_bytes(part), self._rank)
        return received

    def close(self) -> None:
        """Lets go of the files; the memory goes with the last view of it."""
        for fd in [box.fd for box in self._own] + [box.fd for boxes in self._others.values() for box in boxes]:
            os.close(fd)


class Outbox:
    """What one rank sends at one time: a header of ``world_size`` ends in bytes, then the parts."""

    def __init__(self, world_size: int) -> None:
        self.fd = os.memfd_create("recspark-outbox")
        self._num_ends, self._size = world_size, 0
        self._resize(_header_bytes(world_size))

    def write(self, parts: list[NDArray[np.uint8]], own_rank: int) -> None:
        """Puts the parts for all ranks (uint8) behind each other; that for ``own_rank`` is left out."""
        lengths = [0 if rank == own_rank else len(part) for rank, part in enumerate(parts)]
        ends = np.cumsum([_header_bytes(self._num_ends), *lengths])
        self._fit(int(ends[-1]))
        self._bytes[: _header_bytes(self._num_ends)].view(np.int64)[:] = ends[1:]
        for start, length, part in zip(ends[:-1], lengths, parts, strict=True):
            if length:
                self._bytes[start : start + length] = part

    def _fit(self, needed: int) -> None:
        if needed > self._size:
            self._resize(max(needed, int(self._size * _GROWTH)))
        elif self._size > max(_SPARE_BYTES, 4 * needed):
            self._resize(needed)

    def _resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        self._size = size
        self._bytes = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)


class Inbox:
    """Another rank's outbox, as this process sees it.

    Raises: OSError when this process may not open it.
    """

    def __init__(self, path: str, world_size: int) -> None:
        self.fd, self._num_ends = os.open(path, os.O_RDWR), world_size
        self._map(_header_bytes(world_size))

    def read_into(self, part: NDArray[np.uint8], own_rank: int) -> None:
        """Fills ``part`` (uint8) with what the other rank wrote for this one."""
        if not len(part):
            return
        end = int(self._bytes[: _header_bytes(self._num_ends)].view(np.int64)[own_rank])
        if end > len(self._bytes):
            self._map(os.fstat(self.fd).st_size)
        part[:] = self._bytes[end - len(part) : end]

    def _map(self, size: int) -> None:
        self._bytes = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)


def open_host_exchange(
    rank: int, gather_objects: Callable[[Any], list[Any]], meet: Callable[[], Any]
) -> HostExchange | None:
    """The exchange of ranks that all run on this host; None where one of them cannot open another's memory. Collective.

    ``gather_objects`` gives an object of every rank, in rank order; ``meet`` returns when all ranks have called it, and
    raises when one does not come.
    """
    if not sys.platform.startswith("linux"):
        return None
    world_size = len(gather_objects(None))
    own = [Outbox(world_size) for _ in range(2)]
    paths = gather_objects([f"/proc/{os.getpid()}/fd/{outbox.fd}" for outbox in own])
    try:
        others = {r: [Inbox(path, world_size) for path in paths[r]] for r in range(world_size) if r != rank}
    except OSError:  # processes of another namespace or user
        others = {}
    is_open = all(gather_objects(len(others) == world_size - 1))
    return HostExchange(rank, own, others, meet) if is_open else None


def as_bytes(rows: "Tensor") -> NDArray[np.uint8]:
    """The memory of contiguous CPU rows."""
    return rows.numpy().reshape(-1).view(np.uint8)


def _header_bytes(world_size: int) -> int:
    return 8 * world_size
