"""The one place where model scores become a space that faiss can search: score = sim(query, vector) + bias.

Inner products lose recall in a product quantizer, so every index is L2. A vector is augmented until the nearest
neighbour under L2 is the best score, and distances map back to scores exactly:

    cosine            v / |v|                                                 d^2 = 2 - 2 score
    ip, or any bias   (v, b - shift, sqrt(M^2 - |v|^2 - (b - shift)^2))       d^2 = M^2 + |q'|^2 - 2 a (score - shift)
    l2, any bias      (v, sqrt(shift - b))                                    d^2 = shift - score

where M is the largest norm of (v, b - shift), shift centres the bias and a stretches the query (q, 1, 0) to length M,
so that queries and vectors lie on one sphere and coarse quantisation compares like with like. Under l2, sim(q, v) is
-|q - v|^2 and shift the largest bias.
Source: Bachrach et al. 2014, "Speeding up the Xbox recommender system", with bias and stretch added.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.shards import shard_range

Floats = NDArray[np.float32]

COSINE, IP, L2 = METRICS = ("cosine", "ip", "l2")
_ROWS_AT_ONCE = 32_768
_ROUNDING = 1e-6
"""By so much, relative to its square, a norm may exceed the space's radius."""


class EncodedQueries(NamedTuple):
    """Queries in the index's space: ``points`` float32[Q, padded_dim], ``stretch`` float64[Q] (a above)."""

    points: Floats
    stretch: NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """How one index augments vectors and queries, and maps distances back; recorded in its manifest.

    ``num_parts`` is the m of a product quantizer (1 without one): the columns are spread over that many equal parts,
    each filled up with zeros, so that no part codes nothing but padding.
    """

    metric: str
    dim: int
    has_bias: bool
    num_parts: int = 1
    max_norm: float = 1.0
    bias_shift: float = 0.0

    @property
    def is_augmented(self) -> bool:
        """Whether a column that evens out the norms is needed."""
        return self.metric != L2 and (self.has_bias or self.metric == IP)

    @property
    def augmented_dim(self) -> int:
        """Columns that carry something."""
        return augmented_dim(self.metric, self.dim, self.has_bias)

    @property
    def padded_dim(self) -> int:
        """Columns of the faiss index, a multiple of ``num_parts``."""
        return padded_dim(self.augmented_dim, self.num_parts)

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest; ``Space(**facts)`` gives it back."""
        return asdict(self)

    def comparable(self, vectors: Floats) -> Floats:
        """The vectors that are compared: of unit length for cosine (zero stays zero), as they are for ip and l2."""
        return unit_rows(vectors) if self.metric == COSINE else np.ascontiguousarray(vectors, np.float32)

    def find_misfit(self, vectors: Floats, bias: Floats) -> str | None:
        """Why further vectors [N, dim] and bias [N] would not be scored exactly in this space; None where they are."""
        if not self.has_bias and np.any(bias != 0):
            return "items have a bias now, the space has no column for it"
        if self.metric == L2:
            highest = float(bias.max(initial=self.bias_shift)) if self.has_bias else self.bias_shift
            return "a bias is above the largest that the space holds" if highest > self.bias_shift else None
        if not self.is_augmented:
            return None
        longest = float(self._squares(vectors, bias).max(initial=0.0))
        return "a vector is longer than the space's radius" if longest > self.max_norm**2 * (1 + _ROUNDING) else None

    def encode_vectors(self, vectors: Floats, bias: Floats) -> Floats:
        """float32[N, padded_dim] to add to the index, from float32[N, dim] and float32[N]."""
        columns = [self.comparable(vectors)]
        if self.metric == L2 and self.has_bias:
            rest = np.maximum(self.bias_shift - bias.astype(np.float64), 0.0)
            columns.append(np.sqrt(rest).astype(np.float32)[:, None])
        elif self.has_bias:
            columns.append((bias.astype(np.float64) - self.bias_shift).astype(np.float32)[:, None])
        if self.is_augmented:
            rest = self.max_norm**2 - sum(np.square(c, dtype=np.float64).sum(axis=1) for c in columns)
            columns.append(np.sqrt(np.maximum(rest, 0.0)).astype(np.float32)[:, None])
        return self._spread(np.hstack(columns))

    def encode_queries(self, queries: Floats) -> EncodedQueries:
        """float32[Q, dim] queries as points of the space."""
        columns = [self.comparable(queries)]
        stretch = np.ones(len(queries))
        if self.metric == L2:
            columns += [np.zeros((len(queries), 1), np.float32)] * self.has_bias
        elif self.is_augmented:
            columns += [np.ones((len(queries), 1), np.float32)] * self.has_bias
            norms = np.sqrt(sum(np.square(c, dtype=np.float64).sum(axis=1) for c in columns))
            np.divide(self.max_norm, norms, out=stretch, where=norms > 0)
            columns.append(np.zeros((len(queries), 1), np.float32))
        points = np.hstack(columns) * stretch[:, None]
        return EncodedQueries(self._spread(points.astype(np.float32)), stretch)

    def scores(self, distances: Floats, queries: EncodedQueries) -> Floats:
        """sim + bias, float32[Q, k], from faiss's squared distances float32[Q, k]; infinitely far is -inf."""
        if self.metric == L2:
            return (self.bias_shift - distances.astype(np.float64)).astype(np.float32)
        lengths = np.square(queries.points, dtype=np.float64).sum(axis=1)
        products = (self.max_norm**2 + lengths[:, None] - distances.astype(np.float64)) / 2
        scores: Floats = (products / queries.stretch[:, None] + self.bias_shift).astype(np.float32)
        return scores

    def _squares(self, vectors: Floats, bias: Floats) -> NDArray[np.float64]:
        """Squared norms [N] of (v, b - shift)."""
        squares = np.empty(len(vectors))
        for part in row_blocks(len(vectors)):
            squares[part] = squared_norms(self.comparable(vectors[part]))
        return squares + np.square(bias.astype(np.float64) - self.bias_shift) if self.has_bias else squares

    def _spread(self, columns: Floats) -> Floats:
        if self.num_parts == 1:
            return np.ascontiguousarray(columns)
        padded = np.zeros((len(columns), self.padded_dim), np.float32)
        padded[:, column_places(self.augmented_dim, self.num_parts)] = columns
        return padded


