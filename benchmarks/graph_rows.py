"""Rows of a graph as arrays, and how far two sides' rows agree.

Two sides that sum weights in another order may order near ties differently, so that rows differ where nothing is wrong:
such rows are counted apart, and any other difference is an error.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.lines import BenchmarkError
from recspark.contracts import columns as c

TOLERANCE = 1e-5
"""Relative, of scores: float32 holds them to 6e-8, sums of some thousand weights to less."""


@dataclass(frozen=True)
class GraphRows:
    """Neighbours of ``src[r]``, best first, are ``dst[indptr[r]:indptr[r + 1]]``; ``src`` ascending, no row empty."""

    src: NDArray[np.int32]
    indptr: NDArray[np.int64]
    dst: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]


def rows_from_sizes(
    sizes: NDArray[np.int32], dst: NDArray[np.int32], scores: NDArray[np.float32], counts: NDArray[np.int32]
) -> GraphRows:
    """From one size an item, 0 for those without neighbours."""
    src = np.flatnonzero(sizes).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(sizes[src], dtype=np.int64)])
    return GraphRows(src, indptr, dst[: indptr[-1]], scores[: indptr[-1]], counts[: indptr[-1]])


def rows_from_table(table: pa.Table) -> GraphRows:
    """From rows of `item_graph`, in any order."""
    rows = table.sort_by(c.SRC_IDX).combine_chunks()
    dst, scores, counts = (rows[name].combine_chunks() for name in (c.DST_IDX, c.SCORE, c.COUNT))
    sizes = dst.value_lengths().to_numpy().astype(np.int64)
    return GraphRows(
        rows[c.SRC_IDX].to_numpy(),
        np.concatenate([[0], np.cumsum(sizes)]),
        *(column.flatten().to_numpy() for column in (dst, scores, counts)),
    )


def compare_rows(ours: GraphRows, theirs: GraphRows) -> dict[str, int]:
    """{"rows", "neighbours", "equal_rows", "tied_rows"}; a tied row has neighbours of equal scores in another order.

    Raises: BenchmarkError when other items have rows, or a row differs by more than ties: in scores place by place, or
        in the support of a neighbour that both have.
    """
    if not (np.array_equal(ours.src, theirs.src) and np.array_equal(ours.indptr, theirs.indptr)):
        raise BenchmarkError(
            f"the sides disagree: {len(ours.src):,} rows of {len(ours.dst):,} neighbours in all against "
            f"{len(theirs.src):,} of {len(theirs.dst):,}"
        )
    has_order = (ours.dst == theirs.dst) & (ours.counts == theirs.counts)
    is_close = np.isclose(ours.scores, theirs.scores, rtol=TOLERANCE, atol=0)
    row = np.repeat(np.arange(len(ours.src)), np.diff(ours.indptr))
    others = np.unique(row[~has_order])
    wrong = set(row[~is_close].tolist()) | {int(r) for r in others if not _has_same_supports(ours, theirs, int(r))}
    if wrong:
        raise BenchmarkError(
            f"the sides disagree: {len(wrong):,} of {len(ours.src):,} rows differ by more than the order of ties, the "
            f"first is that of item {ours.src[min(wrong)]}"
        )
    return {
        "rows": len(ours.src),
        "neighbours": len(ours.dst),
        "equal_rows": len(ours.src) - len(others),
        "tied_rows": len(others),
    }


def _has_same_supports(ours: GraphRows, theirs: GraphRows, row: int) -> bool:
    """Whether neighbours that both sides have stand on as many sessions."""
    own = slice(ours.indptr[row], ours.indptr[row + 1])
    _, left, right = np.intersect1d(ours.dst[own], theirs.dst[own], return_indices=True)
    return bool((ours.counts[own][left] == theirs.counts[own][right]).all())
