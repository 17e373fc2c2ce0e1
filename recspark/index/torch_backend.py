"""The optional torch backend: k-means, OPQ and PQ as matrix products, on CUDA where there is one.

What it trains is copied into an ordinary faiss index, and its codes into that index's lists: the file is the one
faiss-cpu would have written. Tests run it on the CPU; no GPU has seen it yet. On CUDA, sums of a cluster run in any
order, so two trainings agree to rounding only.

Sources: Lloyd's k-means as faiss runs it (10 rounds for lists, 25 for codes, an empty cluster takes half of a large
one); product quantization of residuals, Jegou et al. 2011; the rotation, Ge et al. 2013, "Optimized product
quantization", non-parametric solution.

Shapes: P = parts quantised side by side, N = points, D = dimensions a part, K = centroids a part.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recspark.index.engine import FaissIndex, faiss, inner_index, rotation_of
from recspark.index.metric import Floats
from recspark.index.plan import IndexPlan

_LIST_ROUNDS, _CODE_ROUNDS, _ROTATION_ROUNDS = 10, 25, 20
_CODE_SAMPLE = 65_536
"""Residuals that train codes and rotation, as in faiss."""
_BLOCK_VALUES = 1 << 25
"""Distances held at a time: 128 MiB."""
_NUDGE = 1 / 1024
"""By so much, up and down, the halves of a split cluster start apart; faiss' own."""


