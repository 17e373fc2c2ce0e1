"""One torch step of the skip-gram family: from a batch and its rows to the loss and the rows' gradients.

Input rows become hidden vectors, those are scored against output rows, and what the scores want of the hidden vectors
goes back to the input rows. The loss is that of `cpu_kernel`, summed over the batch instead of a block.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.training.batches import SharedNegatives, StepBatch, Targets
from recspark.training.losses import (
    Masked,
    find_borders,
    negative_gradients,
    positive_gradients,
    sum_by_row,
    target_gradients,
)
from recspark.training.token_windows import Windows

# A CPU scores as many rows at a time as its cache holds, a GPU as many as keep it busy.
_CPU_CHUNK_ROWS, _CUDA_CHUNK_ROWS = 512, 65536


def find_gradients(batch: StepBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, gradient of ``rows``) of one step, summed over its pairs by their weights.

    ``rows`` [U + R, D] are the input rows of the tokens' items, then the batch's output rows.

    A pair costs -log sigmoid(h . y) of its positive plus num_negatives times the mean of -log sigmoid(-h . z) over the
    shared negatives z that the same hidden vector h does not predict; under hierarchical softmax the sum of -log
    sigmoid(+-h . v) over the inner nodes v above it.
    """
    step = _Step(batch, rows)
    if batch.num_pairs:
        if batch.negatives is not None and not batch.is_cbow:
            step.score_windows()
        if batch.targets.row.shape[1]:
            step.score_targets(batch.targets)
        if batch.negatives is not None:
            step.score_negatives(batch.negatives)
        step.spread_to_inputs()
    return step.loss, step.gradient


class _Step:
    """A step's hidden vectors and the sums of what each part of its loss wants of them and of the rows."""

    def __init__(self, batch: StepBatch, rows: Tensor) -> None:
        self._batch, sizes = batch, [len(batch.tokens.items), len(batch.outputs)]
        self.loss = torch.zeros((), dtype=torch.float64, device=rows.device)
        self.gradient = torch.zeros_like(rows)
        self._input_rows, self._output_rows = rows.split_with_sizes(sizes)
        self._input_gradient, self._output_gradient = self.gradient.split_with_sizes(sizes)
        self._token_row, self._token_order, self._item_starts = (_put(a, rows) for a in batch.tokens[1:])
        self._windows = Windows(batch.windows, rows)
        self._inputs = self._windows.gather(self._input_rows, self._token_row)
        self._hidden_TD = (self._windows.mean if batch.is_cbow else self._windows.tokens)(self._inputs)
        self._wanted_TD: Tensor | None = None
        self._chunk_rows = _CUDA_CHUNK_ROWS if rows.is_cuda else _CPU_CHUNK_ROWS

    def score_windows(self) -> None:
        """Skip-gram's positives: output vectors of centres by the hidden vectors of their windows."""
        outputs = self._windows.gather(self._output_rows, self._token_row)
        loss, wanted_TD, gradient_TD = positive_gradients(self._inputs, outputs, self._windows, self._chunk_rows)
        self._add(loss, wanted_TD)
        self._output_gradient[: len(self._input_rows)] += self._sum_by_item(gradient_TD)

    def score_targets(self, targets: Targets) -> None:
        """What each token has to itself: its path, its group's negatives, in CBOW its own output vector."""
        row, sign = _put(targets.row, self._input_rows), _put(targets.sign, self._input_rows)
        by_own = _put(self._batch.windows.total, self._input_rows)[:, None]
        weights = self._windows.weights_by_offset() if targets.by_window else by_own
        loss, wanted_TD, gradient_RD = target_gradients(self._hidden_TD, weights, row, sign, self._output_rows)
        self._add(loss, wanted_TD)
        self._output_gradient += gradient_RD

    def score_negatives(self, negatives: SharedNegatives) -> None:
        """The negatives of the whole batch: by item in skip-gram, whose tokens share a hidden vector, else by token."""
        hidden_HD = self._hidden_TD if self._batch.is_cbow else self._input_rows
        row, weight, hidden_weight, *masked = (_put(array, hidden_HD) for array in negatives)
        loss, wanted_HD, gradient_ND = negative_gradients(
            hidden_HD, self._output_rows.index_select(0, row), hidden_weight, weight, Masked(*masked),
            find_borders(negatives.masked_hidden, len(hidden_HD), self._chunk_rows), self._chunk_rows,
        )  # fmt: skip
        self._add(loss, wanted_HD if self._batch.is_cbow else None)
        if not self._batch.is_cbow:
            self._input_gradient += wanted_HD
        self._output_gradient.index_add_(0, row, gradient_ND)

    def spread_to_inputs(self) -> None:
        """Passes on to the input rows what the scores want of the hidden vectors."""
        assert self._wanted_TD is not None
        input_TD = self._windows.spread(self._wanted_TD) if self._batch.is_cbow else self._wanted_TD
        self._input_gradient += self._sum_by_item(input_TD)

    def _add(self, loss: Tensor, wanted_TD: Tensor | None) -> None:
        self.loss += loss
        if wanted_TD is not None:
            self._wanted_TD = wanted_TD if self._wanted_TD is None else self._wanted_TD + wanted_TD

    def _sum_by_item(self, values_TD: Tensor) -> Tensor:
        return sum_by_row(values_TD, self._token_order, self._item_starts)


def _put(array: NDArray[Any], like: Tensor) -> Tensor:
    """An array on the device of the rows; weights in their precision."""
    tensor = torch.from_numpy(array)
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype, non_blocking=True)
