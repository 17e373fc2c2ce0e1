"""The CPU kernel against its loss written out pair by pair in float64, and against a corpus with planted topics."""

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.config.schema import TrainingConfig
from recspark.errors import DataError
from recspark.training import cpu_kernel
from recspark.training.cpu_kernel import EPSILON, KernelState, draw_negatives, init_state, sigmoid, train_batch
from recspark.training.negatives import build_noise, keep_probabilities
from recspark.training.sentences import draw_sentences, plan_blocks, plan_pieces
from recspark.training.sequence_files import Sequences
from tests.helpers.ranks import ROOT

SEED, EPOCH, STEP = 3, 1, 7


def ragged(rows: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, rows)])
    return Sequences(np.array(list(itertools.chain(*rows)), np.int32), offsets.astype(np.int64))


def random_state(num_items: int, dim: int, scale: float = 0.5) -> KernelState:
    """Tables as in the middle of training: nothing is zero."""
    rng = np.random.default_rng(1)
    tables = [(rng.normal(size=(num_items, dim)) * scale).astype(np.float32) for _ in range(2)]
    squares = [rng.random(num_items).astype(np.float32) for _ in range(2)]
    return KernelState(*tables, *squares)


def copy_state(state: KernelState) -> KernelState:
    return KernelState(state.input_vectors.copy(), state.output_vectors.copy(),
                       state.input_squares.copy(), state.output_squares.copy())  # fmt: skip


def find_pairs(windows, low: int, high: int) -> list[tuple[int, int]]:
    """(input, centre) of one sentence: the centre's window holds the input."""
    tokens = range(low, high)
    return [(j, c) for c in tokens for j in tokens if j != c and abs(j - c) <= windows[c]]


def block_terms(tokens, windows, pieces, negatives, config):
    """Every term of a block's loss as (sign, input token, output: token or negative, weight)."""
    terms = []
    for low, high in pieces:
        pairs = find_pairs(windows, low, high)
        for j, c in pairs:
            terms.append((1, j, ("token", c), 1.0))
        for j in range(low, high):
            centers = [c for i, c in pairs if i == j]
            for n, item in enumerate(negatives):
                if config.mask_positives and item in {tokens[c] for c in centers}:
                    continue
                terms.append((-1, j, ("negative", n), len(centers) * config.num_negatives / len(negatives)))
    return terms


def block_loss_and_gradients(x, y, z, terms, start):
    """The loss of a block's terms and its derivatives by input tokens x, centres y and negatives z; all float64."""
    loss, dx, outputs = 0.0, np.zeros_like(x), {"token": np.zeros_like(y), "negative": np.zeros_like(z)}
    for sign, j, (kind, o), weight in terms:
        row = o - start if kind == "token" else o
        other = (y if kind == "token" else z)[row]
        score = sign * (x[j - start] @ other)
        loss += weight * np.logaddexp(0, -score)
        slope = -sign * weight * np.exp(-np.logaddexp(0, score))
        dx[j - start] += slope * other
        outputs[kind][row] += slope * x[j - start]
    return loss, dx, outputs["token"], outputs["negative"]


def adagrad(vectors, squares, row, gradient, rate):
    squares[row] += (gradient**2).mean()
    vectors[row] -= rate * gradient / (np.sqrt(squares[row]) + float(EPSILON))


def train_by_hand(state: KernelState, batch: Sequences, noise, keep, config, rate: float):
    """`train_batch` in plain float64 loops: (state, loss sum, pairs)."""
    W, C, SW, SC = (a.astype(np.float64) for a in copy_state(state).__dict__.values())
    tokens, sentence, windows = draw_sentences(
        batch.values, batch.offsets, keep, config.window, config.dynamic_window, SEED, EPOCH, STEP, 0
    )
    borders = plan_pieces(sentence, cpu_kernel.MAX_SENTENCE)
    blocks = plan_blocks(borders, cpu_kernel.BLOCK_TOKENS)
    total, num_pairs = 0.0, 0
    for b, (first, last) in enumerate(itertools.pairwise(blocks)):
        negatives = np.empty(config.shared_negatives, np.int32)
        draw_negatives(SEED, EPOCH, STEP, b, noise.threshold, noise.alias, negatives)
        pieces = list(itertools.pairwise(borders[first : last + 1]))
        start, stop = borders[first], borders[last]
        terms = block_terms(tokens, windows, pieces, negatives, config)
        here = tokens[start:stop]
        loss, dx, dy, dz = block_loss_and_gradients(W[here], C[here], C[negatives], terms, start)
        total, num_pairs = total + loss, num_pairs + sum(sign == 1 for sign, *_ in terms)
        for vectors, squares, rows, gradients in ((W, SW, here, dx), (C, SC, here, dy), (C, SC, negatives, dz)):
            for row, gradient in zip(rows, gradients, strict=True):
                adagrad(vectors, squares, row, gradient, rate)
    return (W, C, SW, SC), total, num_pairs


