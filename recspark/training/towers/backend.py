"""Tower models behind the trainer's `Backend`: any number of ranks, CPU (gloo) or CUDA (NCCL).

A global batch of users is compared with candidates that all ranks share; its loss is a mean over all its targets,
whoever holds them. Rows by id are updated at their owners, dense parameters by the sum of all ranks' gradients: 1, 2
and 4 ranks learn the same up to the order of sums, but for dropout, which each draws by itself.
"""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.config.schema import TrainingConfig
from recspark.contracts.shards import hash_ids
from recspark.memory import keep_freed_memory
from recspark.models.sharded_embedding import RowUpdate
from recspark.models.tower_table import TowerTable
from recspark.training.backend import TORCH
from recspark.training.dense_optim import DenseOptimizer
from recspark.training.losses import LossSum
from recspark.training.objective import Place
from recspark.training.optim import RowwiseAdagrad, RowwiseAdam
from recspark.training.sequence_files import Sequences
from recspark.training.sharded_state import load_rows, save_rows
from recspark.training.tables import SkipGramTables
from recspark.training.towers.candidate_queue import CandidateQueue
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.examples import ExampleMaker, Examples
from recspark.training.towers.explicit_negatives import ExplicitNegatives
from recspark.training.towers.hard_negatives import HardNegatives
from recspark.training.towers.losses import Targets, build_loss, retrieval_loss, untrained_cost
from recspark.training.towers.network import Compared, TowerNetwork, fold_interests
from recspark.training.towers.ranking import RankingLoss
from recspark.training.towers.result import TowerResult
from recspark.training.towers.step import RowNegatives, TowerStep, build_step
from recspark.training.world import World

_ITEMS_AT_ONCE = 1 << 16


