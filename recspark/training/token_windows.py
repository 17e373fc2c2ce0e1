"""Windows as small dense matrices on the device: all sentences in one stream, cut into blocks of centres.

A block's inputs reach ``width`` tokens beyond it on both sides; its ``band`` holds each pair's weight, 0 for no pair.
So any mix of lengths costs the same a token, without padding.

Shapes: T = tokens, D = embedding_dim, P = centres of a block.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.training.batches import TokenWindows

_BLOCK = 32  # centres scored together; with a window of 5 a GEMM of 32 x 42 wastes little and is still a GEMM


class Windows:
    """The pair weights of a batch: ``band`` [blocks, P, P + 2 width], on device and in precision of ``like``."""

    def __init__(self, found: TokenWindows, like: Tensor) -> None:
        self.width, self.num_tokens = found.width, len(found.sentence)
        self._block = max(_BLOCK, self.width)
        self._num_blocks = -(-self.num_tokens // self._block)
        self.band = self._find_band(found, like.device).to(like.dtype)

    def chunks(self, num_tokens: int) -> list[slice]:
        """The blocks, as many at a time as hold about ``num_tokens`` centres."""
        size = max(1, num_tokens // self._block)
        return [slice(start, min(start + size, self._num_blocks)) for start in range(0, self._num_blocks, size)]

    def gather(self, rows_RD: Tensor, token_row_T: Tensor) -> Tensor:
        """The rows of the tokens as a stream: zero rows around them, ``width`` before and whole blocks and ``width``
        behind. What `view_inputs`, `view_centers` and `tokens` look into."""
        stream = rows_RD.new_empty(self._num_blocks * self._block + 2 * self.width, rows_RD.shape[1])
        end = self.width + self.num_tokens
        stream[: self.width] = 0
        stream[end:] = 0
        torch.index_select(rows_RD, 0, token_row_T, out=stream[self.width : end])
        return stream

    def tokens(self, stream: Tensor) -> Tensor:
        """The rows of a stream that are tokens [T, D], in place."""
        return stream[self.width : self.width + self.num_tokens]

    def view_inputs(self, stream: Tensor) -> Tensor:
        """The inputs around each block [blocks, P + 2 width, D], in place; neighbours overlap."""
        dim = stream.shape[1]
        return stream.as_strided((self._num_blocks, self._block + 2 * self.width, dim), (self._block * dim, dim, 1))

    def view_centers(self, stream: Tensor) -> Tensor:
        """The centres of each block [blocks, P, D], in place."""
        return stream[self.width : self.width + self._num_blocks * self._block].view(
            self._num_blocks, self._block, stream.shape[1]
        )

    def weights_by_offset(self) -> Tensor:
        """The weights of each centre's pairs from ``width`` before it to ``width`` behind it: [T, 2 width + 1]."""
        reach = self._block + 2 * self.width
        strides = (self._block * reach, reach + 1, 1)
        diagonals = self.band.as_strided((self._num_blocks, self._block, 2 * self.width + 1), strides)
        return diagonals.reshape(-1, 2 * self.width + 1)[: self.num_tokens]

    def mean(self, stream: Tensor) -> Tensor:
        """The weighted mean of the inputs in each token's window [T, D]; 0 where it is empty (CBOW)."""
        return torch.bmm(self._mean_band(), self.view_inputs(stream)).flatten(0, 1)[: self.num_tokens]

    def spread(self, gradient_TD: Tensor) -> Tensor:
        """The gradient of the inputs [T, D] by that of their `mean`."""
        total = torch.zeros(self._num_blocks * self._block, gradient_TD.shape[1]).to(gradient_TD)
        total[: self.num_tokens] = gradient_TD
        parts = torch.bmm(self._mean_band().transpose(1, 2), total.view(self._num_blocks, self._block, -1))
        stream = self.new_stream(parts)
        self.add_to_inputs(stream, slice(0, self._num_blocks), parts)
        return self.tokens(stream)

    def new_stream(self, like: Tensor) -> Tensor:
        """A stream of zeros [., D] for `add_to_inputs`."""
        return like.new_zeros(self._num_blocks * self._block + 2 * self.width, like.shape[-1])

    def add_to_inputs(self, stream: Tensor, blocks: slice, parts: Tensor) -> None:
        """Adds to a stream what some ``blocks`` have for their inputs (as of `view_inputs`)."""
        width, block, dim = self.width, self._block, stream.shape[1]
        # Parts that never overlap each other, since width <= block.
        for start, size in ((0, width), (width, block), (width + block, width)):
            place = (blocks.start * block + start) * dim
            into = stream.as_strided((len(parts), size, dim), (block * dim, dim, 1), place)
            into.add_(parts[:, start : start + size])

    def _mean_band(self) -> Tensor:
        return self.band / self.band.sum(2, keepdim=True).clamp_min(1e-30)

    def _find_band(self, found: TokenWindows, device: torch.device) -> Tensor:
        width, block, num_blocks = self.width, self._block, self._num_blocks
        span, total = block + 2 * width, num_blocks * block

        def centers(values_T: NDArray[Any], filler: int) -> Tensor:
            values = torch.from_numpy(values_T).to(device, non_blocking=True)
            out = torch.full((total,), filler, dtype=values.dtype, device=device)
            out[: self.num_tokens] = values
            return out.view(num_blocks, block, 1)

        sentence = centers(found.sentence, -2)
        stream = torch.full((total + 2 * width,), -1, dtype=sentence.dtype, device=device)
        stream[width : width + self.num_tokens] = sentence.flatten()[: self.num_tokens]
        distance = torch.arange(span, device=device) - width - torch.arange(block, device=device)[:, None]
        distance = distance.abs()
        is_near = sentence == stream.as_strided((num_blocks, 1, span), (block, 0, 1))
        is_near &= distance <= centers(found.reach, 0)
        weights = torch.from_numpy(found.decay).to(device, non_blocking=True)[distance.clamp_max(len(found.decay) - 1)]
        if found.share is not None:
            weights = weights * centers(found.share, 0)
        if found.is_flat is not None:
            weights = torch.where(centers(found.is_flat, 0), (distance > 0).to(weights.dtype), weights)
        return weights * is_near


def pad_rows(rows_TD: Tensor, before: int, total: int) -> Tensor:
    """The rows with zero rows before and after, ``total`` in all."""
    out = torch.zeros(total, rows_TD.shape[1], dtype=rows_TD.dtype, device=rows_TD.device)
    out[before : before + len(rows_TD)] = rows_TD
    return out
