"""From trained tables to what is served: candidate vectors, query vectors, a bias, and vectors of users.

score(query, candidate) = sim(query vector, vector) + bias. Queries use `query_vector` where it differs from `vector`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.evaluate.ragged import Ragged
from recspark.training.tables import SkipGramTables

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

    Rows of items that are not ``is_trained`` are zero. ``history_weights`` is for vectors of users.
    """

    vector: NDArray[np.float32]
    query: NDArray[np.float32]
    bias: NDArray[np.float32]
    is_trained: NDArray[np.bool_]
    history_weights: HistoryWeights = ALL_ALIKE

    @property
    def has_query(self) -> bool:
        """Whether queries use other vectors than candidates."""
        return self.query is not self.vector


def read_out(tables: SkipGramTables, num_events: NDArray[np.int64], spec: ReadoutSpec) -> Readout:
    """The item vectors that ``spec.readout`` names, centred and with the popularity term as it says."""
    vector, query = read_vectors(tables, spec.readout, spec.centred)
    bias = popularity_bias(num_events, tables.is_trained, spec.popularity_term)
    return Readout(vector, query, bias, tables.is_trained, spec.history_weights)


def read_vectors(
    tables: SkipGramTables, readout: str, is_centred: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(candidate vectors, query vectors), the same array unless they differ; rows of untrained items are zero."""
    if readout == "input_output":
        return (
            _finish(tables.output, tables.is_trained, is_centred),
            _finish(tables.input, tables.is_trained, is_centred),
        )
    chosen = tables.input + tables.output if readout == "sum" else getattr(tables, readout)
    vector = _finish(chosen, tables.is_trained, is_centred)
    return vector, vector


def popularity_bias(
    num_events: NDArray[np.int64], is_trained: NDArray[np.bool_], popularity_term: float
) -> NDArray[np.float32]:
    """``popularity_term`` x (log n - mean of log n over trained items), n = train events (at least 1): float32 [V]."""
    logs = np.log(np.maximum(num_events, 1).astype(np.float64))
    centre = logs[is_trained].mean() if is_trained.any() else 0.0
    return np.where(is_trained, popularity_term * (logs - centre), 0.0).astype(np.float32)


def mean_user_vectors(
    item_idx: NDArray[np.int32], offsets: NDArray[np.int64], num_train: NDArray[np.int32], items: Readout
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(vectors float32 [users, dim], which users have one): the mean of unit query vectors over the train history,
    weighted as ``items.history_weights`` say.

    User u's items are ``item_idx[offsets[u]:offsets[u] + num_train[u]]``, the newest last; a repeated item counts as
    often as it is there, an untrained one not at all. Users without a trained item have none.
    """
    unit = unit_rows(items.query)
    vectors = np.zeros((len(num_train), unit.shape[1]), np.float32)
    totals = np.zeros(len(num_train))
    for start in range(0, len(num_train), _USERS_AT_ONCE):
        users = slice(start, min(start + _USERS_AT_ONCE, len(num_train)))
        history = _train_matrix(item_idx, offsets[users], num_train[users], items)
        totals[users] = np.asarray(history.sum(axis=1, dtype=np.float64)).ravel()
        vectors[users] = (history @ unit) / np.maximum(totals[users], 1)[:, None]
    return vectors, totals > 0


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their lengths; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def _finish(vectors: NDArray[np.float32], is_trained: NDArray[np.bool_], is_centred: bool) -> NDArray[np.float32]:
    """Zero rows for untrained items; the others less their mean where asked for."""
    out = np.where(is_trained[:, None], vectors, np.float32(0)).astype(np.float32)
    if is_centred and is_trained.any():
        out[is_trained] -= out[is_trained].mean(axis=0, dtype=np.float64).astype(np.float32)
    return out


def _train_matrix(
    item_idx: NDArray[np.int32], starts: NDArray[np.int64], num_train: NDArray[np.int32], items: Readout
) -> sp.csr_matrix:
    """Users x items: how much a trained item weighs in the train history, its repeats added up."""
    ends = np.cumsum(num_train, dtype=np.int64)
    before = np.repeat(starts - (ends - num_train), num_train)
    history = Ragged.from_lengths(num_train, item_idx[before + np.arange(len(before))])
    counted, weights = items.history_weights.weigh(history.where(items.is_trained[history.values]))
    shape = (len(num_train), len(items.is_trained))
    return sp.csr_matrix((weights.astype(np.float32), (counted.row_of_value, counted.values)), shape=shape)
