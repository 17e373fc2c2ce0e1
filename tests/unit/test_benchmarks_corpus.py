"""The topic corpus and its measures."""

import numpy as np
import pytest

from benchmarks.corpus import SENTENCE, TOPIC_SHARE, make_corpus, neighbour_purity, next_item_recall, write_text
from benchmarks.skip_gram_runs import cut_batches, falling_rate, train_on_cpu, training_config

CORPUS = make_corpus(400, 40_000, num_topics=8, seed=3)


def test_sentences_stay_on_their_topic():
    topics = CORPUS.topic[CORPUS.tokens]
    most = np.array([np.bincount(row).max() for row in topics]) / SENTENCE
    assert CORPUS.tokens.shape == (2000, SENTENCE)
    assert most.mean() == pytest.approx(TOPIC_SHARE + (1 - TOPIC_SHARE) / 8, abs=0.06)
    assert CORPUS.counts[0] > CORPUS.counts[200:].max()  # Zipf: the first is the most popular
    again = make_corpus(400, 40_000, num_topics=8, seed=3)
    np.testing.assert_array_equal(again.tokens, CORPUS.tokens)


def test_planted_vectors_are_pure_and_random_ones_are_not():
    random = np.random.default_rng(0)
    planted = np.eye(8, dtype=np.float32)[CORPUS.topic] + 0.01 * random.normal(size=(400, 8)).astype(np.float32)
    noise = random.normal(size=(400, 8)).astype(np.float32)
    assert neighbour_purity(planted, CORPUS.topic, CORPUS.counts) == 1
    assert neighbour_purity(noise, CORPUS.topic, CORPUS.counts) < 0.3
    found, chance = (next_item_recall(v, CORPUS.held_out, CORPUS.counts) for v in (planted, noise))
    assert found > 0.3
    assert chance < found / 2


def test_the_kernel_learns_the_topics():
    vectors, timing = train_on_cpu(CORPUS.tokens, 400, 16, training_config(epochs=3, num_threads=1, num_lanes=1))
    assert neighbour_purity(vectors, CORPUS.topic, CORPUS.counts) > 0.8
    assert timing.wall > 0


def test_batches_hold_every_sentence_once():
    batches = cut_batches(CORPUS.tokens, 768)
    assert [b.num_rows for b in batches] == [768, 768, 464]
    np.testing.assert_array_equal(np.concatenate([b.values for b in batches]), CORPUS.tokens.ravel())
    assert batches[-1].offsets[-1] == 464 * SENTENCE


def test_the_rate_falls_to_a_hundredth():
    rate = falling_rate(training_config(epochs=2, learning_rate=0.5), 10)
    assert rate(0) == 0.5
    assert rate(20) == pytest.approx(0.005)


def test_text_is_a_sentence_a_line(tmp_path):
    write_text(np.array([[3, 1], [4, 1]], np.int32), tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "3 1\n4 1\n"
