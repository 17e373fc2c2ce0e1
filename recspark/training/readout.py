"""From trained tables to what is served: candidate vectors, query vectors, a bias, and vectors of users.

score(query, candidate) = sim(query vector, vector) + bias. Queries use `query_vector` where it differs from `vector`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.evaluate.ragged import Ragged
from recspark.training.tables import SkipGramTables

SumOverRanks = Callable[[Sequence[float]], Sequence[float]]
"""Numbers of this rank -> their sums over all ranks (`World.sum_over_ranks`)."""

L2 = "l2"
_USERS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ReadoutSpec:
    """What is made of the tables, by the fields of section `model` of these names, none of them `auto`."""

    readout: str
    metric: str
    centred: bool
    popularity_term: float
    history_decay: float = 1.0
    history_items: int | None = None

    @property
    def history_weights(self) -> HistoryWeights:
        """How much each item of a user's history counts."""
        return HistoryWeights(self.history_decay, self.history_items)

    @classmethod
    def from_config(cls, config: ModelConfig) -> "ReadoutSpec":
        """That of a config that leaves nothing to the validation slice."""
        assert not config.autos
        values = {name: getattr(config, name) for name in cls.__dataclass_fields__}
        return cls(**values | {name: float(values[name]) for name in ("popularity_term", "history_decay")})

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "ReadoutSpec":
        """That of a published model."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Readout:
    """Of each item: ``vector`` float32 [V, dim], ``query`` the same array unless queries differ, ``bias`` float32 [V].

    Rows of items that are not ``is_trained`` are zero. ``metric`` and ``history_weights`` are for vectors of users.
    """

    vector: NDArray[np.float32]
    query: NDArray[np.float32]
    bias: NDArray[np.float32]
    is_trained: NDArray[np.bool_]
    history_weights: HistoryWeights = ALL_ALIKE
    metric: str = "cosine"

    @cached_property
    def user_parts(self) -> NDArray[np.float32]:
        """[V, dim], what vectors of users are the mean of."""
        return user_parts(self.query, self.metric)

    @property
    def has_query(self) -> bool:
        """Whether queries use other vectors than candidates."""
        return self.query is not self.vector


def read_out(
    tables: SkipGramTables, num_events: NDArray[np.int64], spec: ReadoutSpec, sum_over_ranks: SumOverRanks = list
) -> Readout:
    """The item vectors that ``spec.readout`` names, centred and with the popularity term as it says.

    Tables and events may be a part of the items, if ``sum_over_ranks`` adds up the means of all parts. Collective then.
    """
    vector, query = read_vectors(tables, spec.readout, spec.centred, sum_over_ranks)
    bias = popularity_bias(num_events, tables.is_trained, spec.popularity_term, sum_over_ranks)
    return Readout(vector, query, bias, tables.is_trained, spec.history_weights, spec.metric)


def read_vectors(
    tables: SkipGramTables, readout: str, is_centred: bool, sum_over_ranks: SumOverRanks = list
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(candidate vectors, query vectors), the same array unless they differ; rows of untrained items are zero."""

    def finish(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return _finish(vectors, tables.is_trained, is_centred, sum_over_ranks)

    if readout == "input_output":
        return finish(tables.output), finish(tables.input)
    vector = finish(tables.input + tables.output if readout == "sum" else getattr(tables, readout))
    return vector, vector


def popularity_bias(
    num_events: NDArray[np.int64], is_trained: NDArray[np.bool_], popularity_term: float,
    sum_over_ranks: SumOverRanks = list,
) -> NDArray[np.float32]:  # fmt: skip
    """``popularity_term`` x (log n - mean of log n over trained items), n = train events (at least 1): float32 [V]."""
    logs = np.log(np.maximum(num_events, 1).astype(np.float64))
    total, count = sum_over_ranks([float(logs[is_trained].sum()), float(is_trained.sum())])
    centre = total / max(count, 1)
    return np.where(is_trained, popularity_term * (logs - centre), 0.0).astype(np.float32)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their lengths; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def user_parts(query: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """[V, dim], what vectors of users are the mean of: query vectors, of unit length except under l2, where lengths are
    part of where an item lies.
    """
    return query if metric == L2 else unit_rows(query)


def sum_user_vectors(
    item_idx: NDArray[np.int32], starts: NDArray[np.int64], num_train: NDArray[np.int32], parts: NDArray[np.float32],
    is_trained: NDArray[np.bool_], weights: HistoryWeights = ALL_ALIKE, first_item: int = 0,
) -> NDArray[np.float32]:  # fmt: skip
    """Of each user the weighted sum of ``parts`` rows over the train history, and of the weights: float32
    [users, dim + 1].

    User u's items are ``item_idx[starts[u]:starts[u] + num_train[u]]``, the newest last; a repeated item counts as
    often as it is there, an untrained one not at all (``is_trained`` bool [V], of all items). ``parts`` may be those of
    a range of the items, from ``first_item`` on: others do not count, and the sums of all ranges are those of the
    whole.
    """
    sums = np.zeros((len(num_train), parts.shape[1] + 1), np.float32)
    for start in range(0, len(num_train), _USERS_AT_ONCE):
        users = slice(start, min(start + _USERS_AT_ONCE, len(num_train)))
        history = train_history(item_idx, starts[users], num_train[users])
        counted, shares = weights.weigh(history.where(is_trained[history.values]))
        own = _part_matrix(counted, shares, first_item, len(parts))
        sums[users, :-1] = own @ parts
        sums[users, -1] = own.sum(axis=1, dtype=np.float64)
    return sums


def mean_of_sums(sums: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(vectors float32 [users, dim], which users have one) from `sum_user_vectors`; without an item there is none."""
    totals = sums[:, -1]  # at least 1, the newest item's weight, where there is any
    means = sums[:, :-1] / np.maximum(totals, np.float32(1))[:, None]
    return np.asarray(means, np.float32), totals > 0


def mean_user_vectors(
    item_idx: NDArray[np.int32], offsets: NDArray[np.int64], num_train: NDArray[np.int32], items: Readout
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`mean_of_sums` of `sum_user_vectors`, for a readout of all items."""
    parts, weights = items.user_parts, items.history_weights
    return mean_of_sums(sum_user_vectors(item_idx, offsets, num_train, parts, items.is_trained, weights))


def _finish(
    vectors: NDArray[np.float32], is_trained: NDArray[np.bool_], is_centred: bool, sum_over_ranks: SumOverRanks
) -> NDArray[np.float32]:
    """Zero rows for untrained items; the others less their mean where asked for."""
    out = np.where(is_trained[:, None], vectors, np.float32(0)).astype(np.float32)
    if is_centred:
        *total, count = sum_over_ranks([*out.sum(axis=0, dtype=np.float64).tolist(), float(is_trained.sum())])
        out[is_trained] -= (np.array(total) / max(count, 1)).astype(np.float32)
    return out


def train_history(item_idx: NDArray[np.int32], starts: NDArray[np.int64], num_train: NDArray[np.int32]) -> Ragged:
    """The train items of each user, the newest last."""
    ends = np.cumsum(num_train, dtype=np.int64)
    before = np.repeat(starts - (ends - num_train), num_train)
    return Ragged.from_lengths(num_train, item_idx[before + np.arange(len(before))])


def _part_matrix(counted: Ragged, weights: NDArray[np.float64], first_item: int, num_items: int) -> sp.csr_array:
    """Users x items of the part: how much an item weighs in a history, its repeats added up."""
    items = counted.values - first_item
    is_here = (items >= 0) & (items < num_items)
    entries = (weights[is_here].astype(np.float32), (counted.row_of_value[is_here], items[is_here]))
    return sp.csr_array(entries, shape=(len(counted), num_items))
