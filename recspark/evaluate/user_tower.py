"""A trained user tower in numpy: histories (and who they are of) to vectors, without torch.

    spec {"pooling": "decay", ...}, arrays {"pooling.rate": ...}, item tokens [M, D]  ->  [U, D], or [U, K, D]

The same arithmetic as `recspark.models.towers`, which tests compare it with; what trains and what serves need not share
an engine. Shapes: U = users, L = items of the longest history, D = embedding_dim, K = interests.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.ragged import IntArray, Ragged, group_by_length
from recspark.evaluate.time_features import NEVER, encode_times, find_last
from recspark.evaluate.weighted_sums import weighted_sums

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
_PADDED_VALUES = 1 << 22
"""Floats of padded histories held at a time."""
_EPSILON = 1e-5


@dataclass(frozen=True)
class UserTowerSpec:
    """What a user tower is made of, as the model's manifest has it.

    ``distinct``: an item counts once a history. ``static_first``: users with a vector of their own are that vector, and
    a history stands in for the others; else both are added up. ``hidden`` are the widths of the mlp. With
    ``event_weights`` an event counts its weight, with ``time_features`` the moment counts at which a user is asked for:
    histories then come with a `HistoryContext`. ``until_us``: the moment that stored users are of, the newest train
    event's.
    """

    pooling: str
    max_items: int | None = None
    length_power: float = 1.0
    unit_items: bool = False
    distinct: bool = False
    static_first: bool = False
    num_heads: int = 1
    num_layers: int = 0
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    norm: str = "none"
    residual: bool = True
    event_weights: bool = False
    time_features: tuple[str, ...] = ()
    until_us: int = NEVER

    @property
    def event_columns(self) -> list[str]:
        """Columns of `user_histories` that it reads beside items."""
        return [*([c.WEIGHT] if self.event_weights else []), *([c.TS] if self.time_features else [])]

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "UserTowerSpec":
        """That of a published model."""
        lists = {name: tuple(facts[name]) for name in ("hidden", "time_features") if name in facts}
        return cls(**{**facts, **lists})

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self) | {"hidden": list(self.hidden), "time_features": list(self.time_features)}


@dataclass(frozen=True)
class StoredUserTower:
    """A trained user tower: ``arrays`` by name as torch has them.

    ``static`` [U, D], ``has_static`` bool [U] and ``missing`` [D] where users have something of their own (an id,
    features): row u, whether that user has been seen in training, and what stands in for anyone else's row.
    """

    spec: UserTowerSpec
    arrays: Arrays
    static: Floats | None = None
    has_static: NDArray[np.bool_] | None = None
    missing: Floats | None = None

    def encode(
        self, tokens_MD: Floats, history: Ragged, user_idx: IntArray, context: HistoryContext = NO_CONTEXT
    ) -> Floats:
        """[U, D] or [U, K, D]: ``history`` has rows of ``tokens_MD``; a ``user_idx`` below 0 is nobody known."""
        if self.static is None or self.has_static is None or self.missing is None:
            return encode_users(self.spec, self.arrays, tokens_MD, history, context=context)
        is_there = (user_idx >= 0) & (user_idx < len(self.static))
        place = np.where(is_there, user_idx, 0)
        static = np.where(is_there[:, None], self.static[place], self.missing).astype(np.float32)
        has_static = is_there & self.has_static[place]
        return encode_users(self.spec, self.arrays, tokens_MD, history, static, has_static, context)


def encode_users(
    spec: UserTowerSpec, arrays: Arrays, tokens_MD: Floats, history: Ragged, static_UD: Floats | None = None,
    has_static: NDArray[np.bool_] | None = None, context: HistoryContext = NO_CONTEXT,
) -> Floats:  # fmt: skip
    """Each user's vector [U, D], or vectors [U, K, D] of a tower with interests.

    ``history`` has rows of ``tokens_MD``, the newest last, ``context`` what else the spec asks for of its events;
    ``static_UD`` what does not hang on it. ``has_static`` marks the users that have a vector of their own, for
    ``static_first``. A user with neither gets zeros.
    """
    assert not spec.event_weights or context.weight is not None, "who serves such a tower reads weights"
    weight = context.weight if spec.event_weights else None
    pooled = None if spec.pooling == "none" else pool_histories(spec, arrays, tokens_MD, history, weight)
    times_UD = _add_times(spec, arrays, history, context) if spec.time_features else None
    if spec.static_first:
        assert static_UD is not None
        assert has_static is not None
        assert pooled is not None
        return np.asarray(np.where(has_static[:, None], static_UD, pooled), np.float32)
    if pooled is None:
        assert static_UD is not None
        pooled = static_UD
    elif static_UD is not None:
        pooled = pooled + (static_UD[:, None] if pooled.ndim == 3 else static_UD)
    if times_UD is not None:
        pooled = pooled + (times_UD[:, None] if pooled.ndim == 3 else times_UD)
    out = apply_mlp(spec, arrays, pooled.reshape(-1, pooled.shape[-1])).reshape(pooled.shape)
    if static_UD is None:
        out[history.lengths == 0] = 0
    return np.asarray(out, np.float32)


def _add_times(spec: UserTowerSpec, arrays: Arrays, history: Ragged, context: HistoryContext) -> Floats:
    """What the moments say at which users are asked for [U, D]."""
    assert context.ts_us is not None, "who serves such a tower reads times"
    assert context.moment_us is not None
    last_us = find_last(history, context.ts_us, context.moment_us)
    codes_UF = encode_times(spec.time_features, context.moment_us, last_us)
    parts = [arrays[f"times.maps.{name}.weight"][codes_UF[:, f]] for f, name in enumerate(spec.time_features)]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def pool_histories(
    spec: UserTowerSpec, arrays: Arrays, tokens_MD: Floats, history: Ragged, weight: Floats | None = None
) -> Floats:
    """Pooled histories; zeros for empty ones. ``weight`` [N]: what each event counts, 1 by default."""
    if spec.distinct:
        history = history.distinct()
    if spec.max_items is not None:
        if weight is not None:
            from_last = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.values))
            weight = weight[from_last < spec.max_items]
        history = history.keep_last(spec.max_items)
    if spec.unit_items:
        tokens_MD = tokens_MD / np.maximum(np.linalg.norm(tokens_MD, axis=1, keepdims=True), 1e-12)
    if spec.pooling in ("mean", "decay"):
        return _pool_weighted(spec, arrays, tokens_MD, history, weight)
    return _pool_padded(spec, arrays, tokens_MD, history, weight)


def apply_mlp(spec: UserTowerSpec, arrays: Arrays, x_ND: Floats) -> Floats:
    """The layers behind the sum; names and order as `recspark.models.mlp.Mlp` has them."""
    if not spec.hidden:
        return x_ND
    out = x_ND
    for layer in range(len(spec.hidden)):
        first = f"mlp.layers.{4 * layer}"
        out = _normalise(spec.norm, arrays, first, out)
        out = out @ arrays[f"mlp.layers.{4 * layer + 1}.weight"].T + arrays[f"mlp.layers.{4 * layer + 1}.bias"]
        out = np.maximum(out, 0) if spec.activation == "relu" else _gelu(out)
    last = f"mlp.layers.{4 * len(spec.hidden)}"
    out = out @ arrays[f"{last}.weight"].T + arrays[f"{last}.bias"]
    return np.asarray(x_ND + out if spec.residual else out, np.float32)


def _normalise(norm: str, arrays: Arrays, name: str, x_ND: Floats) -> Floats:
    if norm == "layer":
        return _layer_norm(arrays, name, x_ND)
    if norm == "batch":
        mean, variance = arrays[f"{name}.running_mean"], arrays[f"{name}.running_var"]
        scaled = (x_ND - mean) / np.sqrt(variance + _EPSILON)
        return np.asarray(scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"], np.float32)
    return x_ND


def _pool_weighted(
    spec: UserTowerSpec, arrays: Arrays, tokens_MD: Floats, history: Ragged, weight: Floats | None
) -> Floats:
    """Sums with weights that hang on places and events alone, not on items."""
    weights = np.ones(len(history.values)) if weight is None else weight.astype(np.float64)
    if spec.pooling == "decay":
        from_last = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.values))
        weights = weights * np.exp(-np.log1p(np.exp(float(arrays["pooling.rate"]))) * from_last)
    totals = np.bincount(history.row_of_value, weights, len(history)).astype(np.float64)
    if spec.pooling == "mean":
        totals **= spec.length_power
    shares = weights / np.repeat(np.maximum(totals, 1e-300), history.lengths)
    return weighted_sums(tokens_MD, history, shares.astype(np.float32))


def _pool_padded(
    spec: UserTowerSpec, arrays: Arrays, tokens_MD: Floats, history: Ragged, weight: Floats | None
) -> Floats:
    """Poolings that look at all items of a history together; users of like length at a time."""
    context = HistoryContext(weight)
    dim = tokens_MD.shape[1]
    num_interests = arrays["pooling.score.weight"].shape[0] if spec.pooling == "multi_interest" else 0
    out = np.zeros((len(history), num_interests, dim) if num_interests else (len(history), dim), np.float32)
    with_items = np.flatnonzero(history.lengths > 0)
    for group in group_by_length(history.lengths[with_items], dim, _PADDED_VALUES):
        users = with_items[group]
        part = history.take(users)
        length = int(part.lengths.max())
        is_there = np.arange(length) < part.lengths[:, None]
        x_BLD = np.zeros((len(users), length, dim), np.float32)
        x_BLD[is_there] = tokens_MD[part.values]
        log_weight_BL = np.zeros((len(users), length), np.float32)
        if (own := context.take(history, users).weight) is not None:
            log_weight_BL[is_there] = np.log(own)
        pool = _attend_all if spec.pooling == "attention" else _find_interests
        out[users] = pool(spec, arrays, x_BLD, part.lengths, log_weight_BL)
    return out


def _attend_all(spec: UserTowerSpec, arrays: Arrays, x_BLD: Floats, lengths: IntArray, log_weight_BL: Floats) -> Floats:
    h_BLD = _layer_norm(arrays, "pooling.norm_in", x_BLD + arrays["pooling.positions"][: x_BLD.shape[1]])
    for layer in range(spec.num_layers):
        name = f"pooling.layers.{layer}"
        normed = _layer_norm(arrays, f"{name}.norm_attention", h_BLD)
        mixed = _attend(_linear(arrays, f"{name}.to_qkv", normed), spec.num_heads, log_weight_BL)
        h_BLD = h_BLD + _linear(arrays, f"{name}.out", mixed)
        wide = _gelu(_linear(arrays, f"{name}.widen", _layer_norm(arrays, f"{name}.norm_feed", h_BLD)))
        h_BLD = h_BLD + _linear(arrays, f"{name}.narrow", wide)
    last = _layer_norm(arrays, "pooling.norm_out", h_BLD[np.arange(len(h_BLD)), lengths - 1])
    return np.asarray(last, np.float32)


def _attend(qkv_BLD: Floats, num_heads: int, log_weight_BL: Floats) -> Floats:
    """Causal attention: what is padded stands behind every place that is read."""
    b, length, wide = qkv_BLD.shape
    size = wide // 3 // num_heads
    q, k, v = qkv_BLD.reshape(b, length, 3, num_heads, size).transpose(2, 0, 3, 1, 4)
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size)) + log_weight_BL[:, None, None]
    scores[..., ~np.tri(length, dtype=np.bool_)] = -np.inf
    mixed = _softmax(scores, axis=-1) @ v
    return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(b, length, wide // 3), np.float32)


def _find_interests(
    spec: UserTowerSpec, arrays: Arrays, x_BLD: Floats, lengths: IntArray, log_weight_BL: Floats
) -> Floats:
    placed_BLD = x_BLD + arrays["pooling.positions"][: x_BLD.shape[1]]
    scores_BLK = np.tanh(placed_BLD @ arrays["pooling.widen.weight"].T) @ arrays["pooling.score.weight"].T
    scores_BLK += log_weight_BL[..., None]
    scores_BLK[np.arange(x_BLD.shape[1]) >= lengths[:, None]] = -np.inf
    return np.asarray(_softmax(scores_BLK, axis=1).transpose(0, 2, 1) @ x_BLD, np.float32)


def _linear(arrays: Arrays, name: str, x: Floats) -> Floats:
    return np.asarray(x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"], np.float32)


def _layer_norm(arrays: Arrays, name: str, x: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return np.asarray(scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"], np.float32)


def _gelu(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + erf(x / np.float32(np.sqrt(2)))), np.float32)


def erf(x: Floats) -> Floats:
    """The error function to 1.5e-7, about float32's own precision: numpy has none, and a reader has no scipy.

    Source: Abramowitz & Stegun 1964, 7.1.26.
    """
    size = np.abs(x)
    t = 1 / (1 + 0.3275911 * size)
    terms = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1 - terms * np.exp(-size * size)), np.float32)


def _softmax(x: Floats, axis: int) -> Floats:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True), np.float32)