def choose_device() -> torch.device:
    """This rank's GPU where CUDA has one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def train_with_torch(
    index: FaissIndex, plan: IndexPlan, sample: Floats, seed: int, device: torch.device | None = None
) -> None:
    """Trains an empty index on float32[S, padded_dim] and writes centroids, codebooks and rotation into it."""
    draw = torch.Generator().manual_seed(seed)
    points_ND = torch.from_numpy(np.ascontiguousarray(sample)).to(device or choose_device())
    if plan.opq:
        rotation_DD = learn_rotation(_draw_rows(points_ND, _CODE_SAMPLE, draw), plan.m, 2**plan.nbits, draw)
        _set_rotation(rotation_of(index), rotation_DD)
        points_ND = points_ND @ rotation_DD.T
    inner = inner_index(index)
    centroids_KD = learn_centroids(points_ND[None], plan.nlist, _LIST_ROUNDS, draw)[0]
    inner.quantizer.reset()
    inner.quantizer.add(_to_array(centroids_KD))
    if plan.kind == "ivf_pq":
        few_ND = _draw_rows(points_ND, _CODE_SAMPLE, draw)
        residuals_ND = few_ND - centroids_KD[nearest(few_ND[None], centroids_KD[None])[0]]
        codebooks_PKD = learn_centroids(split_parts(residuals_ND, plan.m), 2**plan.nbits, _CODE_ROUNDS, draw)
        faiss.copy_array_to_vector(_to_array(codebooks_PKD).ravel(), inner.pq.centroids)
    inner.is_trained = index.is_trained = True
    if plan.kind == "ivf_pq":
        inner.precompute_table()


def add_with_torch(
    index: FaissIndex,
    plan: IndexPlan,
    blocks: Iterator[tuple[NDArray[np.int64], Floats]],
    device: torch.device | None = None,
) -> None:
    """Encodes blocks of (ids [B], points float32[B, padded_dim]) and adds them to the index's lists; in place."""
    device, inner = device or choose_device(), inner_index(index)
    centroids_KD = torch.from_numpy(inner.quantizer.reconstruct_n(0, plan.nlist)).to(device)
    rotation_DD = _get_rotation(rotation_of(index), device) if plan.opq else None
    codebooks_PKD = None
    if plan.kind == "ivf_pq":
        shape = (plan.m, 2**plan.nbits, plan.padded_dim // plan.m)
        codebooks_PKD = torch.from_numpy(faiss.vector_to_array(inner.pq.centroids).reshape(shape)).to(device)
    for ids, points in blocks:
        points_ND = torch.from_numpy(np.ascontiguousarray(points)).to(device)
        points_ND = points_ND if rotation_DD is None else points_ND @ rotation_DD.T
        lists_N = nearest(points_ND[None], centroids_KD[None])[0]
        if codebooks_PKD is None:
            codes = _to_array(points_ND).view(np.uint8)
        else:
            residuals = split_parts(points_ND - centroids_KD[lists_N], plan.m)
            codes = nearest(residuals, codebooks_PKD).T.contiguous().cpu().numpy().astype(np.uint8)
        _fill_lists(inner, lists_N.cpu().numpy(), ids, codes)
    index.ntotal = inner.ntotal


def learn_centroids(points_PND: torch.Tensor, num_centroids: int, rounds: int, draw: torch.Generator) -> torch.Tensor:
    """[P, K, D] centroids of each part by k-means, from K points drawn at random."""
    start_K = torch.randperm(points_PND.shape[1], generator=draw)[:num_centroids]
    centroids_PKD = points_PND[:, start_K.to(points_PND.device)].clone()
    for _ in range(rounds):
        centroids_PKD = _move(points_PND, nearest(points_PND, centroids_PKD), centroids_PKD)
    return centroids_PKD


def nearest(points_PND: torch.Tensor, centroids_PKD: torch.Tensor) -> torch.Tensor:
    """int64 [P, N], the nearest centroid of each point."""
    num_parts, num_centroids = centroids_PKD.shape[:2]
    block = max(_BLOCK_VALUES // (num_parts * num_centroids), 1)
    squares_P1K = centroids_PKD.square().sum(-1)[:, None, :]
    turned_PDK = centroids_PKD.transpose(1, 2)
    found = [
        torch.baddbmm(squares_P1K, points_PND[:, start : start + block], turned_PDK, alpha=-2).argmin(-1)
        for start in range(0, points_PND.shape[1], block)
    ]
    return torch.cat(found, dim=1)


def learn_rotation(points_ND: torch.Tensor, num_parts: int, num_centroids: int, draw: torch.Generator) -> torch.Tensor:
    """[D, D] orthogonal A such that A x is coded with little error: codes and rotation learned in turn."""
    dim = points_ND.shape[1]
    centred_ND = points_ND - points_ND.mean(0)
    rotation_DD: torch.Tensor = torch.linalg.qr(torch.randn(dim, dim, generator=draw))[0].to(points_ND)
    codebooks_PKD = None
    for _ in range(_ROTATION_ROUNDS):
        parts_PND = split_parts(centred_ND @ rotation_DD.T, num_parts)
        if codebooks_PKD is None:
            codebooks_PKD = learn_centroids(parts_PND, num_centroids, _CODE_ROUNDS, draw)
        codes_PN = nearest(parts_PND, codebooks_PKD)
        codebooks_PKD = _move(parts_PND, codes_PN, codebooks_PKD)
        index_PND = codes_PN[:, :, None].expand(-1, -1, codebooks_PKD.shape[2])
        decoded_ND = codebooks_PKD.gather(1, index_PND).transpose(0, 1).reshape(len(points_ND), dim)
        left, _, right = torch.linalg.svd(decoded_ND.T @ centred_ND)  # Procrustes: the rotation that meets the codes
        rotation_DD = left @ right
    return rotation_DD


def split_parts(points_ND: torch.Tensor, num_parts: int) -> torch.Tensor:
    """[P, N, D / P]: consecutive columns are a part, as faiss' product quantizer has them."""
    return points_ND.reshape(len(points_ND), num_parts, -1).transpose(0, 1).contiguous()


def _move(points_PND: torch.Tensor, nearest_PN: torch.Tensor, centroids_PKD: torch.Tensor) -> torch.Tensor:
    """Each centroid in the mean of its points; one without any takes half of one that has many."""
    num_parts, num_centroids, dim = centroids_PKD.shape
    flat_X = (nearest_PN + num_centroids * torch.arange(num_parts, device=nearest_PN.device)[:, None]).ravel()
    sums = torch.zeros(num_parts * num_centroids, dim, device=points_PND.device)
    sums.index_add_(0, flat_X, points_PND.reshape(-1, dim))
    counts_PK = torch.bincount(flat_X, minlength=len(sums)).view(num_parts, num_centroids)
    moved_PKD = sums.view_as(centroids_PKD) / counts_PK.clamp(min=1)[:, :, None]
    for part in torch.nonzero((counts_PK == 0).any(1)).ravel().tolist():
        empty = torch.nonzero(counts_PK[part] == 0).ravel()
        large = counts_PK[part].argsort(descending=True, stable=True)[torch.arange(len(empty)) % num_centroids]
        moved_PKD[part, empty] = moved_PKD[part, large] * (1 + _NUDGE)
        moved_PKD[part, large] = moved_PKD[part, large] * (1 - _NUDGE)
    return moved_PKD


def _fill_lists(inner: FaissIndex, lists_N: NDArray[np.int64], ids: NDArray[np.int64], codes: NDArray[Any]) -> None:
    """Appends codes to the lists they belong to, in the order given."""
    order = np.argsort(lists_N, kind="stable")
    ids, codes = np.ascontiguousarray(ids[order]), np.ascontiguousarray(codes[order])
    chosen, starts = np.unique(lists_N[order], return_index=True)
    for list_no, start, stop in zip(chosen.tolist(), starts, [*starts[1:], len(ids)], strict=True):
        part = [faiss.swig_ptr(array[start:stop]) for array in (ids, codes)]
        inner.invlists.add_entries(list_no, int(stop - start), *part)
    inner.ntotal += len(ids)


def _draw_rows(points_ND: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    if len(points_ND) <= size:
        return points_ND
    return points_ND[torch.randperm(len(points_ND), generator=draw)[:size].to(points_ND.device)]


def _set_rotation(rotation: FaissIndex, rotation_DD: torch.Tensor) -> None:
    faiss.copy_array_to_vector(_to_array(rotation_DD).ravel(), rotation.A)
    rotation.have_bias, rotation.is_trained = False, True
    rotation.set_is_orthonormal()


def _get_rotation(rotation: FaissIndex, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(faiss.vector_to_array(rotation.A).reshape(rotation.d_out, rotation.d_in)).to(device)


def _to_array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
