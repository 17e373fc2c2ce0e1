"""A step's vectors out of table rows, by two towers: which rows it needs, and what becomes of them.

Shapes: R = rows, K = interests, C = candidates, r = table rows, I = items, J = items whose inputs are needed, N =
items of histories, D = embedding_dim, H = width of a neighbour layer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.config.towers import TowersConfig, UserTowerConfig
from recspark.contracts.shards import hash_ids
from recspark.evaluate.time_features import NEVER, encode_times
from recspark.evaluate.user_tower import StoredUserTower, UserTowerSpec
from recspark.models.item_neighbours import ItemNeighbours, Near
from recspark.models.pooling import MeanPooling
from recspark.models.tower_table import TowerRows
from recspark.models.towers import Similarity, Towers
from recspark.training.lanes import hash_place
from recspark.training.towers.examples import Examples
from recspark.training.towers.result import ITEM_INPUTS, TowerResult
from recspark.training.towers.step import Ints, TowerStep

Lookup = Callable[[range], Tensor]
"""A range of table rows -> float32 [n, D]. Collective."""
_ROWS_AT_ONCE = 1 << 16
_PADDING_GROUPS = 4
_ID_DROPOUT = 4


@dataclass(frozen=True)
class Compared:
    """What a loss compares: ``queries`` [R, D] (already scaled), or [R, K, D]; ``items`` [I, D] of the step's items.

    ``history`` [N, D], for a ranking head, are the items of all histories as they are compared; None without any.
    """

    queries: Tensor
    items: Tensor
    history: Tensor | None = None


class TowerNetwork(Protocol):
    """What the backend trains: everything outside the table is in ``modules``."""

    modules: Any

    @property
    def similarity(self) -> Similarity:
        """How its vectors are compared."""

    @property
    def neighbours(self) -> ItemNeighbours | None:
        """Those that items are read together with; a step has to hold its own (`TowerStep.near`)."""

    def rows_of(self, step: TowerStep) -> Ints:
        """The distinct table rows that a step needs, ascending in the order of `TowerRows`."""

    def compare(self, step: TowerStep, rows: Ints, vectors: Tensor) -> Compared:
        """Queries and candidates of a step from its table rows [r, D]."""

    def read_result(self, lookup: Lookup) -> TowerResult:
        """What is exported; ``lookup`` gives ranges of the table's rows. The modules are in evaluation mode."""


