"""`two_tower_step`: training steps of two towers over tables of ids against what torch offers out of the box.

1 M users x 50 k items, B users a step with a target each, in-batch softmax with logQ; once with an MLP behind either
table and once with the tables alone, as `mf` has them. Peers: nn.Embedding(sparse=True) with SparseAdam, and plain
nn.Embedding with Adam, whose gradient and moments are of the whole table. Then peak memory of the chunked softmax
against scores and gradients that are held whole.
"""

import itertools
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs, timed
from recspark.config.schema import TrainingConfig
from recspark.config.towers import HistoryConfig, MlpConfig, NegativesConfig, TowersConfig, UserTowerConfig
from recspark.models.mlp import Mlp
from recspark.models.tower_table import TowerRows, TowerTable
from recspark.models.towers import Towers, build_mlp
from recspark.training.init import init_rows
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.towers.backend import TowerBackend
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.examples import ALL, ExampleMaker
from recspark.training.towers.losses import Targets, build_loss, retrieval_loss
from recspark.training.towers.network import TwoTowerNetwork
from recspark.training.world import World

DIM, TEMPERATURE = 64, 0.1
_HIDDEN: tuple[tuple[int, ...], ...] = ((128,), ())
_SIZES = {True: (100_000, 20_000, 512, 5), False: (1_000_000, 50_000, 2048, 20)}
"""By whether it is the quick run: users, items, users a batch, steps."""
_DENSE_STEPS, _WARM_UP_STEPS, _MEMORY_ROWS = 2, 1, 8192
_MIB = 1024.0


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line a peer, and one for memory."""
    num_users, num_items, batch, steps = _SIZES[quick]
    versions = find_versions("torch", "numpy")
    data = StepData(num_users, num_items, batch, steps)
    peers = (("SparseAdam", True, steps), ("dense Adam", False, _DENSE_STEPS))
    for hidden, (name, is_sparse, count) in itertools.product(_HIDDEN, peers):
        mlp = MlpConfig(hidden=hidden, norm="none")
        project, peer = Project(data, mlp), Peer(data, mlp, is_sparse)
        for side in (project, peer):
            side.train(_WARM_UP_STEPS)
        paired = run_pairs(lambda p=peer, n=count: p.train(n), lambda p=project, n=count: p.train(n), 2 if quick else 3)  # type: ignore[misc]
        work = data.work | {"hidden": list(hidden), "steps": count}
        rates = {
            side: round(batch * count / paired.median_seconds(side)["wall"])  # type: ignore[arg-type]
            for side in ("project", "peer")
        }
        yield speed_line("two_tower_step", name, paired, work, versions, command, samples_per_second=rates)
    rows = _MEMORY_ROWS // 2 if quick else _MEMORY_ROWS
    chunked, whole = (measure_memory(rows, chunk_rows) for chunk_rows in (256, rows))
    ratio = whole / chunked
    yield {
        "bench": "two_tower_step", "peer": "scores held whole", "ratio": ratio, "ratio_min": ratio, "ratio_max": ratio,
        "runs": 1, "work": {"rows": rows, "candidates": rows, "dim": DIM, "chunk_rows": 256}, "versions": versions,
        "command": command, "peak_mb": {"project": round(chunked), "peer": round(whole)},
    }  # fmt: skip


class StepData:
    """The same users and targets for both sides; items by Zipf."""

    def __init__(self, num_users: int, num_items: int, batch: int, steps: int) -> None:
        random = np.random.default_rng(1)
        self.num_users, self.num_items, self.batch = num_users, num_items, batch
        shares = 1.0 / np.arange(1, num_items + 1)
        self.counts = np.maximum(1, shares / shares.sum() * 10 * num_users).astype(np.int64)
        cumulated = np.cumsum(self.counts) / self.counts.sum()
        self.users = [random.choice(num_users, batch, replace=False) for _ in range(steps)]
        self.items = [np.searchsorted(cumulated, random.random(batch)) for _ in range(steps)]

    @property
    def work(self) -> dict[str, Any]:
        """What one step does."""
        return {
            "num_users": self.num_users, "num_items": self.num_items, "batch": self.batch, "dim": DIM,
            "threads": torch.get_num_threads(),
        }  # fmt: skip


class Project:
    """`TowerBackend` with a vector a user and an item, and ``mlp`` behind both."""

    def __init__(self, data: StepData, mlp: MlpConfig) -> None:
        user = UserTowerConfig(id=True, history=HistoryConfig(pooling="none"), mlp=mlp)
        negatives = NegativesConfig(kind="sampled", uniform=0)
        towers = TowersConfig(user=user, negatives=negatives, temperature=TEMPERATURE)
        towers = towers.model_copy(update={"item": towers.item.model_copy(update={"mlp": mlp})})
        kept, rows = np.ones(data.num_items, np.bool_), TowerRows(data.num_items, data.num_users)
        network = TwoTowerNetwork(
            Towers(towers, DIM, [], [], True), rows, towers, kept, np.ones(data.num_users, np.bool_), seed=1
        )
        table = TowerTable(rows, DIM, World(), lambda ids: init_rows(ids, DIM, 1.4, 1))
        source, maker = CandidateSource(negatives, data.counts, kept, 1), ExampleMaker(towers, ALL, kept, 1)
        training = TrainingConfig(learning_rate=0.02)
        self._backend = TowerBackend(
            network, table, maker, source, None, training, World(), torch.get_num_threads(), {}
        )
        self._data = data

    def train(self, steps: int) -> Timing:
        """So many steps, with the integer work that a thread else does ahead."""
        with timed() as timing:
            for step in range(steps):
                items, offsets = self._data.items[step].astype(np.int32), np.arange(self._data.batch + 1)
                batch = Sequences(items, offsets, self._data.users[step].astype(np.int32))
                self._backend.step(self._backend.prepare(batch, Place(0, step, step, 0)), 0.02)
        return timing


class Peer:
    """Two embeddings, two MLPs, cross entropy over the batch."""

    def __init__(self, data: StepData, mlp: MlpConfig, is_sparse: bool) -> None:
        torch.manual_seed(1)
        sizes = (data.num_users, data.num_items)
        self._tables = [nn.Embedding(n, DIM, sparse=is_sparse) for n in sizes]
        for table in self._tables:
            nn.init.normal_(table.weight, std=0.1)
        self._towers: list[Mlp] = [build_mlp(mlp, DIM) for _ in sizes]
        weights = [table.weight for table in self._tables]
        of_tables: Any = torch.optim.SparseAdam(weights, lr=0.02) if is_sparse else torch.optim.Adam(weights, lr=0.02)
        dense = [p for tower in self._towers for p in tower.parameters()]
        self._optimizers = [of_tables, *([torch.optim.AdamW(dense, lr=0.003)] if dense else [])]
        self._log_q = torch.from_numpy(np.log(data.counts / data.counts.sum())).float()
        self._data = data

    def train(self, steps: int) -> Timing:
        """So many steps."""
        with timed() as timing:
            for step in range(steps):
                rows = [torch.from_numpy(values[step]) for values in (self._data.users, self._data.items)]
                loss = self._loss(*rows)
                for optimizer in self._optimizers:
                    optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                for optimizer in self._optimizers:
                    optimizer.step()
        return timing

    def _loss(self, users: Tensor, items: Tensor) -> Tensor:
        q, v = (
            F.normalize(tower(table(rows)), dim=1)
            for tower, table, rows in zip(self._towers, self._tables, (users, items), strict=True)
        )
        scores = q @ v.T / TEMPERATURE - self._log_q[items]
        is_same = (items[:, None] == items[None]) & ~torch.eye(len(items), dtype=torch.bool)
        return F.cross_entropy(scores.masked_fill(is_same, -torch.inf), torch.arange(len(users)))


def measure_memory(rows: int, chunk_rows: int) -> float:
    """MiB that loss and gradients of ``rows`` x ``rows`` scores add to a process's peak."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, rows, chunk_rows))
    process.start()
    found: float = ours.recv()
    process.join()
    return found


def _measure(pipe: Any, rows: int, chunk_rows: int) -> None:
    q, v = (torch.randn(rows, DIM, requires_grad=True) for _ in range(2))
    targets = Targets(np.arange(rows), np.arange(rows), np.ones(rows, np.float32))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: imports had one of their own
    before = _read_status("VmRSS")
    loss = retrieval_loss(build_loss("softmax", 0, 0), q, v, targets, chunk_rows=chunk_rows)
    loss.backward()  # type: ignore[no-untyped-call]
    pipe.send(max(_read_status("VmHWM") - before, 1.0))


def _read_status(name: str) -> float:
    """MiB of a line of Linux's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / _MIB