CASES = {
    "one sentence": ([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]], {}),
    "repeated items": ([[1, 2, 1, 1, 3, 2, 1, 2, 3, 3]], {}),
    "several sentences": ([[0, 1, 2], [], [5], [7, 8, 9, 7], [11, 4]], {}),
    "several blocks": ([list(range(i % 4, 12)) for i in range(14)], {}),
    "fixed window": ([[0, 1, 2, 3, 4], [5, 6, 7]], {"dynamic_window": False, "window": 2}),
    "whole session": ([[0, 1, 2, 3, 4], [5, 6, 7]], {"dynamic_window": False, "window": 1000}),
    "not masked": ([[1, 2, 1, 1, 3, 2, 1]], {"mask_positives": False}),
    "long sentence": ([[i * 7 % 12 for i in range(101)], [1, 2]], {}),
    "many negatives": ([[0, 1, 2, 3]], {"shared_negatives": 150, "num_negatives": 20}),
}


@pytest.mark.parametrize("subsample", [0.0, 0.05])
@pytest.mark.parametrize("case", CASES)
def test_a_batch_moves_the_tables_as_the_loss_says(case, subsample, monkeypatch):
    monkeypatch.setattr(cpu_kernel, "MAX_SENTENCE", 40)
    rows, settings_ = CASES[case]
    config = TrainingConfig(**{"window": 3, "shared_negatives": 9, "num_negatives": 4, **settings_})
    noise = build_noise(np.arange(1, 13), 0.5)
    keep = keep_probabilities(np.arange(1, 13), subsample)
    state = random_state(12, 6)
    expected, loss, pairs = train_by_hand(state, ragged(rows), noise, keep, config, 0.1)
    found_loss, found_pairs = train_batch(state, ragged(rows), noise, keep, config, 0.1, SEED, EPOCH, STEP, 1)
    assert found_pairs == pairs > 0
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    for found, wanted in zip(state.__dict__.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_the_loss_written_out_has_the_gradient_written_out():
    """The oracle itself, by finite differences."""
    rng = np.random.default_rng(2)
    x, y, z = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    config = TrainingConfig(num_negatives=3)
    terms = block_terms([0, 1, 2, 0], [1, 2, 1, 3], [(0, 4)], [0, 1, 2, 8, 9], config)
    _, *gradients = block_loss_and_gradients(x, y, z, terms, 0)
    for array, gradient in zip((x, y, z), gradients, strict=True):
        for place in np.ndindex(array.shape):
            losses = []
            for shift in (1e-5, -1e-5):
                array[place] += shift
                losses.append(block_loss_and_gradients(x, y, z, terms, 0)[0])
                array[place] -= shift
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient[place], abs=1e-6)


def test_the_first_loss_is_known():
    """Output vectors start at zero: every score is 0 and a pair costs (1 + K) log 2."""
    config = TrainingConfig(num_negatives=5, shared_negatives=20, mask_positives=False, dynamic_window=False, window=2)
    state = init_state(100, 8, 0.1, 1)
    noise, keep = build_noise(np.ones(100, np.int64), 1.0), np.ones(100, np.float32)
    loss, pairs = train_batch(state, ragged([[4, 5, 6, 7]]), noise, keep, config, 0.1, 1, 0, 0, 1)
    assert pairs == 10  # distances 1 and 2 in a row of 4: (3 + 2) x 2
    assert loss == pytest.approx(10 * 6 * np.log(2), rel=1e-6)


