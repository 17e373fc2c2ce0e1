"""The second stage: full vectors in half or a quarter of their size, memory-mapped, that rank candidates again.

A file `refine-00000.npy` holds one row of codes an item of shard 0, in ascending item_idx; row by row the order of
the shard's rows in `ids.parquet`. All share `refine-scale.npy`, float32[2, dim]: vector = scale[0] + scale[1] * code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.index.engine import faiss
from recspark.index.metric import L2, Floats, Space, row_blocks

Codes = NDArray[np.float16] | NDArray[np.uint8]

_BLOCK_BYTES = 64 << 20
"""Candidate vectors decoded at a time."""
_SQ8_STEPS = 255
_SQ8_SLACK = 2.0
_FP16_MAX = 65_504.0


def fit_scale(kind: str, space: Space, vectors: Floats) -> Floats:
    """float32[2, D] (offset, step) for ``fp16`` or ``sq8`` codes of these vectors.

    fp16 divides by the largest absolute value, so that nothing overflows; sq8 spans each column's own range.
    """
    scale = np.zeros((2, vectors.shape[1]), np.float32)
    low, high = np.full_like(scale[0], np.inf), np.full_like(scale[0], -np.inf)
    for part in row_blocks(len(vectors)):
        block = space.comparable(vectors[part])
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    if kind == "fp16":
        scale[1] = max(float(high.max()), -float(low.min())) or 1.0
    else:
        scale[0] = low
        spans = high - low
        scale[1] = np.where(spans > 0, spans, 1.0) / _SQ8_STEPS
    return scale


def encode_rows(kind: str, space: Space, vectors: Floats, rows: NDArray[np.int64], scale: Floats) -> Codes:
    """Codes [R, D] of some rows of all vectors, by blocks, so that nothing is copied whole."""
    codes = np.empty((len(rows), vectors.shape[1]), np.float16 if kind == "fp16" else np.uint8)
    for part in row_blocks(len(rows)):
        codes[part] = encode_refine(kind, space.comparable(vectors[rows[part]]), scale)
    return codes


def encode_refine(kind: str, vectors: Floats, scale: Floats) -> Codes:
    """Codes [N, D] of comparable vectors."""
    steps = (vectors - scale[0]) / scale[1]
    codes: Codes = steps.astype(np.float16) if kind == "fp16" else np.rint(steps).clip(0, _SQ8_STEPS).astype(np.uint8)
    return codes


@dataclass(frozen=True)
class RefineVectors:
    """The opened codes of every shard, and their scale."""

    codes: list[Codes]
    scale: Floats

    def similarities(self, space: Space, queries: Floats, shards: NDArray[np.int32], rows: NDArray[np.int64]) -> Floats:
        """sim(query, item) float32[Q, K] for the items at (shard, row) [Q, K], from float32[Q, dim] queries."""
        comparable = space.comparable(queries)
        is_l2 = space.metric == L2
        scaled = comparable * self.scale[1]
        offset = comparable @ self.scale[0]
        block = max(_BLOCK_BYTES // (4 * max(rows.shape[1], 1) * rows_width(self.scale)), 1)
        found = np.empty(rows.shape, np.float32)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            codes = self._decode(shards[part], rows[part])
            # One inner loop a pair: equal vectors get equal scores wherever they stand, as in no blocked product.
            if is_l2:
                apart = codes * self.scale[1] + self.scale[0] - comparable[part, None, :]
                np.negative(np.einsum("qkd,qkd->qk", apart, apart), out=found[part])
            else:
                np.einsum("qd,qkd->qk", scaled[part], codes, out=found[part])
        return found if is_l2 else found + offset[:, None]

    def find_misfit(self, kind: str, vectors: Floats) -> str | None:
        """Why further comparable vectors [N, dim] cannot be coded on this scale; None where they can."""
        steps = (vectors - self.scale[0]) / self.scale[1]
        low, high = (-_SQ8_SLACK, _SQ8_STEPS + _SQ8_SLACK) if kind == "sq8" else (-_FP16_MAX, _FP16_MAX)
        is_inside = bool((steps >= low).all() and (steps <= high).all())
        return None if is_inside else f"values lie beyond what the {kind} codes can hold"

    def _decode(self, shards: NDArray[np.int32], rows: NDArray[np.int64]) -> Floats:
        width, flat = rows_width(self.scale), rows.ravel()
        if len(self.codes) == 1:
            return _to_floats(self.codes[0].take(flat, axis=0)).reshape(*rows.shape, width)
        codes = np.empty((rows.size, width), self.codes[0].dtype)
        for shard, own in enumerate(self.codes):
            here = np.flatnonzero(shards.ravel() == shard)
            codes[here] = own.take(flat[here], axis=0)
        return _to_floats(codes).reshape(*rows.shape, width)


def _to_floats(codes: Codes) -> Floats:
    """float32 of codes [N, D]; fp16 by faiss, whose conversion is ten times as quick as numpy's and as exact."""
    if codes.dtype != np.float16:
        return codes.astype(np.float32)
    halves = faiss.ScalarQuantizer(codes.shape[1], faiss.ScalarQuantizer.QT_fp16)
    floats: Floats = halves.decode(codes.view(np.uint8))
    return floats


def rows_width(scale: Floats) -> int:
    """Dimensions of a row of codes."""
    return int(scale.shape[1])
