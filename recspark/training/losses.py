"""Losses and their gradients, written out: what autograd would give, without its graph and its dense intermediates.

Shapes: T = tokens of a batch, D = embedding_dim, H = hidden vectors, U = distinct items, R = distinct output rows,
N = negatives, L = targets of a token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recspark.training.token_windows import Windows, pad_rows


def positive_gradients(
    hidden: Tensor, output: Tensor, windows: Windows, chunk_tokens: int = 512
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, hidden gradient [T, D], output gradient [T, D]) of all pairs inside the windows, summed by their weights.

    ``hidden`` and ``output`` are streams of `Windows.gather`. A pair of a centre c and a token j of its window costs
    -log sigmoid(hidden_j . output_c). ``chunk_tokens`` at a time, so that what is computed of them stays in cache.

    Source: Mikolov et al. 2013, eq. 4, first term.
    """
    inputs, centers = windows.view_inputs(hidden), windows.view_centers(output)
    input_gradient, output_gradient = windows.new_stream(hidden), torch.empty_like(centers)
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for blocks in windows.chunks(chunk_tokens):
        band = windows.band[blocks]
        scores = torch.bmm(centers[blocks], inputs[blocks].transpose(1, 2)).neg_()
        loss += torch.dot(F.softplus(scores).view(-1), band.view(-1)).double()
        slope = scores.sigmoid_().mul_(band).neg_()
        torch.bmm(slope, inputs[blocks], out=output_gradient[blocks])
        windows.add_to_inputs(input_gradient, blocks, torch.bmm(slope.transpose(1, 2), centers[blocks]))
    return loss, windows.tokens(input_gradient), output_gradient.flatten(0, 1)[: windows.num_tokens]


