"""What a model of the skip-gram family fits, as arrays that both backends share.

                      hidden vector at a token         what it predicts the centre by
kind  skip_gram       the token's input vector         objective  negative_sampling     its output vector against noise
      cbow            the mean of its window                      hierarchical_softmax  the inner nodes above it
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.training.groups import GroupNoise, build_group_noise, draw_group_negatives
from recspark.training.huffman import HuffmanTree, build_huffman_tree, find_paths
from recspark.training.negatives import NoiseDistribution, build_noise, keep_probabilities
from recspark.training.pairing import Pairing, build_pairing, sum_weights
from recspark.training.sentences import Sentences, check_items, draw_sentences
from recspark.training.sequence_files import Sequences


@dataclass(frozen=True)
class Place:
    """Where a batch stands: ``step`` counts within the epoch, ``first_row`` within the global batch."""

    epoch: int
    step: int
    global_step: int
    first_row: int


@dataclass(frozen=True)
class Objective:
    """Who predicts what against what: ``noise`` for negative sampling or ``tree`` for hierarchical softmax.

    ``keep`` float32 [V] as of `keep_probabilities`; ``groups`` where negatives come from an item's group too.
    """

    config: TrainingConfig
    seed: int
    pairing: Pairing
    keep: NDArray[np.float32]
    noise: NoiseDistribution
    tree: HuffmanTree | None
    groups: GroupNoise | None

    @property
    def num_items(self) -> int:
        """Rows of either table; of a tree's inner nodes, the last row stays unused."""
        return len(self.keep)

    def draw(self, batch: Sequences, place: Place) -> Sentences:
        """A batch's sentences, the same whoever holds them.

        Raises: DataError when a sequence holds an item that `items` does not.
        """
        check_items(batch.values, self.num_items)
        return draw_sentences(batch, self.keep, self.config, self.seed, place.epoch, place.step, place.first_row)

    def draw_group_negatives(self, sentences: Sentences, place: Place) -> NDArray[np.int32]:
        """Items int32 [T, G] of each token's own group, -1 for those that do not count; G = 0 without groups."""
        if self.groups is None:
            return np.empty((len(sentences.tokens), 0), np.int32)
        config = self.config
        return draw_group_negatives(
            self.groups, self.pairing, sentences, config.num_group_negatives, config.mask_positives, self.seed,
            place.epoch, place.step, place.first_row,
        )  # fmt: skip

    def untrained_loss(self, batch: Sequences, place: Place) -> tuple[float, int]:
        """(loss sum, pairs) of a batch under a model whose scores are all 0: each question costs log 2.

        A fresh model is one, as output vectors start at 0; after a warm start this is only a yardstick. A pair asks
        1 + negatives questions, or those on its item's path (counted by the hidden vector's item: the same on
        average). Masked negatives are counted too.
        """
        sentences = self.draw(batch, place)
        weights = np.empty(len(sentences.tokens), np.float32)
        num_pairs = sum_weights(self.pairing, sentences.windows, sentences.borders, weights)
        return float(weights.astype(np.float64) @ self._count_questions(sentences.tokens)) * math.log(2), num_pairs

    def _count_questions(self, items: NDArray[np.int32]) -> NDArray[np.int64]:
        """What a prediction of each item asks, int64 [T]."""
        if self.tree is not None:
            return np.asarray(np.count_nonzero(find_paths(self.tree, items)[1], axis=1), np.int64)
        num_own = self.config.num_group_negatives if self.groups else 0
        return np.full(len(items), 1 + self.config.num_negatives + num_own)


def build_objective(
    model: ModelConfig,
    config: TrainingConfig,
    num_events: NDArray[np.int64],
    seed: int,
    groups: NDArray[np.int32] | None = None,
) -> Objective:
    """The objective of items with these train events (int64 [V]); ``groups`` int32 [V] as of `read_groups`.

    Noise, subsampling and the Huffman tree all hang on these, whatever the corpus; see `recspark.training.negatives`.

    Raises: DataError when no item has a train event.
    """
    noise = build_noise(num_events, config.noise_exponent)
    return Objective(
        config=config,
        seed=seed,
        pairing=build_pairing(model.kind, config),
        keep=keep_probabilities(num_events, config.subsample),
        noise=noise,
        tree=build_huffman_tree(num_events) if model.objective == "hierarchical_softmax" else None,
        groups=None if groups is None else build_group_noise(groups, noise.probabilities),
    )