class TowerBackend:
    """A `TowerNetwork` over a row-sharded table."""

    name = TORCH

    def __init__(
        self,
        network: TowerNetwork,
        table: TowerTable,
        maker: ExampleMaker,
        source: CandidateSource,
        hard: HardNegatives | None,
        training: TrainingConfig,
        world: World,
        num_threads: int,
        features: dict[str, list[dict[str, Any]]],
        explicit: ExplicitNegatives | None = None,
        ranking: RankingLoss | None = None,
    ) -> None:
        """``features`` says how features were encoded, for those who read the model; ``ranking`` is for a network with
        a ranking head.
        """
        torch.set_num_threads(num_threads)
        if world.device.startswith("cuda"):
            torch.set_float32_matmul_precision(training.matmul_precision)
        else:
            keep_freed_memory()
        self._network, self._table, self._maker, self._source = network, table, maker, source
        self._hard, self._explicit = hard, explicit
        self._training, self._towers, self._world, self._features = training, maker.config, world, features
        self._ranking = ranking
        self._score_loss = build_loss(self._towers.loss, self._towers.margin, self._towers.negative_weight)
        self._precision = getattr(torch, self._towers.score_precision)
        self._queue = CandidateQueue(self._towers.negatives, table.table.dim, world.device)
        network.modules.to(world.device)
        self._dense = DenseOptimizer(network.modules, training.dense, world)
        self._loss = LossSum(world.device)

    @property
    def _is_local(self) -> bool:
        """Whether a step can be made ahead: by this rank alone, and from what does not change meanwhile."""
        is_mined = self._hard is not None and self._hard.is_mined
        needs_others = not self._source.is_full or self._network.neighbours is not None
        return not is_mined and (not needs_others or self._world.world_size == 1)

    def prepare(self, batch: Sequences, place: Place) -> TowerStep | tuple[Examples, Place]:
        """The step's integer work; only the examples where the rest of it hangs on other ranks' examples or on the
        model.
        """
        examples = self._maker.make(batch, place)
        if not self._is_local:
            return examples, place
        return self._build(examples, place, examples.target_item, examples.users)

    def untrained_loss(self, batch: Sequences, place: Place) -> tuple[float, int]:
        """(loss sum, targets) of this rank's part of a batch if all similarities were 0."""
        examples = self._maker.make(batch, place)
        num_items = len(self._source.whole().items)
        cost = untrained_cost(self._towers.loss, num_items, self._towers.margin, self._towers.negative_weight)
        cost += self._ranking.untrained_cost if self._ranking else 0.0
        return cost * float(examples.target_weight.sum()), len(examples.target_item)

    def step(self, prepared: TowerStep | tuple[Examples, Place], learning_rate: float) -> None:
        """Looks up the batch's rows, finds all gradients, sends those of rows to their owners. Collective."""
        step = prepared if isinstance(prepared, TowerStep) else self._complete(*prepared)
        rows = self._network.rows_of(step)
        route = self._table.route(rows)
        vectors = self._table.lookup(route).requires_grad_()
        self._network.modules.train()
        torch.manual_seed(int(hash_ids(np.array([step.place.global_step]), self._world.rank)[0] >> np.uint64(1)))
        compared = self._network.compare(step, rows, vectors)
        loss, total = self._add_ranking(step, compared, self._find_loss(step, compared))
        (loss / max(total, 1e-12)).backward()  # type: ignore[no-untyped-call]
        gradient = torch.zeros_like(vectors) if vectors.grad is None else vectors.grad
        self._table.apply_gradient(route, gradient, self._choose_update(learning_rate))
        self._dense.step(learning_rate / self._training.learning_rate)
        self._queue.push(step, compared.items.detach())
        self._loss.add(loss, len(step.targets.row))

    def take_loss(self) -> tuple[float, int]:
        """(loss sum, targets) of this rank since the last call; waits for the device."""
        return self._loss.take()

    def is_finite(self) -> bool:
        """Whether this rank's optimizer state and dense parameters are free of NaN and infinity."""
        parts = [self._table.table.squares, *self._network.modules.parameters()]
        return all(bool(torch.isfinite(tensor.sum())) for tensor in parts)

    def save(self, folder: str) -> None:
        """Writes this rank's rows by torch's distributed checkpoint, the rest as a file of rank 0. Collective."""
        save_rows(self._table.state(), self._table.layout.num_rows, folder, self._world)
        if self._world.rank == 0 or self._dense.is_apart:
            torch.save(self._dense_state(), _dense_path(folder, self._world.rank))

    def load(self, folder: str) -> None:
        """Reads what `save` wrote, on any number of ranks. Collective."""
        load_rows(self._table.state(), self._table.layout.num_rows, folder, self._world)
        path = _dense_path(folder, self._world.rank)
        path = path if os.path.exists(path) else _dense_path(folder, 0)
        found = torch.load(path, map_location=self._world.device, weights_only=True)
        self._network.modules.load_state_dict(found["modules"])
        self._dense.load_state_dict(found["optimizer"])
        self._queue.load_state_dict(found["queue"])
        if self._hard:
            self._hard.load_state_dict(found["hard"])

    def part(self, items: range) -> SkipGramTables:
        """The vectors of these items: ``input`` what stands for them in a history, ``output`` the candidates.

        Collective; every rank computes those of all items.
        """
        return self.result().tables_of(items)

    def result(self) -> TowerResult:
        """All that is exported, the same on every rank. Collective."""
        self._network.modules.eval()
        with torch.no_grad():
            return replace(self._network.read_result(self._lookup_all), features=self._features)

    def _lookup_all(self, rows: range) -> Tensor:
        """The table's rows of a range. Collective."""
        found = []
        for start in range(rows.start, rows.stop, _ITEMS_AT_ONCE):
            own = np.arange(start, min(start + _ITEMS_AT_ONCE, rows.stop))
            found.append(self._table.lookup(self._table.route(own)))
        return torch.cat(found) if found else self._table.table.weight[:0]

    def _build(
        self, examples: Examples, place: Place, all_targets: NDArray[np.int64], all_users: NDArray[np.int64]
    ) -> TowerStep:
        source, neighbours = self._source, self._network.neighbours
        found = source.whole() if source.is_full else source.draw(all_targets, place.global_step)
        own: list[tuple[NDArray[np.int64] | None, float]] = []
        if self._hard is not None:
            own.append((self._hard.draw(examples, place), 1.0))
        if self._explicit is not None:
            own.append((self._explicit.draw(examples, place), self._explicit.config.weight))
        step = build_step(examples, found, place, RowNegatives.join(own))
        # A neighbour that an item has by one user alone would tell this very user's history by his target.
        return step if neighbours is None else replace(step, near=neighbours.near(step.items, all_users))

    def _complete(self, examples: Examples, place: Place) -> TowerStep:
        """The step once all ranks' targets and users are known. Collective."""
        if self._hard is not None and self._hard.is_due(place.global_step):
            found = self.result()
            vectors = self._network.similarity.candidates(torch.from_numpy(found.candidate).to(self._world.device))
            self._hard.mine(vectors, self._source.whole().items)
        parts = self._world.gather_objects((examples.target_item, examples.users))
        targets, users = (np.concatenate(found) for found in zip(*parts, strict=True))
        return self._build(examples, place, targets, users)

    def _find_loss(self, step: TowerStep, compared: Compared) -> Tensor:
        device = compared.items.device
        candidates, correction = _select(compared.items, step.candidates), step.found.correction
        queries, targets = self._spread_interests(step.targets, compared.queries, candidates)
        shared, hard, weight = len(candidates), None, None
        if self._queue.is_open(step.place.global_step):
            candidates, correction, targets = self._queue.extend(step, candidates, targets, self._source)
            shared = len(candidates)
        if step.hard is not None:
            assert step.hard_weight is not None
            own = np.where(step.hard >= 0, step.hard + shared, step.hard)
            hard = torch.from_numpy(own.repeat(len(queries) // len(own), axis=0)).to(device)
            weight = torch.from_numpy(np.log(step.hard_weight)).to(device)
            candidates = torch.cat([candidates, compared.items])
        return retrieval_loss(
            self._score_loss, queries, candidates, targets,
            None if correction is None else torch.from_numpy(correction).to(device),
            hard, shared, self._towers.chunk_rows, self._precision, weight,
        )  # fmt: skip

    def _add_ranking(self, step: TowerStep, compared: Compared, loss: Tensor) -> tuple[Tensor, float]:
        """(loss with the ranking head's mean for each target, weight of the targets of all ranks). Collective."""
        weight = float(step.targets.weight.sum())
        if self._ranking is None:
            return loss, self._world.sum_over_ranks([weight])[0]
        ranked, ranked_weight = self._ranking.measure(step, compared)
        total, ranked_total = self._world.sum_over_ranks([weight, ranked_weight])
        return loss + ranked * (total / max(ranked_total, 1e-12)), total

    def _spread_interests(self, targets: Targets, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Targets]:
        """Queries as rows of one vector each: of several a user, a target is scored by the nearest."""
        if queries.dim() == 2:
            return queries, targets
        row, column = (torch.from_numpy(a).to(queries.device) for a in (targets.row, targets.column))
        flat, folded = fold_interests(queries, row, candidates.detach()[column])
        place, count = folded.cpu().numpy(), queries.shape[1]
        order = np.argsort(place, kind="stable")
        all_rows = (targets.certain_row[:, None] * count + np.arange(count)).ravel()
        by_row = np.argsort(all_rows, kind="stable")
        return flat, Targets(
            place[order], targets.column[order], targets.weight[order],
            certain_row=all_rows[by_row], certain_column=targets.certain_column.repeat(count)[by_row],
        )  # fmt: skip

    def _choose_update(self, learning_rate: float) -> RowUpdate:
        config, table = self._training.tables, self._table
        if config.optimizer == "adagrad":
            return RowwiseAdagrad(learning_rate).update
        return RowwiseAdam(
            learning_rate, table.moments, table.steps, config.weight_decay, b2=config.second_moment
        ).update

    def _dense_state(self) -> dict[str, Any]:
        modules = self._network.modules.state_dict()
        hard = self._hard.state_dict() if self._hard else {}
        return {
            "modules": modules, "optimizer": self._dense.state_dict(), "queue": self._queue.state_dict(), "hard": hard,
        }  # fmt: skip


def _select(items: Tensor, places: NDArray[np.int64]) -> Tensor:
    """Rows of the step's items; the very tensor where that is all of them."""
    return items if len(places) == len(items) else items[torch.from_numpy(places).to(items.device)]


def _dense_path(folder: str, rank: int) -> str:
    return os.path.join(folder, f"dense-{rank:05d}.pt")
