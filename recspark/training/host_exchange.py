"""All-to-all of CPU rows between ranks of one host, through memory that they share.

gloo carries them over the loopback device and wakes a thread for each: a millisecond, before anything is copied. Here
a rank writes what it sends into an outbox, numbers it, and reads its part of the others' once they bear that number:

    outbox of rank 0:  [number] [end of the part for rank 0, for rank 1, ...] [part for rank 1] [part for rank 2] ...

A rank has two outboxes, used in turn: when it writes one again, the others have numbered their next, so have read it.
They are anonymous files (memfd): no limit of /dev/shm counts, and nothing stays behind when a process is killed.
"""

import mmap
import os
import platform
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_SPARE_BYTES = 64 << 20
"""An outbox gives memory back only above this, and when it holds four times what is sent."""
_GROWTH = 1.25
_EAGER_LOOKS = 2000
"""A rank that is waited for is mostly there within some microseconds; after so many looks we look less often."""
_PAUSE_SECONDS = 0.0005


class HostExchange:
    """Outboxes of this rank, and views of the others'; made by `open_host_exchange`."""

    def __init__(
        self, rank: int, own: "list[Outbox]", others: "dict[int, list[Inbox]]", watched: "Peers", timeout_seconds: float
    ) -> None:
        self._rank, self._own, self._others, self._peers = rank, own, others, watched
        self._timeout_seconds, self._number = timeout_seconds, 0

    def exchange(self, rows: "Tensor", send_counts: Sequence[int], receive_counts: Sequence[int]) -> "Tensor":
        """Sends ``rows``, cut by ``send_counts``, to ranks 0, 1, ...; what they sent, in rank order. Collective.

        Raises: RuntimeError when another rank has ended, or does not come in time.
        """
        parts = list(rows.contiguous().split_with_sizes(list(send_counts)))
        self._number += 1
        turn = self._number % 2
        self._own[turn].write([as_bytes(part) for part in parts], self._rank, self._number)
        received = rows.new_empty((sum(receive_counts), *rows.shape[1:]))
        for rank, part in enumerate(received.split_with_sizes(list(receive_counts))):
            if rank == self._rank:
                part.copy_(parts[rank])
            else:
                self._wait_for(rank, self._others[rank][turn])
                self._others[rank][turn].read_into(as_bytes(part), self._rank)
        return received

    def find_ended(self, patience_seconds: float) -> list[int]:
        """The other ranks whose processes are over; waits so long for a first one."""
        return self._peers.find_ended(patience_seconds)

    def close(self) -> None:
        """Lets go of the files; the memory goes with the last view of it."""
        for fd in [box.fd for box in self._own] + [box.fd for boxes in self._others.values() for box in boxes]:
            os.close(fd)
        self._peers.close()

    def _wait_for(self, rank: int, inbox: "Inbox") -> None:
        for _ in range(_EAGER_LOOKS):
            if inbox.number >= self._number:
                return
            time.sleep(0)  # lets this process's other threads run
        deadline = time.monotonic() + self._timeout_seconds
        while inbox.number < self._number:
            if self._peers.has_ended(rank) and inbox.number < self._number:
                raise RuntimeError(f"the process of rank {rank} has ended")
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing came from rank {rank} for {self._timeout_seconds:.0f} s")
            time.sleep(_PAUSE_SECONDS)


class Outbox:
    """What one rank sends at one time: a number and ``world_size`` ends in bytes, then the parts."""

    def __init__(self, world_size: int) -> None:
        self.fd = os.memfd_create("recspark-outbox")
        self._header_bytes, self._size = _header_bytes(world_size), 0
        self._resize(self._header_bytes)

    def write(self, parts: list[NDArray[np.uint8]], own_rank: int, number: int) -> None:
        """Puts the parts for all ranks (uint8) behind each other, that for ``own_rank`` left out; last the number."""
        lengths = [0 if rank == own_rank else len(part) for rank, part in enumerate(parts)]
        ends = np.cumsum([self._header_bytes, *lengths])
        self._fit(int(ends[-1]))
        for start, length, part in zip(ends[:-1], lengths, parts, strict=True):
            if length:
                self._bytes[start : start + length] = part
        header = self._bytes[: self._header_bytes].view(np.int64)
        header[1:] = ends[1:]
        header[0] = number

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
        self.fd = os.open(path, os.O_RDWR)
        self._header_bytes = _header_bytes(world_size)
        self._map(self._header_bytes)

    @property
    def number(self) -> int:
        """The number of what is there."""
        return int(self._header[0])

    def read_into(self, part: NDArray[np.uint8], own_rank: int) -> None:
        """Fills ``part`` (uint8) with what the other rank wrote for this one."""
        if not len(part):
            return
        end = int(self._header[1 + own_rank])
        if end > len(self._bytes):
            self._map(os.fstat(self.fd).st_size)
        part[:] = self._bytes[end - len(part) : end]

    def _map(self, size: int) -> None:
        self._bytes = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)
        self._header = self._bytes[: self._header_bytes].view(np.int64)


class Peers:
    """Watches whether the other ranks' processes still run."""

    def __init__(self, pids: dict[int, int]) -> None:
        self._fds = {rank: os.pidfd_open(pid) for rank, pid in pids.items()}

    def has_ended(self, rank: int) -> bool:
        """Whether the process of a rank is over, waited for by its parent or not."""
        return bool(select.select([self._fds[rank]], [], [], 0)[0])

    def find_ended(self, patience_seconds: float) -> list[int]:
        """The ranks whose processes are over; waits so long for a first one."""
        over = select.select(list(self._fds.values()), [], [], patience_seconds)[0]
        return [rank for rank, fd in self._fds.items() if fd in over]

    def close(self) -> None:
        """Ends the watch."""
        for fd in self._fds.values():
            os.close(fd)


def open_host_exchange(
    rank: int, gather_objects: Callable[[Any], list[Any]], timeout_seconds: float
) -> HostExchange | None:
    """The exchange of ranks that all run on this host; None where one of them cannot see another. Collective.

    ``gather_objects`` gives an object of every rank, in rank order.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return None  # elsewhere a processor may show the number before the rows
    world_size = len(gather_objects(None))
    own = [Outbox(world_size) for _ in range(2)]
    places = gather_objects((os.getpid(), [f"/proc/{os.getpid()}/fd/{outbox.fd}" for outbox in own]))
    others, peers = {}, None
    try:
        peers = Peers({r: pid for r, (pid, _) in enumerate(places) if r != rank})
        others = {r: [Inbox(path, world_size) for path in paths] for r, (_, paths) in enumerate(places) if r != rank}
    except OSError:  # processes of another namespace or user
        peers = None
    is_open = all(gather_objects(peers is not None))
    return HostExchange(rank, own, others, peers, timeout_seconds) if is_open and peers else None


def as_bytes(rows: "Tensor") -> NDArray[np.uint8]:
    """The memory of contiguous CPU rows."""
    return rows.numpy().reshape(-1).view(np.uint8)


def _header_bytes(world_size: int) -> int:
    return 8 * (1 + world_size)
