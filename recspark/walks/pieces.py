"""How a build of walks is cut into pieces, each of them one job and one commit: what a killed build goes on from.

An epoch's walks are cut by start node into parts of about ``walks.chunk_tokens`` nodes; small epochs go together.

    3 epochs of 2.5 chunks  ->  units 0..8: (epoch 0, parts 0 1 2), (epoch 1, ...), ...; one piece each
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One part of the walks of some epochs."""

    epochs: tuple[int, ...]
    part: int
    num_parts: int

    @property
    def units(self) -> tuple[int, ...]:
        """Numbers of the (epoch, part) pairs in it: epoch x num_parts + part."""
        return tuple(epoch * self.num_parts + self.part for epoch in self.epochs)


def count_parts(epoch_tokens: int, chunk_tokens: int) -> int:
    """Parts that an epoch of so many nodes is cut into."""
    return max(1, -(-epoch_tokens // chunk_tokens))


def plan_pieces(
    num_epochs: int, epoch_tokens: int, chunk_tokens: int, done: AbstractSet[int] = frozenset()
) -> list[Piece]:
    """The pieces that are left to do, in order; ``done`` units are left out."""
    num_parts = count_parts(epoch_tokens, chunk_tokens)
    left = [u for u in range(num_epochs * num_parts) if u not in done]
    if num_parts > 1:
        return [Piece((u // num_parts,), u % num_parts, num_parts) for u in left]
    at_once = max(1, chunk_tokens // max(1, epoch_tokens))
    return [Piece(tuple(left[i : i + at_once]), 0, 1) for i in range(0, len(left), at_once)]
