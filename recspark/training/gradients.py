"""One torch step of the skip-gram family: from a batch and its rows to the loss and the rows' gradients.

Input rows become hidden vectors, those are scored against output rows, and what the scores want of the hidden vectors
goes back to the input rows. The loss is that of `cpu_kernel`, summed over the batch instead of a block.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.training.batches import SharedNegatives, StepBatch
from recspark.training.losses import Masked, negative_gradients, positive_gradients, sum_by_row, target_gradients
from recspark.training.token_windows import Windows

# A CPU scores as many rows at a time as its cache holds, a GPU as many as keep it busy.
_CPU_CHUNK_ROWS, _CUDA_CHUNK_ROWS = 512, 65536


def find_gradients(batch: StepBatch, input_rows: Tensor, output_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, input gradient [U, D], output gradient [R, D]) of one step, summed over its pairs by their weights.

    A pair costs -log sigmoid(h . y) of its positive plus num_negatives times the mean of -log sigmoid(-h . z) over the
    shared negatives z that the same hidden vector h does not predict; under hierarchical softmax the sum of -log
    sigmoid(+-h . v) over the inner nodes v above it.
    """
    input_gradient, output_gradient = torch.zeros_like(input_rows), torch.zeros_like(output_rows)
    loss = torch.zeros((), dtype=torch.float64, device=input_rows.device)
    if batch.num_pairs == 0:
        return loss, input_gradient, output_gradient
    token_row, token_order, starts = (_put(array, input_rows) for array in batch.tokens[1:])
    windows = Windows(batch.windows, input_rows)
    input_TD = input_rows.index_select(0, token_row)
    hidden_TD = windows.mean(input_TD) if batch.is_cbow else input_TD
    hidden_gradient = torch.zeros_like(hidden_TD)

    if batch.negatives is not None and not batch.is_cbow:
        part, hidden_gradient, output_TD = positive_gradients(
            hidden_TD, output_rows.index_select(0, token_row), windows
        )
        output_gradient[: len(input_rows)] = sum_by_row(output_TD, token_order, starts)
        loss += part
    if batch.targets.row.shape[1]:
        weights = (
            windows.weights_by_offset() if batch.targets.by_window else _put(batch.windows.total, input_rows)[:, None]
        )
        part, wanted, output_RD = target_gradients(
            hidden_TD, weights, _put(batch.targets.row, input_rows), _put(batch.targets.sign, input_rows), output_rows
        )
        loss, hidden_gradient, output_gradient = loss + part, hidden_gradient + wanted, output_gradient + output_RD
    if batch.negatives is not None:
        hidden_HD = hidden_TD if batch.is_cbow else input_rows
        part, wanted, negative_ND = _score_negatives(batch.negatives, hidden_HD, output_rows)
        output_gradient.index_add_(0, _put(batch.negatives.row, input_rows), negative_ND)
        loss += part
        (hidden_gradient if batch.is_cbow else input_gradient).add_(wanted)

    input_TD = windows.spread(hidden_gradient) if batch.is_cbow else hidden_gradient
    return loss, input_gradient.add_(sum_by_row(input_TD, token_order, starts)), output_gradient


def _score_negatives(
    negatives: SharedNegatives, hidden_HD: Tensor, output_rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    row, weight, hidden_weight, *masked = (_put(array, hidden_HD) for array in negatives)
    return negative_gradients(
        hidden_HD, output_rows.index_select(0, row), hidden_weight, weight, Masked(*masked),
        chunk_rows=_CUDA_CHUNK_ROWS if hidden_HD.is_cuda else _CPU_CHUNK_ROWS,
    )  # fmt: skip


def _put(array: NDArray[Any], like: Tensor) -> Tensor:
    """An array on the device of the rows; weights in their precision."""
    tensor = torch.from_numpy(array)
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype, non_blocking=True)
