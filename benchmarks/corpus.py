"""A corpus with planted topics, and two measures of vectors learned from it.

Items are Zipf-popular and belong to one topic each. A sentence has a topic too: so much of its tokens comes from the
topic's items, the rest from the whole catalogue.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SENTENCE = 20
TOPIC_SHARE = 0.7
MIN_COUNT = 20
"""Items seen less are not scored: no model can know them."""
_CHUNK = 100_000


@dataclass(frozen=True)
class Corpus:
    """``tokens`` int32 [S, SENTENCE], ``topic`` int32 [V] of each item, ``held_out`` int32 [H, SENTENCE] unseen."""

    tokens: NDArray[np.int32]
    topic: NDArray[np.int32]
    held_out: NDArray[np.int32]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each item is in ``tokens``: int64 [V]."""
        return np.bincount(self.tokens.ravel(), minlength=len(self.topic))


def make_corpus(num_items: int, num_tokens: int, num_topics: int = 200, seed: int = 1) -> Corpus:
    """A corpus of about ``num_tokens`` tokens, and 2,000 more sentences to test on."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, num_topics, num_items).astype(np.int32)
    weights = 1.0 / np.arange(1, num_items + 1)
    by_topic = np.argsort(topic, kind="stable").astype(np.int32)
    starts = np.searchsorted(topic[by_topic], np.arange(num_topics + 1))
    inside = np.concatenate([[0.0], np.cumsum(weights[by_topic])])
    everywhere = np.cumsum(weights) / weights.sum()
    chosen = np.flatnonzero(np.diff(starts))  # topics that have items

    def draw(num_sentences: int) -> NDArray[np.int32]:
        shape = (num_sentences, SENTENCE)
        of_sentence = random.choice(chosen, num_sentences)
        low, high = inside[starts[of_sentence]], inside[starts[of_sentence + 1]]
        places = np.searchsorted(inside, low[:, None] + random.random(shape) * (high - low)[:, None], side="right") - 1
        topical = by_topic[np.clip(places, 0, num_items - 1)]
        common = np.searchsorted(everywhere, random.random(shape)).clip(max=num_items - 1)
        return np.where(random.random(shape) < TOPIC_SHARE, topical, common).astype(np.int32)

    num_sentences = max(1, num_tokens // SENTENCE)
    chunks = [draw(min(_CHUNK, num_sentences - start)) for start in range(0, num_sentences, _CHUNK)]
    return Corpus(np.concatenate(chunks), topic, draw(2000))


def write_text(tokens: NDArray[np.int32], path: Path) -> None:
    """One sentence a line, items as decimal numbers: what word2vec tools read."""
    with path.open("w") as file:
        for start in range(0, len(tokens), _CHUNK):
            rows = tokens[start : start + _CHUNK].astype(str)
            file.writelines(" ".join(row) + "\n" for row in rows.tolist())


def neighbour_purity(
    vectors: NDArray[np.float32], topic: NDArray[np.int32], counts: NDArray[np.int64], k: int = 10, seed: int = 0
) -> float:
    """Share of the k nearest items (cosine, centred) that are of the query's topic; over 2,000 items seen often.

    Chance is one over the number of topics.
    """
    known = np.flatnonzero(counts >= MIN_COUNT)
    unit = _unit(vectors[known] - vectors[known].mean(axis=0))
    queries = np.random.default_rng(seed).choice(len(known), min(2000, len(known)), replace=False)
    scores = unit[queries] @ unit.T
    scores[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argpartition(-scores, min(k, len(known) - 1), axis=1)[:, :k]
    return float((topic[known][nearest] == topic[known][queries][:, None]).mean())


def next_item_recall(
    vectors: NDArray[np.float32], held_out: NDArray[np.int32], counts: NDArray[np.int64], k: int = 20
) -> float:
    """Share of unseen sentences whose last item is among the k nearest to the mean of the five before it.

    Unit vectors, centred; candidates are the items seen often, and so are the sentences' last items.
    """
    known = np.flatnonzero(counts >= MIN_COUNT)
    row = np.full(len(counts), -1)
    row[known] = np.arange(len(known))
    unit = _unit(vectors[known] - vectors[known].mean(axis=0))
    target, context = row[held_out[:, -1]], row[held_out[:, -6:-1]]
    is_scored = (target >= 0) & (context >= 0).any(axis=1)
    target, context = target[is_scored], context[is_scored]
    queries = (unit[context] * (context >= 0)[:, :, None]).sum(axis=1)
    scores = queries @ unit.T
    own = scores[np.arange(len(target)), target]
    return float(((scores > own[:, None]).sum(axis=1) < k).mean())


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
