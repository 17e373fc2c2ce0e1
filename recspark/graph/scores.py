"""From weighted sums to scores: the two terms of each formula that stand still while a row is summed.

With c, support, n and r as `recspark.graph.pairs` defines them (n unweighted: with ``length_power: 0`` and no other
weights the cosine is the textbook's), N = units that hold an item, a = ``source_exponent``, b = ``candidate_exponent``:

    count    c(i,j)
    cosine   c(i,j) / (n(i)^a n(j)^b)
    jaccard  c(i,j) / (n(i) + n(j) - c(i,j))
    lift     c(i,j) N / (n(i) n(j))
    ppmi     max(0, log(c(i,j) S / (r(i) r(j)^s)) - log shift),   S = sum over k of r(k)^s,   s = ``ppmi_smoothing``
    llr      Dunning's G^2 of the table [k, n(i) - k; n(j) - k, N - n(i) - n(j) + k] with k = support(i,j); 0 where
             k N <= n(i) n(j)

With ``support: user``, llr counts users throughout (n and N too), all other scores divide by units as ever.
The table of llr holds counts, never weights: G^2 is a test on independent units, and a sum of weights is no number of
them. Weights then only decide which pairs there are (window; a pair of weight 0 is none).

Scores are computed in float64 and stored, compared and ordered as float32; equal ones by the smaller dst_idx.

Source: lift: Brin et al. 1997 ("interest"). LLR: Dunning 1993, section 5. PPMI with context smoothing and shift: Levy,
Goldberg and Dagan 2015, section 3; P(i,j) / (P(i) P_s(j)) with P(i,j) = c / C, P(i) = r(i) / C and
P_s(j) = r(j)^s / S gives the line above.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recspark.graph import top_n
from recspark.graph.blocks import UnitStats

if TYPE_CHECKING:  # workers import this module: no pydantic there
    from recspark.config.graph import GraphConfig

KINDS = {
    "count": top_n.COUNT,
    "cosine": top_n.PRODUCT,
    "jaccard": top_n.JACCARD,
    "lift": top_n.PRODUCT,
    "ppmi": top_n.PPMI,
    "llr": top_n.LLR,
}


def score_rule(
    config: "GraphConfig",
    counts: NDArray[np.int64],
    total: int,
    row_sums: NDArray[np.float64] | None = None,
) -> top_n.ScoreRule:
    """The score of a config over items with these counts [num_items] (`score_counts`); ``row_sums`` only for PPMI."""
    source_terms, candidate_terms = _terms(config, counts.astype(np.float64), total, row_sums)
    return top_n.ScoreRule(
        kind=KINDS[config.score],
        source_terms=source_terms,
        candidate_terms=candidate_terms,
        total=float(total),
        min_support=config.min_support,
        limit=min(config.num_neighbours or len(counts), len(counts)),
    )


def score_counts(config: "GraphConfig", stats: UnitStats) -> tuple[NDArray[np.int64], int]:
    """(count of each item, total) that scores divide by: of units; of users for llr where support counts users."""
    if config.score == "llr" and stats.user_counts is not None:
        return stats.user_counts, stats.num_users
    return stats.unit_counts, stats.num_units


def _terms(
    config: "GraphConfig", counts: NDArray[np.float64], total: int, row_sums: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if config.score == "cosine":
        return _power(counts, -config.source_exponent), _power(counts, -config.candidate_exponent)
    if config.score == "lift":
        return total * _power(counts, -1.0), _power(counts, -1.0)
    if config.score in ("jaccard", "llr"):
        return counts, counts
    if config.score == "ppmi":
        assert row_sums is not None
        smoothed = _power(row_sums, config.ppmi_smoothing)
        source_terms = _power(row_sums, -1.0) / config.ppmi_shift
        return source_terms, float(smoothed.sum()) * _power(row_sums, -config.ppmi_smoothing)
    return np.ones(len(counts)), np.ones(len(counts))


def _power(values: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """values^exponent, 0 where the value is 0 (an item without units has no pairs)."""
    powers = np.zeros(len(values))
    np.power(values, exponent, out=powers, where=values > 0)
    return powers
