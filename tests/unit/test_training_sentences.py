"""Sentences: draws that depend on the place alone, windows and dropped tokens that follow their probabilities."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.config.schema import TrainingConfig
from recspark.training.negatives import keep_probabilities
from recspark.training.pairing import BOUGHT, MAX_SENTENCE, WHOLE
from recspark.training.sentences import draw_sentences, plan_blocks, plan_pieces
from recspark.training.sequence_files import MARK
from tests.helpers.family_oracle import ragged

SEED, EPOCH, STEP = 3, 1, 7


def test_sentences_do_not_depend_on_who_holds_them():
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 20, rng.integers(0, 9)).tolist() for _ in range(30)]
    keep = keep_probabilities(np.arange(1, 21), 0.02)
    draw = lambda part, first: draw_sentences(ragged(part), keep, TrainingConfig(), SEED, EPOCH, STEP, first)  # noqa: E731
    tokens, sentence, windows, _ = draw(rows, 0)
    parts = [draw(rows[a:b], a) for a, b in ((0, 7), (7, 7), (7, 30))]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), tokens)
    np.testing.assert_array_equal(np.concatenate([p[2] for p in parts]), windows)
    np.testing.assert_array_equal(np.concatenate([p[1] + a for p, a in zip(parts, (0, 7, 7), strict=True)]), sentence)


def test_windows_and_dropped_tokens_follow_their_probabilities():
    batch = ragged([[0, 1] * 50] * 400)
    keep = np.array([1.0, 0.3], np.float32)
    tokens, _, windows, _ = draw_sentences(batch, keep, TrainingConfig(), 1, 0, 0, 0)
    assert (tokens == 0).sum() == 20_000
    assert (tokens == 1).sum() == pytest.approx(6000, abs=5 * np.sqrt(20_000 * 0.3 * 0.7))
    shares = np.bincount(windows, minlength=6)[1:] / len(windows)
    np.testing.assert_allclose(shares, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / len(windows)))
    assert (draw_sentences(batch, keep, TrainingConfig(dynamic_window=False), 1, 0, 0, 0).windows == 5).all()


def test_a_bought_item_is_marked_and_sees_its_whole_session():
    drawn = draw_sentences(ragged([[3, 4 | MARK, 5]]), np.ones(6, np.float32), TrainingConfig(window=2), 1, 0, 0, 0)
    assert drawn.tokens.tolist() == [3, 4, 5]
    assert drawn.windows[1] == BOUGHT
    assert max(drawn.windows[[0, 2]]) <= 2


@pytest.mark.parametrize(("position_decay", "is_shuffled"), [(1.0, True), (0.9, False)])
def test_a_long_set_is_cut_elsewhere_in_each_epoch_unless_order_counts(position_decay, is_shuffled):
    config = TrainingConfig(window="session", position_decay=position_decay)
    row, keep = list(range(3 * MAX_SENTENCE - 5)), np.ones(1000, np.float32)
    epochs = [draw_sentences(ragged([row, [1, 0]]), keep, config, 1, epoch, 0, 0) for epoch in range(2)]
    for drawn in epochs:
        assert np.diff(drawn.borders).tolist() == [254, 254, 255, 2]
        assert (drawn.windows == WHOLE).all()
        assert sorted(drawn.tokens[:-2]) == row
        assert drawn.tokens[-2:].tolist() == [1, 0]
    assert (epochs[0].tokens.tolist() != epochs[1].tokens.tolist()) == is_shuffled
    assert (epochs[0].tokens[:-2].tolist() != row) == is_shuffled


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=20), st.integers(1, 20), st.integers(1, 50))
def test_pieces_and_blocks_cover_every_token_once(lengths, max_tokens, min_tokens):
    sentence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    borders = plan_pieces(sentence, max_tokens)
    assert (borders[0], borders[-1]) == (0, len(sentence))
    for low, high in itertools.pairwise(borders):
        assert 0 < high - low <= max_tokens
        assert len(set(sentence[low:high])) == 1
    assert len(borders) - 1 == sum(-(-n // max_tokens) for n in lengths)
    blocks = plan_blocks(borders, min_tokens)
    assert (blocks[0], blocks[-1]) == (0, len(borders) - 1)
    sizes = np.diff(borders[blocks])
    assert (sizes[:-1] >= min_tokens).all()
    assert (sizes < min_tokens + max_tokens).all()