class TwoTowerNetwork:
    """`Towers` over a table; `mf` is the same with a vector a user and nothing else.

    ``has_events`` bool [V]: items whose id says something; the others are told by features alone. ``is_seen`` bool [U]:
    the same of users. ``neighbours``: of all items, where their tower reads any.
    """

    def __init__(
        self, towers: Towers, table_rows: TowerRows, config: TowersConfig, has_events: NDArray[np.bool_],
        is_seen: NDArray[np.bool_], seed: int, until_us: int = NEVER, neighbours: ItemNeighbours | None = None,
    ) -> None:  # fmt: skip
        """``until_us``: the time of the newest train event, the moment that stored users are of."""
        self._until_us = until_us
        self.modules, self._rows, self._config = towers, table_rows, config
        self._has_events, self._is_seen, self._seed = has_events, is_seen, seed
        self.neighbours = neighbours

    @property
    def similarity(self) -> Similarity:
        """How vectors are compared."""
        found: Similarity = self.modules.similarity
        return found

    def rows_of(self, step: TowerStep) -> Ints:
        """Ids of items and their neighbours, of a history's items where they have a table of their own, of users."""
        rows = self._rows
        parts = [step.inputs] if self._config.item.id else []
        if rows.has_history_items:
            parts.append(rows.num_items + np.unique(step.examples.history.values.astype(np.int64)))
        if rows.num_users:
            parts.append(rows.first_user + np.sort(step.examples.users))
        return np.concatenate([np.empty(0, np.int64), *parts])

    def compare(self, step: TowerStep, rows: Ints, vectors: Tensor) -> Compared:
        """Both towers; dropout is that of the modules' mode."""
        items_ID = self._read_items(step, vectors)
        tokens_ND = self._read_history(step, rows, vectors, items_ID)
        pooled = None if tokens_ND is None else self._pool(step, tokens_ND)
        static = self._find_static(step, rows, vectors)
        if static is not None and step.examples.is_prefixes:
            static = static[_tensor(step.examples.row_user, static)]
        towers = self.modules
        users = towers.user.combine(pooled, static, self._find_codes(step.examples, items_ID))
        queries = towers.similarity.queries(users)
        history = None if tokens_ND is None else towers.similarity.candidates(tokens_ND)
        return Compared(queries, towers.similarity.candidates(items_ID), history)

    def read_result(self, lookup: Lookup) -> TowerResult:
        """Items by their tower; those without events by features alone, and left out where there are none."""
        num_items, listed = self._rows.num_items, self._has_events.copy()
        if self._config.item.features:
            listed[:] = True
        vectors = lookup(range(num_items)) if self._config.item.id else lookup(range(0)).new_zeros(num_items, self._dim)
        kept = _tensor((self._has_events & listed).astype(np.float32), vectors)[:, None]
        inputs_VD = torch.cat([
            self.modules.item.read(vectors[part] * kept[part], torch.arange(part.start, part.stop, device=kept.device))
            for part in _parts(num_items)
        ])  # fmt: skip
        items = torch.cat([self._finish_items(inputs_VD, part) for part in _parts(num_items)])
        candidate = items.cpu().numpy() * listed[:, None]
        query = candidate
        if self._rows.has_history_items:
            query = lookup(range(num_items, 2 * num_items)).cpu().numpy() * listed[:, None]
        arrays = {name: t.cpu().numpy() for name, t in self.modules.item.state_dict().items()}
        if self.neighbours is not None:
            arrays[ITEM_INPUTS] = inputs_VD.cpu().numpy()
        head = self.modules.ranking_head
        return TowerResult(
            query, candidate, listed, self._read_users(lookup), arrays, head=head.store() if head is not None else None
        )

    @property
    def _dim(self) -> int:
        return int(self.modules.dim)

    def _read_users(self, lookup: Lookup) -> StoredUserTower:
        """The user tower and what does not hang on histories, of all users."""
        tower, config = self.modules.user, self._config.user
        spec = describe_user_tower(config)
        spec = replace(spec, until_us=self._until_us) if spec.time_features else spec
        arrays = {name: t.cpu().numpy() for name, t in tower.state_dict().items() if not name.startswith("features.")}
        if not self._rows.num_users and tower.features is None:
            return StoredUserTower(spec, arrays)
        seen, missing = self._is_seen, np.zeros(self._dim, np.float32)
        found = []
        for part in _parts(len(seen)):
            ids = None
            if self._rows.num_users:
                ids = lookup(range(self._rows.first_user + part.start, self._rows.first_user + part.stop))
                ids = ids * _tensor(seen[part].astype(np.float32), ids)[:, None]
            place = torch.arange(part.start, part.stop, device=self.modules.similarity.log_scale.device)
            static = tower.find_static(ids, place)
            assert static is not None
            found.append((tower.combine(None, static) if tower.pooling is None else static).cpu().numpy())
        if tower.features is not None:
            seen, missing = np.ones_like(seen), tower.features.missing()[0].cpu().numpy()
        return StoredUserTower(spec, arrays, np.concatenate(found), seen, missing)

    def _read_items(self, step: TowerStep, vectors: Tensor) -> Tensor:
        """The step's items by their tower [I, D], some without their id, some of those without neighbours too."""
        needed, config = step.inputs, self._config.item
        ids_JD = vectors[: len(needed)] if config.id else vectors.new_zeros(len(needed), vectors.shape[1])
        drawn = np.ones(len(needed))
        if config.features and self.modules.training:
            drawn = _draw(self._seed, step.place.global_step, needed)
        if config.id and config.features:
            kept = self._has_events[needed] & (drawn >= config.id_dropout)
            ids_JD = ids_JD * _tensor(kept.astype(np.float32), vectors)[:, None]
        x_JD: Tensor = self.modules.item.read(ids_JD, _tensor(needed, vectors))
        if step.near is not None:
            return self._join_neighbours(x_JD, step.near, drawn[step.near.own] >= config.id_dropout / 2)
        out: Tensor = self.modules.item(x_JD)
        return out

    def _join_neighbours(self, x_JD: Tensor, near: Near, has_any: NDArray[np.bool_]) -> Tensor:
        """Vectors [I, D] of items from the inputs of all that they need; ``has_any`` [I]: not left without."""
        tower = self.modules.item
        assert tower.neighbours is not None
        own, starts, places, weights = (_tensor(a, x_JD) for a in (near.own, near.starts, near.places, near.weights))
        pooled_IH = tower.neighbours.pool(x_JD, starts, places, weights)
        pooled_IH = pooled_IH * _tensor(has_any.astype(np.float32), x_JD)[:, None]
        out: Tensor = tower(x_JD[own], pooled_IH)
        return out

    def _finish_items(self, inputs_VD: Tensor, part: slice) -> Tensor:
        """The vectors of a slice of all items from their inputs."""
        if self.neighbours is not None:
            near = self.neighbours.near(np.arange(part.start, part.stop))
            return self._join_neighbours(inputs_VD[_tensor(near.items, inputs_VD)], near, np.ones(len(near.own), bool))
        out: Tensor = self.modules.item(inputs_VD[part])
        return out

    def _read_history(self, step: TowerStep, rows: Ints, vectors: Tensor, items_ID: Tensor) -> Tensor | None:
        """What stands for the items of all histories [N, D]; None without pooling."""
        if self.modules.user.pooling is None:
            return None
        if not self._rows.has_history_items:
            return items_ID[_tensor(step.history, vectors)]
        places = np.searchsorted(rows, self._rows.num_items + step.examples.history.values.astype(np.int64))
        return vectors[_tensor(places, vectors)]

    def _pool(self, step: TowerStep, tokens_ND: Tensor) -> Tensor:
        """Pooled histories [R, D] or [R, K, D]."""
        user, examples = self.modules.user, step.examples
        if isinstance(user.pooling, MeanPooling) and user.pooling.rate is None and not examples.is_prefixes:
            return self._sum_sets(examples, user.dropout(tokens_ND), user.pooling.power)
        return self._pool_padded(examples, tokens_ND)

    def _sum_sets(self, examples: Examples, tokens_ND: Tensor, power: float) -> Tensor:
        """Means of whole histories, without padding."""
        history, counts = examples.history, np.maximum(examples.history.lengths, 1).astype(np.float32)
        if (weight := examples.history_weight) is not None:
            tokens_ND = tokens_ND * _tensor(weight, tokens_ND)[:, None]
            counts = np.bincount(history.row_of_value, weight, len(history)).astype(np.float32)
        sums = tokens_ND.new_zeros(len(history), tokens_ND.shape[1])
        sums = sums.index_add(0, _tensor(history.row_of_value, tokens_ND), tokens_ND)
        return sums / _tensor(counts, tokens_ND).pow(power)[:, None]

    def _pool_padded(self, examples: Examples, tokens_ND: Tensor) -> Tensor:
        """Users in a few groups of about the same length: each is padded to its longest."""
        lengths, found, start = examples.history.lengths, [], 0
        for part in np.array_split(lengths, min(_PADDING_GROUPS, max(1, len(lengths) // 16))):
            stop = start + int(part.sum())
            if len(part):
                weight = None if examples.history_weight is None else examples.history_weight[start:stop]
                found.append(self._pool_group(part, tokens_ND[start:stop], weight, examples.is_prefixes))
            start = stop
        return torch.cat(found) if found else tokens_ND[:0]

    def _pool_group(
        self, lengths: Ints, tokens_ND: Tensor, weight: NDArray[np.float32] | None, is_prefixes: bool
    ) -> Tensor:
        longest = int(lengths.max())
        is_there = np.arange(longest) < lengths[:, None]
        place = np.flatnonzero(is_there)
        x_BLD = tokens_ND.new_zeros(len(lengths) * longest, tokens_ND.shape[1])
        x_BLD = x_BLD.index_copy(0, _tensor(place, tokens_ND), tokens_ND).view(len(lengths), longest, -1)
        weight_BL = None
        if weight is not None:
            padded = np.ones(is_there.shape, np.float32)
            padded[is_there] = weight
            weight_BL = _tensor(padded, tokens_ND)
        pooled = self.modules.user.pool(x_BLD, weight_BL).flatten(0, 1)
        wanted = place if is_prefixes else np.arange(len(lengths)) * longest + np.maximum(lengths, 1) - 1
        return pooled[_tensor(wanted, tokens_ND)]

    def _find_codes(self, examples: Examples, like: Tensor) -> Tensor | None:
        """Codes of each row's moment [R, F]; None for a tower that does not read them."""
        names = self._config.user.time_features
        if not names:
            return None
        assert examples.row_ts_us is not None, "the config is checked: rows have a time"
        assert examples.last_ts_us is not None
        return _tensor(encode_times(names, examples.row_ts_us, examples.last_ts_us), like)

    def _find_static(self, step: TowerStep, rows: Ints, vectors: Tensor) -> Tensor | None:
        """What does not hang on histories, of each user [B, D]."""
        users, ids = step.examples.users, None
        if self._rows.num_users:
            ids = vectors[_tensor(np.searchsorted(rows, self._rows.first_user + users), vectors)]
        return self.modules.user.find_static(ids, _tensor(users, vectors))


def describe_user_tower(config: UserTowerConfig) -> UserTowerSpec:
    """What numpy has to know of a user tower; one without pooling falls back on histories for users without an id."""
    h, mlp = config.history, config.mlp
    if h.pooling == "none":
        return UserTowerSpec("mean", unit_items=True, static_first=True)
    return UserTowerSpec(
        h.pooling, h.max_items, h.length_power, num_heads=h.num_heads, num_layers=h.num_layers, hidden=mlp.hidden,
        activation=mlp.activation, norm=mlp.norm, residual=mlp.residual, event_weights=h.event_weights,
        time_features=config.time_features,
    )  # fmt: skip


def fold_interests(queries_RKD: Tensor, target_row: Tensor, targets_PD: Tensor) -> tuple[Tensor, Tensor]:
    """(rows [R x K, D], each target's row among them): of its user's interests the one nearest to it.

    Source: Cen et al. 2020, eq. 7.
    """
    with torch.no_grad():
        nearest = torch.einsum("pkd,pd->pk", queries_RKD[target_row], targets_PD).argmax(1)
    return queries_RKD.flatten(0, 1), target_row * queries_RKD.shape[1] + nearest


def _draw(seed: int, global_step: int, items: Ints) -> NDArray[np.float64]:
    """A number in [0, 1) an item: the same on all ranks."""
    bits = hash_ids(items, hash_place(seed, global_step, _ID_DROPOUT))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _parts(count: int) -> list[slice]:
    """0..count-1 in slices that bound what is held at a time."""
    return [slice(start, min(start + _ROWS_AT_ONCE, count)) for start in range(0, count, _ROWS_AT_ONCE)]


def _tensor(array: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