def test_masked_positives_do_not_count():
    """Two items that always stand together: the only negative left for each is itself."""
    config = TrainingConfig(num_negatives=2, shared_negatives=50, dynamic_window=False, window=1)
    noise, keep = build_noise(np.ones(2, np.int64), 1.0), np.ones(2, np.float32)
    loss, pairs = train_batch(init_state(2, 4, 0.1, 1), ragged([[0, 1]]), noise, keep, config, 0.1, 1, 0, 0, 1)
    negatives = np.empty(50, np.int32)
    draw_negatives(1, 0, 0, 0, noise.threshold, noise.alias, negatives)
    assert 0 < (negatives == 0).sum() < 50
    # Input 0 counts the draws of 0, input 1 those of 1: 50 of 100 in all.
    assert (loss, pairs) == (pytest.approx(2 * np.log(2) + 50 * 2 / 50 * np.log(2), rel=1e-6), 2)


@pytest.mark.parametrize("scale", [1e-3, 3.0, 30.0])
def test_losses_are_right_for_small_and_huge_scores(scale):
    config = TrainingConfig(window=3, shared_negatives=70)
    noise, keep = build_noise(np.ones(12, np.int64), 1.0), np.ones(12, np.float32)
    state = random_state(12, 6, scale)
    _, loss, _ = train_by_hand(state, ragged([[0, 1, 2, 3, 4]]), noise, keep, config, 0.1)
    found, _ = train_batch(state, ragged([[0, 1, 2, 3, 4]]), noise, keep, config, 0.1, SEED, EPOCH, STEP, 1)
    assert found == pytest.approx(loss, rel=1e-4)


def test_a_table_that_is_no_number_gives_a_loss_that_is_none():
    state = random_state(12, 6)
    state.output_vectors[3] = np.nan
    noise, keep = build_noise(np.ones(12, np.int64), 1.0), np.ones(12, np.float32)
    loss, _ = train_batch(state, ragged([[0, 3]]), noise, keep, TrainingConfig(), 0.1, 1, 0, 0, 1)
    assert np.isnan(loss)


def test_sigmoid_is_exact_enough():
    x = np.linspace(-13, 13, 20_001, dtype=np.float32)
    found = np.array([sigmoid(v) for v in x])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), atol=5e-7)
    assert sigmoid(np.float32(1e30)) == sigmoid(np.float32(13))
    assert 0 <= sigmoid(np.float32(-1e30)) < 1e-5


def test_an_empty_batch_changes_nothing():
    state = random_state(5, 4)
    before = copy_state(state)
    noise, keep = build_noise(np.ones(5, np.int64), 1.0), np.ones(5, np.float32)
    for rows in ([], [[]], [[2]]):
        assert train_batch(state, ragged(rows), noise, keep, TrainingConfig(), 0.1, 1, 0, 0, 1) == (0.0, 0)
    for found, wanted in zip(state.__dict__.values(), before.__dict__.values(), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("item", [-1, 5])
def test_an_item_without_a_row_is_named(item):
    noise, keep = build_noise(np.ones(5, np.int64), 1.0), np.ones(5, np.float32)
    with pytest.raises(DataError, match=rf"holds item_idx {item}, but `items` has rows 0\.\.4"):
        train_batch(random_state(5, 4), ragged([[0, item]]), noise, keep, TrainingConfig(), 0.1, 1, 0, 0, 1)


def test_sentences_do_not_depend_on_who_holds_them():
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 20, rng.integers(0, 9)).tolist() for _ in range(30)]
    keep = keep_probabilities(np.arange(1, 21), 0.02)
    draw = lambda part, first: draw_sentences(  # noqa: E731
        ragged(part).values, ragged(part).offsets, keep, 5, True, SEED, EPOCH, STEP, first
    )
    tokens, sentence, windows = draw(rows, 0)
    parts = [draw(rows[a:b], a) for a, b in ((0, 7), (7, 7), (7, 30))]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), tokens)
    np.testing.assert_array_equal(np.concatenate([p[2] for p in parts]), windows)
    np.testing.assert_array_equal(np.concatenate([p[1] + a for p, a in zip(parts, (0, 7, 7), strict=True)]), sentence)


