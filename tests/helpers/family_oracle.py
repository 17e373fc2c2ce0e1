"""The skip-gram family pair by pair in plain Python: what both backends are held against."""

import itertools

import numpy as np

from recspark.training.huffman import HuffmanTree
from recspark.training.objective import Objective
from recspark.training.pairing import BOUGHT
from recspark.training.sentences import Sentences
from recspark.training.sequence_files import Sequences


def ragged(rows: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, rows)])
    return Sequences(np.array(list(itertools.chain(*rows)), np.int32), offsets.astype(np.int64))


def find_context(objective: Objective, sentences: Sentences, center: int, low: int, high: int) -> dict[int, float]:
    """Token -> weight of a centre's window inside its sentence."""
    config, window = objective.config, sentences.windows[center]
    found = {}
    for token in range(low, high):
        distance = abs(token - center)
        if 0 < distance <= window:
            weight = config.position_decay ** (distance - 1)
            found[token] = weight / (high - low - 1) if config.window == "session" else weight
            if window == BOUGHT:
                found[token] = 1.0
    return found


def find_contexts(objective: Objective, sentences: Sentences) -> list[dict[int, float]]:
    """`find_context` of every token."""
    spans = itertools.pairwise(sentences.borders.tolist())
    return [find_context(objective, sentences, c, low, high) for low, high in spans for c in range(low, high)]


def find_pairs(objective: Objective, sentences: Sentences) -> list[tuple[int, int, float]]:
    """(hidden vector's token, centre it predicts, weight)."""
    contexts = find_contexts(objective, sentences)
    if objective.pairing.is_cbow:
        return [(c, c, 1.0) for c, context in enumerate(contexts) if context]
    return [(j, c, weight) for c, context in enumerate(contexts) for j, weight in context.items()]


def find_mixture(objective: Objective, sentences: Sentences) -> np.ndarray:
    """float64 [T, T]: hidden vectors = this x input vectors."""
    size = len(sentences.tokens)
    if not objective.pairing.is_cbow:
        return np.eye(size)
    mixture = np.zeros((size, size))
    for center, context in enumerate(find_contexts(objective, sentences)):
        for token, weight in context.items():
            mixture[center, token] = weight / sum(context.values())
    return mixture


def find_path(tree: HuffmanTree, item: int) -> list[tuple[int, int]]:
    """(inner node's output row, +1 or -1) from an item's leaf to the root."""
    num_items, node, path = (len(tree.parent) + 1) // 2, item, []
    while tree.parent[node] >= 0:
        sign = -1 if tree.is_right[node] else 1
        node = int(tree.parent[node])
        path.append((node - num_items, sign))
    return path
