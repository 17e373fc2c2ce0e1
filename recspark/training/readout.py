"""From trained tables to what is served: candidate vectors, query vectors, a bias, and vectors of users.

score(query, candidate) = sim(query vector, vector) + bias. Queries use `query_vector` where it differs from `vector`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig
from recspark.training.tables import SkipGramTables

SumOverRanks = Callable[[Sequence[float]], Sequence[float]]
"""Numbers of this rank -> their sums over all ranks (`World.sum_over_ranks`)."""

_USERS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ReadoutSpec:
    """What is made of the tables: `model.readout`, `metric`, `centred` and `popularity_term`, none of them `auto`."""

    readout: str
    metric: str
    centred: bool
    popularity_term: float

    @classmethod
    def from_config(cls, config: ModelConfig) -> "ReadoutSpec":
        """That of a config that leaves nothing to the validation slice."""
        assert not config.autos
        return cls(config.readout, config.metric, bool(config.centred), float(config.popularity_term))

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

    Rows of items that are not ``is_trained`` are zero.
    """

    vector: NDArray[np.float32]
    query: NDArray[np.float32]
    bias: NDArray[np.float32]
    is_trained: NDArray[np.bool_]

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
    return Readout(vector, query, bias, tables.is_trained)


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


def sum_user_vectors(
    item_idx: NDArray[np.int32], starts: NDArray[np.int64], num_train: NDArray[np.int32], unit: NDArray[np.float32],
    is_trained: NDArray[np.bool_], first_item: int = 0,
) -> NDArray[np.float32]:  # fmt: skip
    """Of each user the sum of ``unit`` rows over the train history, and how many: float32 [users, dim + 1].

    User u's items are ``item_idx[starts[u]:starts[u] + num_train[u]]``; a repeated item counts as often as it is there,
    an untrained one not at all. ``unit`` and ``is_trained`` may be a part of the items, from ``first_item`` on: others
    do not count, and the sums of all parts are those of the whole.
    """
    sums = np.zeros((len(num_train), unit.shape[1] + 1), np.float32)
    for start in range(0, len(num_train), _USERS_AT_ONCE):
        users = slice(start, min(start + _USERS_AT_ONCE, len(num_train)))
        history = _train_matrix(item_idx, starts[users], num_train[users], is_trained, first_item)
        sums[users, :-1] = history @ unit
        sums[users, -1] = np.asarray(history.sum(axis=1)).ravel()
    return sums


def mean_of_sums(sums: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(vectors float32 [users, dim], which users have one) from `sum_user_vectors`; without an item there is none."""
    counts = sums[:, -1]
    means = sums[:, :-1] / np.maximum(counts, np.float32(1))[:, None]
    return np.asarray(means, np.float32), counts > 0


def mean_user_vectors(
    item_idx: NDArray[np.int32], offsets: NDArray[np.int64], num_train: NDArray[np.int32], items: Readout
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`mean_of_sums` of `sum_user_vectors`, for a readout of all items."""
    return mean_of_sums(sum_user_vectors(item_idx, offsets, num_train, unit_rows(items.query), items.is_trained))


def _finish(
    vectors: NDArray[np.float32], is_trained: NDArray[np.bool_], is_centred: bool, sum_over_ranks: SumOverRanks
) -> NDArray[np.float32]:
    """Zero rows for untrained items; the others less their mean where asked for."""
    out = np.where(is_trained[:, None], vectors, np.float32(0)).astype(np.float32)
    if is_centred:
        *total, count = sum_over_ranks([*out.sum(axis=0, dtype=np.float64).tolist(), float(is_trained.sum())])
        out[is_trained] -= (np.array(total) / max(count, 1)).astype(np.float32)
    return out


def _train_matrix(
    item_idx: NDArray[np.int32], starts: NDArray[np.int64], num_train: NDArray[np.int32],
    is_trained: NDArray[np.bool_], first_item: int,
) -> sp.csr_matrix:  # fmt: skip
    """Users x items of the part: how often a trained item is in the train history."""
    ends = np.cumsum(num_train, dtype=np.int64)
    before = np.repeat(starts - (ends - num_train), num_train)
    items = item_idx[before + np.arange(len(before))] - first_item
    users = np.repeat(np.arange(len(num_train)), num_train)
    is_here = (items >= 0) & (items < len(is_trained))
    known = is_here & is_trained[np.where(is_here, items, 0)] if len(is_trained) else is_here
    shape = (len(num_train), len(is_trained))
    return sp.csr_matrix((np.ones(known.sum(), np.float32), (users[known], items[known])), shape=shape)
