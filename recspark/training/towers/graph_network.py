"""A step's vectors by LightGCN: every step propagates the whole table over the whole graph.

Every rank does that for itself, as its gradient: memory and time are those of all users and items, whatever the batch.
"""

import numpy as np
import torch
from torch import Tensor

from recspark.config.towers import PropagationConfig
from recspark.evaluate.user_tower import StoredUserTower, UserTowerSpec
from recspark.models.item_neighbours import ItemNeighbours
from recspark.models.light_gcn import BipartiteGraph
from recspark.models.tower_table import TowerRows
from recspark.models.towers import Similarity
from recspark.training.towers.network import Compared, Lookup
from recspark.training.towers.result import TowerResult
from recspark.training.towers.step import Ints, TowerStep


class GraphNetwork:
    """`BipartiteGraph` over a table of items and users."""

    neighbours: ItemNeighbours | None = None

    def __init__(
        self, similarity: Similarity, graph: BipartiteGraph, rows: TowerRows, config: PropagationConfig
    ) -> None:
        self.modules, self._graph, self._config = similarity, graph, config
        self._rows = np.arange(rows.num_rows)

    @property
    def similarity(self) -> Similarity:
        """How vectors are compared."""
        return self.modules

    def rows_of(self, step: TowerStep) -> Ints:
        """All of them."""
        return self._rows

    def compare(self, step: TowerStep, rows: Ints, vectors: Tensor) -> Compared:
        """Propagated vectors of the step's users and items."""
        num_users = self._graph.num_users
        ids = torch.cat([vectors[self._graph.num_items :], vectors[: self._graph.num_items]])
        found = self._graph.propagate(ids, self._config.num_layers, self._config.with_ids)
        users = found[torch.from_numpy(step.examples.users).to(found.device)]
        items = found[torch.from_numpy(num_users + step.items).to(found.device)]
        return Compared(self.modules.queries(users), self.modules.candidates(items))

    def read_result(self, lookup: Lookup) -> TowerResult:
        """Without ids a user is a sum over his items; with them, users seen in training have vectors of their own."""
        graph, config, num_items = self._graph, self._config, self._graph.num_items
        ids = torch.cat([lookup(range(num_items, len(self._rows))), lookup(range(num_items))])
        found = graph.propagate(ids, config.num_layers, config.with_ids)
        is_listed = np.diff(graph.to_items.starts) > 0
        candidate = found[graph.num_users :].cpu().numpy() * is_listed[:, None]
        if not config.with_ids:
            query = graph.item_queries(ids, config.num_layers).cpu().numpy() * is_listed[:, None]
            return TowerResult(query, candidate, is_listed, StoredUserTower(UserTowerSpec("mean", distinct=True), {}))
        spec = UserTowerSpec("mean", unit_items=True, distinct=True, static_first=True)
        has_static = np.diff(graph.to_users.starts) > 0
        missing = np.zeros(candidate.shape[1], np.float32)
        users = StoredUserTower(spec, {}, found[: graph.num_users].cpu().numpy(), has_static, missing)
        return TowerResult(candidate, candidate, is_listed, users)
