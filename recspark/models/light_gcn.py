"""LightGCN: vectors of users and items averaged over the bipartite graph of what users did, nothing else.

    E_0 [U + N, D]          vectors by id, users first
    E_k = A E_(k-1)         A = [0 R; R' 0] with R[u, i] = degree_u^-a degree_i^-b / its largest singular value
    Y = sum of E_1 .. E_L   and E_0 where ids are kept

A is symmetric, so its gradient is the propagation itself. Without ids, row u of Y is sum over the user's items of
R[u, i] Z_i with Z = sum of E_0 .. E_(L-1): users need no vector of their own to be served (`item_queries`).
Source: He et al. 2020 (LightGCN), eq. 3 to 8, a = b = .5, layers averaged; sums are as good under cosine.
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

_POWER_STEPS = 20


class BipartiteGraph:
    """The weighted graph of users x items in both directions."""

    def __init__(self, users_UN: sp.csr_array, user_exponent: float, item_exponent: float) -> None:
        self.num_users, self.num_items = users_UN.shape
        user_degree, item_degree = (np.maximum(np.asarray(users_UN.sum(axis=axis)), 1.0) for axis in (1, 0))
        weights = sp.csr_array(
            sp.diags_array(user_degree**-user_exponent) @ users_UN @ sp.diags_array(item_degree**-item_exponent)
        )
        self.scale = 1.0 / largest_singular_value(weights)
        self.item_damping = (item_degree**-item_exponent).astype(np.float32)
        self.to_users = _Half(weights * self.scale)
        self.to_items = _Half(sp.csr_array((weights * self.scale).T))

    def propagate(self, ids: Tensor, num_layers: int, with_ids: bool) -> Tensor:
        """Y of ids [U + N, D]; differentiable. Cost: 2 x num_layers x (pairs) x D multiplications each way."""
        out: Tensor = _Propagate.apply(ids, self, num_layers, with_ids)
        return out

    def add_layers(self, x: Tensor, num_layers: int, with_ids: bool) -> Tensor:
        """`propagate` without a gradient, by Horner: y = x + A y."""
        y = x
        for _ in range(num_layers):
            users, items = y[: self.num_users], y[self.num_users :]
            y = torch.cat([self.to_users.times(items), self.to_items.times(users)]).add_(x)
        return y if with_ids else y - x

    def item_queries(self, ids: Tensor, num_layers: int) -> Tensor:
        """What a user of no vector of his own is the sum of, over his items: float32 [N, D] (`with_ids` false)."""
        below = self.add_layers(ids, num_layers - 1, with_ids=True)[self.num_users :]
        return below * torch.from_numpy(self.item_damping).to(below.device)[:, None]


class _Half:
    """One direction: a sparse matrix times dense rows, by numba on the CPU and by torch on a GPU.

    Row r has the entries ``starts[r]..starts[r + 1] - 1``.
    """

    def __init__(self, weights: sp.csr_array) -> None:
        self.starts, self._columns = weights.indptr.astype(np.int64), weights.indices.astype(np.int32)
        self._values, self._shape = weights.data.astype(np.float32), weights.shape
        self.matrix = weights
        self._on_device: Tensor | None = None

    def times(self, rows: Tensor) -> Tensor:
        """[m, n] x [n, D] -> [m, D]."""
        if rows.is_cuda:
            if self._on_device is None:
                starts, columns, values = (torch.from_numpy(a) for a in (self.starts, self._columns, self._values))
                whole = torch.sparse_csr_tensor(starts, columns.long(), values, size=self._shape)
                self._on_device = whole.to(rows.device)
            return self._on_device @ rows
        out = torch.empty(self._shape[0], rows.shape[1])
        _multiply(self.starts, self._columns, self._values, rows.contiguous().numpy(), out.numpy())
        return out


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, graph: BipartiteGraph, num_layers: int, with_ids: bool) -> Tensor:
        ctx.settings = (graph, num_layers, with_ids)
        return graph.add_layers(ids, num_layers, with_ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        graph, num_layers, with_ids = ctx.settings
        return graph.add_layers(gradient.contiguous(), num_layers, with_ids), None, None, None


def largest_singular_value(weights: sp.csr_array) -> float:
    """By power iteration from all ones, which is near it: weights are positive."""
    vector = np.ones(weights.shape[1])
    for _ in range(_POWER_STEPS):
        vector = weights.T @ (weights @ vector)
        norm = float(np.linalg.norm(vector))
        vector /= max(norm, 1e-300)
    return float(max(norm, 1e-300) ** 0.5)


def spectral_start(graph_weights: sp.csr_array, dim: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(users [U, dim], items [N, dim]): leading singular vectors times the root of their value, rows of unit length.

    By subspace iteration from seeded normal numbers (Halko et al. 2011, algorithm 4.4), 6 rounds with 16 spare
    columns. Directions that the matrix lacks are filled with small random ones.
    """
    num_columns = min(dim + 16, *graph_weights.shape)
    random = np.random.default_rng(seed)
    basis = random.standard_normal((graph_weights.shape[1], num_columns))
    for _ in range(7):
        basis = np.linalg.qr(graph_weights.T @ np.linalg.qr(graph_weights @ basis)[0])[0]
    left, values, right = np.linalg.svd(graph_weights @ basis, full_matrices=False)
    roots = np.sqrt(values[:dim])
    return tuple(_unit_rows(side[:, :dim] * roots, dim, random) for side in (left, basis @ right.T))  # type: ignore[return-value]


def _unit_rows(rows: NDArray[np.float64], dim: int, random: np.random.Generator) -> NDArray[np.float32]:
    full = np.zeros((len(rows), dim))
    full[:, : rows.shape[1]] = rows
    full += 1e-6 * random.standard_normal(full.shape)  # rows without an edge are zero
    return np.asarray(full / np.linalg.norm(full, axis=1, keepdims=True), np.float32)


@njit(cache=True, nogil=True, fastmath=True)
def _multiply(starts, columns, values, rows, out):  # type: ignore[no-untyped-def]
    dim = rows.shape[1]
    for r in range(len(starts) - 1):
        total = out[r]
        for d in range(dim):
            total[d] = 0.0
        for place in range(starts[r], starts[r + 1]):
            weight, row = values[place], rows[columns[place]]
            for d in range(dim):
                total[d] += weight * row[d]
