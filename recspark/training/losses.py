"""Losses and their gradients, written out: what autograd would give, without its graph and its dense intermediates.

Shapes: T = tokens of a batch, D = embedding_dim, U = distinct input rows, N = negatives, P = tokens of a block.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 32  # centres scored together; with a window of 5 a GEMM of 32 x 42 wastes little and is still a GEMM


def positive_gradients(
    input_TD: Tensor, output_TD: Tensor, sentence_T: Tensor, window_T: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, input gradient [T, D], output gradient [T, D]) of all pairs inside the windows, summed.

    A pair is a centre c and an input token j of its sentence with 0 < |j - c| <= window_T[c] (<= ``window``); it costs
    -log sigmoid(input_j . output_c). Tokens of all sentences lie in one stream that is cut into blocks of centres;
    inputs reach ``window`` beyond their block. So any mix of lengths costs the same a token, without padding.

    Source: Mikolov et al. 2013, eq. 4, first term.
    """
    num_tokens, dim = input_TD.shape
    block = max(_BLOCK, window)
    num_blocks = -(-num_tokens // block)
    band = _find_band(sentence_T, window_T, window, block, num_blocks)
    stream = _pad(input_TD, window, num_blocks * block + 2 * window)
    reach = block + 2 * window
    inputs = stream.as_strided((num_blocks, reach, dim), (block * dim, dim, 1))
    centers = _pad(output_TD, 0, num_blocks * block).view(num_blocks, block, dim)
    scores = torch.bmm(centers, inputs.transpose(1, 2))
    loss = (F.softplus(-scores) * band).sum().double()
    slope = -torch.sigmoid(-scores) * band
    output_gradient = torch.bmm(slope, inputs).view(-1, dim)[:num_tokens]
    input_gradient = _add_overlapping(torch.bmm(slope.transpose(1, 2), centers), window, block)
    return loss, input_gradient[window : window + num_tokens], output_gradient


class MaskedNegatives(NamedTuple):
    """What does not count: ``pairs`` [M] float32 pairs of input ``row`` [M], ascending, with ``negative`` [M]."""

    row: Tensor
    negative: Tensor
    pairs: Tensor


def negative_gradients(
    input_UD: Tensor,
    negative_ND: Tensor,
    pairs_U: Tensor,
    weight_N: Tensor,
    masked: MaskedNegatives,
    chunk_rows: int = 512,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, input gradient [U, D], negative gradient [N, D]) of shared negatives, summed.

    Each of a row's ``pairs_U`` pairs costs weight_N x -log sigmoid(-input_u . negative_n) for every negative that is
    not ``masked``. Pairs with the same input share one score, so the GEMM is over distinct rows, not tokens; weights
    go onto its sides, not onto the scores. ``chunk_rows`` at a time, so that the scores stay in the cache.

    Source: Mikolov et al. 2013, eq. 4, second term, with its expectation taken over shared draws (Ji et al. 2016).
    """
    input_gradient, negative_gradient = torch.empty_like(input_UD), torch.zeros_like(negative_ND)
    loss = torch.zeros((), dtype=torch.float64, device=input_UD.device)
    weighted_negative_ND, weighted_input_UD = negative_ND * weight_N[:, None], input_UD * pairs_U[:, None]
    starts = range(0, len(input_UD), chunk_rows)
    stops = torch.searchsorted(masked.row, torch.tensor([*starts, len(input_UD)], device=masked.row.device)).tolist()
    for chunk, start in enumerate(starts):
        rows = slice(start, start + chunk_rows)
        part = MaskedNegatives(*(values[stops[chunk] : stops[chunk + 1]] for values in masked))
        cell = (part.row - start) * len(negative_ND) + part.negative
        scores = input_UD[rows] @ negative_ND.T
        costs = F.softplus(scores)
        loss += torch.dot(pairs_U[rows], costs @ weight_N).double()
        loss -= (costs.view(-1)[cell] * part.pairs * weight_N[part.negative]).sum().double()
        slope = scores.sigmoid_()
        # Taken off as a share of the row's pairs: a cell may be masked for some of its tokens only.
        off = slope.view(-1)[cell] * (part.pairs / pairs_U[part.row])
        slope.view(-1).scatter_add_(0, cell, -off)
        torch.mul(slope @ weighted_negative_ND, pairs_U[rows, None], out=input_gradient[rows])
        negative_gradient.addmm_(slope.T, weighted_input_UD[rows])
    return loss, input_gradient, negative_gradient * weight_N[:, None]


def sum_by_row(values_TD: Tensor, token_order_T: Tensor, row_starts_U: Tensor) -> Tensor:
    """The sum of each row's tokens [U, D]: those of row u are ``token_order_T[row_starts_U[u]:row_starts_U[u + 1]]``.

    The order of the sum is fixed, on a GPU too.
    """
    return F.embedding_bag(token_order_T, values_TD, row_starts_U, mode="sum")


def _find_band(sentence_T: Tensor, window_T: Tensor, window: int, block: int, num_blocks: int) -> Tensor:
    """Which (centre, input) of each block are pairs: float32 [blocks, P, P + 2 window]."""
    device = sentence_T.device
    reach = block + 2 * window
    stream = torch.full((num_blocks * block + 2 * window,), -1, dtype=sentence_T.dtype, device=device)
    stream[window : window + len(sentence_T)] = sentence_T
    centers = torch.full((num_blocks * block,), -2, dtype=sentence_T.dtype, device=device)
    centers[: len(sentence_T)] = sentence_T
    windows = torch.zeros(num_blocks * block, dtype=window_T.dtype, device=device)
    windows[: len(window_T)] = window_T
    distance = torch.arange(reach, device=device)[None] - window - torch.arange(block, device=device)[:, None]
    distance = torch.where(distance == 0, reach, distance.abs()).to(window_T.dtype)
    same = centers.view(num_blocks, block, 1) == stream.as_strided((num_blocks, 1, reach), (block, 0, 1))
    return (same & (distance[None] <= windows.view(num_blocks, block, 1))).float()


def _pad(rows_TD: Tensor, before: int, total: int) -> Tensor:
    """The rows with zero rows before and after, ``total`` in all."""
    out = torch.zeros(total, rows_TD.shape[1], device=rows_TD.device)
    out[before : before + len(rows_TD)] = rows_TD
    return out


def _add_overlapping(parts: Tensor, window: int, block: int) -> Tensor:
    """Adds up parts [blocks, P + 2 window, D] of which each starts P after the last: [blocks x P + 2 window, D]."""
    num_blocks, _, dim = parts.shape
    total = torch.zeros(num_blocks * block + 2 * window, dim, device=parts.device)
    total[window : window + num_blocks * block] = parts[:, window : window + block].reshape(-1, dim)
    # The edges of one side never overlap each other, since window <= block.
    strides, edge = (block * dim, dim, 1), (num_blocks, window, dim)
    total.as_strided(edge, strides).add_(parts[:, :window])
    total.as_strided(edge, strides, (block + window) * dim).add_(parts[:, block + window :])
    return total