def target_gradients(
    hidden_TD: Tensor, weight_TW: Tensor, row_TL: Tensor, sign_TL: Tensor, output_RD: Tensor, chunk_tokens: int = 512
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, hidden gradient [T, D], output gradient [R, D]) of each token's own output rows, summed by weights.

    Row ``row_TL`` of token t costs -log sigmoid(sign x hidden . output), nothing where the sign is 0. It is scored by
    the hidden vectors from W // 2 tokens before t to as many behind it, with ``weight_TW``; with W = 1 by its own.

    Source: Mikolov et al. 2013, eq. 3 (hierarchical softmax); Grbovic & Cheng 2018, eq. 5 (negatives of a market).
    """
    (num_tokens, span), dim, half = weight_TW.shape, hidden_TD.shape[1], weight_TW.shape[1] // 2
    stream = pad_rows(hidden_TD, half, num_tokens + 2 * half)
    gradient, output_gradient = torch.zeros_like(stream), torch.zeros_like(output_RD)
    loss = torch.zeros((), dtype=torch.float64, device=hidden_TD.device)
    views = stream.as_strided((num_tokens, span, dim), (dim, dim, 1))
    for start in range(0, num_tokens, chunk_tokens):
        part = slice(start, min(start + chunk_tokens, num_tokens))
        targets = output_RD.index_select(0, row_TL[part].flatten()).view(-1, row_TL.shape[1], dim)
        sign = sign_TL[part, None]
        scores = torch.bmm(views[part], targets.transpose(1, 2)) * sign
        weights = weight_TW[part, :, None] * sign.abs()
        loss += (F.softplus(-scores) * weights).sum().double()
        slope = -torch.sigmoid(-scores) * weights * sign
        output_gradient.index_add_(
            0, row_TL[part].flatten(), torch.bmm(slope.transpose(1, 2), views[part]).flatten(0, 1)
        )
        by_offset = torch.bmm(slope, targets)
        for offset in range(span):
            gradient[part.start + offset : part.stop + offset] += by_offset[:, offset]
    return loss, gradient[half : half + num_tokens], output_gradient


class Masked(NamedTuple):
    """What does not count: ``weight`` [M] float32 of hidden vector ``hidden`` [M], ascending, with ``negative`` [M]."""

    hidden: Tensor
    negative: Tensor
    weight: Tensor


def find_borders(masked_hidden_M: NDArray[np.int64], num_hidden: int, chunk_rows: int = 512) -> list[int]:
    """Where the chunks of `negative_gradients` begin among the ascending ``masked_hidden``, and where the last ends."""
    starts = [*range(0, num_hidden, chunk_rows), num_hidden]
    borders: list[int] = np.searchsorted(masked_hidden_M, starts).tolist()
    return borders


def negative_gradients(
    hidden_HD: Tensor,
    negative_ND: Tensor,
    weight_H: Tensor,
    weight_N: Tensor,
    masked: Masked,
    borders: Sequence[int],
    chunk_rows: int = 512,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, hidden gradient [H, D], negative gradient [N, D]) of shared negatives, summed.

    Each hidden vector costs weight_H x weight_N x -log sigmoid(-hidden_h . negative_n) for every negative that is not
    ``masked``. Pairs with the same hidden vector share one score, so in skip-gram the GEMM is over distinct items, not
    tokens; weights go onto its sides, not onto the scores. ``chunk_rows`` at a time, so that the scores stay in the
    cache; ``borders`` are those of `find_borders`, which a GPU would have to be waited for.

    Source: Mikolov et al. 2013, eq. 4, second term, with its expectation taken over shared draws (Ji et al. 2016).
    """
    hidden_gradient, negative_gradient = torch.empty_like(hidden_HD), torch.zeros_like(negative_ND)
    loss = torch.zeros((), dtype=torch.float64, device=hidden_HD.device)
    weighted_negative_ND, weighted_hidden_HD = negative_ND * weight_N[:, None], hidden_HD * weight_H[:, None]
    for chunk, start in enumerate(range(0, len(hidden_HD), chunk_rows)):
        rows = slice(start, start + chunk_rows)
        part = Masked(*(values[borders[chunk] : borders[chunk + 1]] for values in masked))
        cell = (part.hidden - start) * len(negative_ND) + part.negative
        scores = hidden_HD[rows] @ negative_ND.T
        costs = F.softplus(scores)
        loss += torch.dot(weight_H[rows], costs @ weight_N).double()
        loss -= (costs.view(-1)[cell] * part.weight * weight_N[part.negative]).sum().double()
        slope = scores.sigmoid_()
        # Taken off as a share of the row's pairs: a cell may be masked for some of its tokens only.
        off = slope.view(-1)[cell] * (part.weight / weight_H[part.hidden])
        slope.view(-1).scatter_add_(0, cell, -off)
        torch.mul(slope @ weighted_negative_ND, weight_H[rows, None], out=hidden_gradient[rows])
        negative_gradient.addmm_(slope.T, weighted_hidden_HD[rows])
    return loss, hidden_gradient, negative_gradient * weight_N[:, None]


def sum_by_row(values_TD: Tensor, token_order_T: Tensor, row_starts_U: Tensor) -> Tensor:
    """The sum of each row's tokens [U, D]: those of row u are ``token_order_T[row_starts_U[u]:row_starts_U[u + 1]]``.

    The order of the sum is fixed, on a GPU too.
    """
    return F.embedding_bag(token_order_T, values_TD, row_starts_U, mode="sum")


class LossSum:
    """What a rank's batches have cost, kept on its device: it is waited for only when it is asked for."""

    def __init__(self, device: str) -> None:
        self._loss, self._pairs = torch.zeros((), dtype=torch.float64, device=device), 0

    def add(self, loss: Tensor, num_pairs: int) -> None:
        """Counts a batch."""
        self._loss += loss.detach()
        self._pairs += num_pairs

    def take(self) -> tuple[float, int]:
        """(loss sum, pairs) since the last call; waits for the device."""
        taken = float(self._loss), self._pairs
        self._loss.zero_()
        self._pairs = 0
        return taken
