"""The rule of a step: what p, q, the variant and restarts make of a neighbour's weight.

    p .5, q 2  ->  ceiling 1, floor .5: a proposal is accepted by bias / 1, whatever it is with chance .5

Source: node2vec, Grover & Leskovec 2016, section 3.2.2; node2vec+, Liu, Hirn & Krishnan 2023 ("Accurately modeling
biased random walks on weighted networks using node2vec+", Bioinformatics 39(1)), section 2.2.
"""

from typing import NamedTuple


class Bias(NamedTuple):
    """p, q and what else decides a step, as the kernel uses them."""

    is_second_order: bool  # false for p = q = 1: every proposal is taken
    has_outlier: bool  # 1/p above the ceiling: the return edge's surplus is an area of its own
    is_plus: bool  # node2vec+: how heavy the edges are decides between in and out
    inverse_p: float
    inverse_q: float
    ceiling: float  # max(1, 1/q): no bias but the return edge's is above, in either variant
    floor: float  # min(1, 1/q) / ceiling: below this chance, any x but t is accepted
    near_wins: bool  # above the floor, neighbours of t are accepted (1/q < 1) or all others (1/q > 1)
    restart: float  # chance that a step leads back to the start instead
    gamma: float  # of node2vec+: how many standard deviations above its mean a node calls an edge tight


def make_bias(p: float, q: float, *, plus: bool = False, gamma: float = 0.0, restart: float = 0.0) -> Bias:
    """The rule of return parameter p and in-out parameter q, both > 0; ``restart`` in [0, 1).

    At q = 1 all that is not the return edge weighs the same, so node2vec+ is node2vec there.
    """
    inverse_p, inverse_q = 1.0 / p, 1.0 / q
    ceiling = max(1.0, inverse_q)
    return Bias(
        is_second_order=not p == q == 1.0,
        has_outlier=inverse_p > ceiling,
        is_plus=plus and q != 1.0,
        inverse_p=inverse_p,
        inverse_q=inverse_q,
        ceiling=ceiling,
        floor=min(1.0, inverse_q) / ceiling,
        near_wins=inverse_q < 1.0,
        restart=restart,
        gamma=gamma,
    )