def test_windows_and_dropped_tokens_follow_their_probabilities():
    batch = ragged([[0, 1] * 50] * 400)
    keep = np.array([1.0, 0.3], np.float32)
    tokens, _, windows = draw_sentences(batch.values, batch.offsets, keep, 5, True, 1, 0, 0, 0)
    assert (tokens == 0).sum() == 20_000
    assert (tokens == 1).sum() == pytest.approx(6000, abs=5 * np.sqrt(20_000 * 0.3 * 0.7))
    shares = np.bincount(windows, minlength=6)[1:] / len(windows)
    np.testing.assert_allclose(shares, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / len(windows)))
    assert (draw_sentences(batch.values, batch.offsets, keep, 5, False, 1, 0, 0, 0)[2] == 5).all()


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


def topic_corpus(num_topics: int = 10, items_per_topic: int = 30, rows: int = 6000, length: int = 12):
    """Sequences whose items mostly come from one topic; item i is of topic i % num_topics."""
    rng = np.random.default_rng(4)
    topics = rng.integers(0, num_topics, (rows, 1))
    rank = np.minimum((rng.pareto(1.0, (rows, length)) * 8).astype(int), items_per_topic - 1)
    noise = rng.integers(0, num_topics, (rows, length))
    topic = np.where(rng.random((rows, length)) < 0.75, topics, noise)
    return (rank * num_topics + topic).astype(np.int32), num_topics


def neighbour_purity(vectors, num_topics: int) -> float:
    """Share of each item's five nearest by cosine that are of its topic."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    return float((nearest % num_topics == np.arange(len(unit))[:, None] % num_topics).mean())


def train_topics(num_threads: int, epochs: int = 4, **knobs) -> tuple[KernelState, list[float], float]:
    """(state, loss a pair of each epoch, purity)."""
    corpus, num_topics = topic_corpus()
    counts = np.bincount(corpus.ravel(), minlength=300)
    config = TrainingConfig(**{"shared_negatives": 32, **knobs})
    noise, keep = build_noise(counts, config.noise_exponent), keep_probabilities(counts, config.subsample)
    state, losses = init_state(300, 32, config.init_scale, 1), []
    batches = [ragged(part.tolist()) for part in np.array_split(corpus, 12)]
    for epoch in range(epochs):
        done = [train_batch(state, b, noise, keep, config, 0.1 * (1 - epoch / epochs), 1, epoch, step, num_threads)
                for step, b in enumerate(batches)]  # fmt: skip
        losses.append(sum(loss for loss, _ in done) / sum(pairs for _, pairs in done))
    return state, losses, neighbour_purity(state.input_vectors, num_topics)


def test_planted_topics_are_found_and_the_loss_falls():
    _, losses, purity = train_topics(1)
    assert losses == sorted(losses, reverse=True)
    assert purity > 0.9  # by chance .1


def test_one_thread_repeats_to_the_bit():
    (first, losses, _), (second, again, _) = train_topics(1, epochs=1), train_topics(1, epochs=1)
    assert losses == again
    for a, b in zip(first.__dict__.values(), second.__dict__.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_threads_learn_as_well_as_one():
    (_, one_losses, one), (_, two_losses, two) = train_topics(1), train_topics(2)
    assert two == pytest.approx(one, abs=0.03)
    assert two_losses[-1] == pytest.approx(one_losses[-1], rel=0.03)


def test_a_kernel_just_compiled_computes_as_one_from_the_cache(tmp_path: Path) -> None:
    """A run that was killed is resumed by a process that finds the kernel compiled; both have to agree to the bit."""
    code = "from tests.unit.test_training_cpu_kernel import hash_of_training; print(hash_of_training())"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert found[0].stdout == found[1].stdout != ""


def hash_of_training() -> str:
    """The SHA-256 of tables after a few batches of short sequences."""
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    state, noise, keep = init_state(300, 8, 0.1, SEED), build_noise(np.arange(1, 301), 0.5), np.ones(300, np.float32)
    for step in range(20):
        batch = ragged([rng.integers(0, 300, size).tolist() for size in rng.integers(2, 13, 64)])
        train_batch(state, batch, noise, keep, TrainingConfig(shared_negatives=8), 0.5, SEED, 0, step, 1)
    for name in KernelState.__dataclass_fields__:
        digest.update(getattr(state, name).tobytes())
    return digest.hexdigest()
