"""A trained ranking head in numpy: retrieved candidates scored once more by target attention, without torch.

    a user's vector, his history [17, 4, 9], candidates [31, 12, 40]   ->   their scores [2.1, 3.0, -.4]

The same arithmetic as `recspark.models.ranking_head`, which tests compare it with. Vectors come as they are compared:
of unit length under cosine. Shapes: U = users, C = candidates of each, L = items of the longest history, M = items with
a vector, D = embedding_dim, A = width of the first attention layer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import IntArray, Ragged, group_by_length

Floats = NDArray[np.float32]
SOFTMAX = "softmax"
_VALUES_AT_ONCE = 1 << 22
"""Floats of (user, candidate, history item) held at a time."""


@dataclass(frozen=True)
class RankingHeadSpec:
    """What a ranking head is made of, as the model's manifest has it.

    ``candidates`` are retrieved for it; ``max_items`` last items of a history are looked at; ``weights`` is `raw` or
    `softmax`; vectors are multiplied by ``gain`` first.
    """

    candidates: int
    max_items: int
    weights: str
    gain: float

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "RankingHeadSpec":
        """That of a published model."""
        return cls(**facts)

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class StoredRankingHead:
    """A trained head: ``arrays`` by name as torch has them."""

    spec: RankingHeadSpec
    arrays: Mapping[str, NDArray[Any]]

    @property
    def scale(self) -> np.float32:
        """What a retrieval score is multiplied by before the head adds its own."""
        return np.float32(np.exp(self.arrays["log_scale"]))

    def score(
        self,
        users_UD: Floats,
        history: Ragged,
        tokens_MD: Floats,
        rows_UC: IntArray,
        vectors_MD: Floats,
        bias_M: Floats,
    ) -> Floats:
        """[U, C]: scale x (user . vector + bias) + what the head adds; -inf where ``rows_UC`` is below 0.

        ``rows_UC`` are rows of ``vectors_MD``, ``history`` has rows of ``tokens_MD``, the newest last.
        """
        history = history.keep_last(self.spec.max_items)
        out = np.empty(rows_UC.shape, np.float32)
        for users in group_by_length(history.lengths, rows_UC.shape[1] * users_UD.shape[1], _VALUES_AT_ONCE):
            rows, u_uD = rows_UC[users], users_UD[users]
            v_uCD = vectors_MD[np.maximum(rows, 0)]
            retrieved = (v_uCD @ u_uD[:, :, None])[..., 0] + bias_M[np.maximum(rows, 0)]
            found = self.scale * retrieved + self._judge(u_uD, history.take(users), tokens_MD, v_uCD)
            out[users] = np.where(rows >= 0, found, -np.inf)
        return out

    def _judge(self, users_uD: Floats, history: Ragged, tokens_MD: Floats, items_uCD: Floats) -> Floats:
        """What the head adds to the scores of users of like history: [u, C]."""
        length = max(int(history.lengths.max(initial=0)), 1)
        from_last = history.lengths[:, None] - 1 - np.arange(length)
        h_uLD = np.zeros((len(history), length, users_uD.shape[1]), np.float32)
        h_uLD[from_last >= 0] = tokens_MD[history.values]
        gain = np.float32(self.spec.gain)
        u, h, v = users_uD * gain, h_uLD * gain, items_uCD * gain
        weights_uCL = self._weigh(h, v, from_last)
        pooled = weights_uCL @ h
        added = self._map("mlp", 0, u)[:, None] + self._map("mlp", 1, pooled)
        return self._finish("mlp", added + self._map("mlp", 2, v) + self._map("mlp", 3, pooled * v))

    def _weigh(self, h_uLD: Floats, v_uCD: Floats, from_last_uL: IntArray) -> Floats:
        """How much each history item counts for each candidate: [u, C, L]."""
        h, v = h_uLD[:, None], v_uCD[:, :, None]
        each = self._map("attention", 0, h) + self._map("attention", 1, v) + self._map("attention", 2, h * v)
        if "places" in self.arrays:
            each = each + self.arrays["places"][np.maximum(from_last_uL, 0)][:, None]
        weights = self._finish("attention", each)
        if self.spec.weights != SOFTMAX:
            return weights  # what stands on padding is multiplied by zeros
        weights = np.where(from_last_uL[:, None] >= 0, weights, np.float32(-1e9))
        powers = np.exp(weights - weights.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)

    def _map(self, name: str, place: int, x: Floats) -> Floats:
        """One input's part of the first layer; the first one carries the bias."""
        mapped = _linear(x, self.arrays[f"{name}.maps.{place}.weight"])
        return mapped if place else mapped + self.arrays[f"{name}.maps.0.bias"]

    def _finish(self, name: str, x: Floats) -> Floats:
        """The layers behind the first: [..., width] -> [...]."""
        for layer, slope in enumerate(self.arrays[f"{name}.slopes"]):
            x = np.maximum(x, 0) + slope * np.minimum(x, 0)
            x = _linear(x, self.arrays[f"{name}.layers.{layer}.weight"])
            x = x + self.arrays.get(f"{name}.layers.{layer}.bias", np.float32(0))
        return np.asarray(x[..., 0], np.float32)


def _linear(x: Floats, weight: Floats) -> Floats:
    """x W^T over the last axis as one product: numpy makes one a matrix of higher axes."""
    return np.asarray((x.reshape(-1, x.shape[-1]) @ weight.T).reshape(*x.shape[:-1], len(weight)), np.float32)
