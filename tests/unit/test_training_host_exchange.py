"""Ranks as threads: what each gets through shared memory is what the others cut out for it."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recspark.training import host_exchange
from recspark.training.host_exchange import HostExchange, Inbox, Outbox, Peers, open_host_exchange

ROUNDS = 60


class Threads:
    """Collectives of ``world_size`` threads."""

    def __init__(self, world_size):
        self.world_size, self.barrier = world_size, threading.Barrier(world_size, timeout=20)
        self.said = [None] * world_size

    def gather(self, rank, value):
        self.said[rank] = value
        self.barrier.wait()
        found = list(self.said)
        self.barrier.wait()
        return found

    def run(self, function):
        with ThreadPoolExecutor(self.world_size) as pool:
            return list(pool.map(function, range(self.world_size)))


def drawn_counts(world_size, turn):
    """counts[i, j]: rows from rank i to rank j; small, none, and now and then many."""
    random = np.random.default_rng(turn)
    counts = random.integers(0, 5, (world_size, world_size))
    return counts * (500 if turn % 7 == 3 else turn % 5 != 4)


def rows_of(sender, receiver, count, turn, dtype):
    values = np.arange(count * 3).reshape(count, 3) + 1000 * sender + 100 * receiver + turn
    return torch.from_numpy(values).to(dtype)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_each_rank_gets_what_the_others_cut_out_for_it(world_size):
    threads = Threads(world_size)

    def run(rank):
        found = open_host_exchange(rank, lambda v: threads.gather(rank, v), 20)
        assert found is not None
        for turn in range(ROUNDS):
            counts, dtype = drawn_counts(world_size, turn), (torch.float32, torch.int64)[turn % 2]
            sent = torch.cat([rows_of(rank, r, counts[rank, r], turn, dtype) for r in range(world_size)])
            got = found.exchange(sent, counts[rank].tolist(), counts[:, rank].tolist())
            wanted = torch.cat([rows_of(r, rank, counts[r, rank], turn, dtype) for r in range(world_size)])
            assert torch.equal(got, wanted)
            sent.zero_()  # what was handed over is no longer the sender's
            assert torch.equal(got, wanted)
        found.close()
        return True

    assert threads.run(run) == [True] * world_size


def test_without_a_way_to_the_others_memory_there_is_no_exchange(monkeypatch):
    threads = Threads(2)

    def refuse(path, world_size):
        raise PermissionError(path)

    monkeypatch.setattr(host_exchange, "Inbox", refuse)
    assert threads.run(lambda rank: open_host_exchange(rank, lambda v: threads.gather(rank, v), 20)) == [None, None]


def test_an_outbox_gives_memory_back_that_it_no_longer_needs(monkeypatch):
    monkeypatch.setattr(host_exchange, "_SPARE_BYTES", 1000)
    outbox = Outbox(2)
    for sent, kept in ((10_000, 10_024), (5_000, 10_024), (2_000, 2_024), (2_100, 2_530), (10, 34)):
        outbox.write([np.zeros(7, np.uint8), np.ones(sent, np.uint8)], own_rank=0, number=1)
        assert os.fstat(outbox.fd).st_size == kept
    os.close(outbox.fd)


def test_a_rank_that_does_not_come_is_named():
    threads = Threads(2)
    rows = torch.zeros(2, 3)

    def run(rank):
        found = open_host_exchange(rank, lambda v: threads.gather(rank, v), 0.05)
        if rank == 1:
            return None
        with pytest.raises(RuntimeError, match="nothing came from rank 1 for 0 s"):
            found.exchange(rows, [1, 1], [1, 1])
        return True

    assert threads.run(run) == [True, None]


def test_ended_ranks_are_found_and_waited_for_a_little():
    child = subprocess.Popen(["sleep", "0.2"])
    peers = Peers({0: os.getpid(), 1: child.pid})
    assert peers.find_ended(0) == []
    assert peers.find_ended(20) == [1]
    peers.close()
    child.wait()


def test_a_rank_whose_process_has_ended_is_named():
    ended = subprocess.Popen(["true"])
    peers = Peers({1: ended.pid})
    ended.wait()
    exchange = HostExchange(0, [Outbox(2), Outbox(2)], {1: [Inbox(f"/proc/self/fd/{Outbox(2).fd}", 2)] * 2}, peers, 20)
    with pytest.raises(RuntimeError, match="the process of rank 1 has ended"):
        exchange.exchange(torch.zeros(2, 3), [1, 1], [1, 1])