def fit_space(metric: str, vectors: Floats, bias: Floats, num_parts: int = 1) -> Space:
    """The space that holds these vectors: its radius and the middle of the bias are read off them."""
    shift = float(bias.max()) if metric == L2 else (float(bias.max()) + float(bias.min())) / 2
    has_bias = bool(np.any(bias != 0))
    flat = Space(metric, vectors.shape[1], has_bias, num_parts, 1.0, shift if has_bias else 0.0)
    if not flat.is_augmented:
        return flat
    radius = float(np.sqrt(flat._squares(vectors, bias).max())) or 1.0
    return replace(flat, max_norm=radius)


def augmented_dim(metric: str, dim: int, has_bias: bool) -> int:
    """Columns of a vector after augmentation."""
    return dim + has_bias + (metric != L2 and (has_bias or metric == IP))


def padded_dim(dim: int, num_parts: int) -> int:
    """The next multiple of ``num_parts``."""
    return -(-dim // num_parts) * num_parts


def column_places(dim: int, num_parts: int) -> NDArray[np.int64]:
    """Where each of ``dim`` columns goes among ``padded_dim``: every part gets as many, give or take one."""
    width = padded_dim(dim, num_parts) // num_parts
    parts = [shard_range(part, num_parts, dim) for part in range(num_parts)]
    return np.array([part * width + i for part, columns in enumerate(parts) for i in range(len(columns))], np.int64)


def unit_rows(vectors: Floats) -> Floats:
    """Rows divided by their norms; a zero row stays zero. By blocks: the division is in float64."""
    units = np.empty(vectors.shape, np.float32)
    for part in row_blocks(len(vectors)):
        norms = np.sqrt(np.einsum("nd,nd->n", vectors[part], vectors[part], dtype=np.float64))[:, None]
        units[part] = vectors[part] / np.where(norms > 0, norms, 1.0)
    return units


def squared_norms(vectors: Floats) -> NDArray[np.float64]:
    """[N], in float64, by blocks: squares of all at once would take twice what the vectors take."""
    squares = np.empty(len(vectors))
    for part in row_blocks(len(vectors)):
        squares[part] = np.square(vectors[part], dtype=np.float64).sum(axis=1)
    return squares


def row_blocks(num_rows: int) -> list[slice]:
    """Slices of some rows each."""
    return [slice(start, min(start + _ROWS_AT_ONCE, num_rows)) for start in range(0, num_rows, _ROWS_AT_ONCE)]
