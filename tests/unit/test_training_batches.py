"""The integers of a step against brute force, and their independence of ranks."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recspark.config.schema import TrainingConfig
from recspark.errors import DataError
from recspark.training.batches import Place, SkipGramBatch, SkipGramBatches
from recspark.training.negatives import build_noise
from recspark.training.sequence_files import Sequences
from recspark.training.torch_backend import skip_gram_gradients
from tests.unit.test_training_losses import pairs_of

NUM_ITEMS = 30


def config_of(**more: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"window": 3, "num_negatives": 5, "shared_negatives": 2} | more)


def batches_of(config: TrainingConfig, keep: float = 1.0) -> SkipGramBatches:
    noise = build_noise(np.arange(1, NUM_ITEMS + 1), 0.5)
    return SkipGramBatches(noise, np.full(NUM_ITEMS, keep, np.float32), config, seed=3)


def random_sequences(num_rows: int, seed: int = 0) -> Sequences:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 9, num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(random.integers(0, NUM_ITEMS, offsets[-1]).astype(np.int32), offsets)


PLACE = Place(epoch=1, step=4, global_step=14, first_row=0)


def test_rows_pairs_and_negatives_are_those_of_brute_force() -> None:
    batch = batches_of(config_of()).prepare(random_sequences(20), PLACE)
    tokens = batch.rows[batch.token_row]
    assert len(set(batch.rows.tolist())) == len(batch.rows)
    assert set(batch.rows[: batch.num_token_rows].tolist()) == set(tokens.tolist())
    pairs = pairs_of(batch.sentence.tolist(), batch.token_window.tolist())
    assert batch.num_pairs == len(pairs) > 0
    by_item = Counter(tokens[j] for j, _ in pairs)
    assert [by_item[item] for item in batch.rows[: batch.num_token_rows]] == batch.row_pairs.tolist()
    assert batch.negative_weight.sum() == pytest.approx(5)
    by_row = np.split(batch.token_order, batch.row_starts[1:])
    assert [set(batch.token_row[tokens]) for tokens in by_row] == [{row} for row in range(batch.num_token_rows)]
    assert batch.masked_row.tolist() == sorted(batch.masked_row)


def test_masked_negatives_are_centres_of_the_same_token() -> None:
    batch = batches_of(config_of()).prepare(random_sequences(20), PLACE)
    tokens, negatives = batch.rows[batch.token_row], batch.rows[batch.negative_row]
    pairs = pairs_of(batch.sentence.tolist(), batch.token_window.tolist())
    centers = defaultdict(set)
    for j, c in pairs:
        centers[j].add(tokens[c])
    reach = Counter(j for j, _ in pairs)
    expected = Counter()
    for j, found in centers.items():
        for n, item in enumerate(negatives):
            if item in found:
                expected[(batch.token_row[j], n)] += reach[j]
    found_pairs = Counter()
    for row, n, count in zip(batch.masked_row, batch.masked_negative, batch.masked_pairs, strict=True):
        found_pairs[(row, n)] += int(count)
    assert found_pairs == expected
    assert expected
    unmasked = batches_of(config_of(mask_positives=False)).prepare(random_sequences(20), PLACE)
    assert len(unmasked.masked_row) == 0


def test_two_halves_of_a_batch_hold_what_the_whole_holds() -> None:
    whole, config = random_sequences(16), config_of(subsample=0.1)
    parts = [batches_of(config, 0.6).prepare(whole.slice(low, low + 8), Place(1, 4, 14, low)) for low in (0, 8)]
    together = batches_of(config, 0.6).prepare(whole, PLACE)
    for name in ("token_window", "sentence"):
        halves = [getattr(part, name) + (8 * rank if name == "sentence" else 0) for rank, part in enumerate(parts)]
        np.testing.assert_array_equal(np.concatenate(halves), getattr(together, name))
    tokens = np.concatenate([part.rows[part.token_row] for part in parts])
    np.testing.assert_array_equal(tokens, together.rows[together.token_row])
    assert 0 < len(tokens) < len(whole.values)
    for part in parts:
        np.testing.assert_array_equal(part.rows[part.negative_row], together.rows[together.negative_row])


def test_the_step_has_the_gradient_of_the_plain_loss() -> None:
    batch = batches_of(config_of()).prepare(random_sequences(12, seed=5), PLACE)
    torch.manual_seed(0)
    x, y = (torch.randn(len(batch.rows), 5, requires_grad=True) for _ in range(2))
    expected = plain_loss(batch, x, y, num_negatives=5)
    expected.backward()
    loss, dx, dy = skip_gram_gradients(batch, x.detach(), y.detach(), window=3)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(dx, x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dy, y.grad, rtol=1e-4, atol=1e-5)


def plain_loss(batch: SkipGramBatch, x: torch.Tensor, y: torch.Tensor, num_negatives: int) -> torch.Tensor:
    """The loss as `skip_gram_gradients` states it, one pair and one negative at a time."""
    pairs = pairs_of(batch.sentence.tolist(), batch.token_window.tolist())
    centers = defaultdict(set)
    for j, c in pairs:
        centers[j].add(batch.token_row[c])
    loss = torch.zeros(())
    for j, c in pairs:
        row = batch.token_row[j]
        loss = loss - F.logsigmoid(x[row] @ y[batch.token_row[c]])
        for negative, weight in zip(batch.negative_row, batch.negative_weight, strict=True):
            if negative not in centers[j]:
                loss = loss - float(weight) * F.logsigmoid(-(x[row] @ y[negative]))
    assert float(batch.negative_weight.sum()) == pytest.approx(num_negatives)
    return loss


def test_a_batch_without_pairs_has_no_gradient() -> None:
    single = Sequences(np.array([3, 4], np.int32), np.array([0, 1, 2]))
    batch = batches_of(config_of()).prepare(single, PLACE)
    rows = torch.ones(len(batch.rows), 4)
    loss, dx, dy = skip_gram_gradients(batch, rows, rows, window=3)
    assert batch.num_pairs == 0
    assert float(loss) == float(dx.abs().sum()) == float(dy.abs().sum()) == 0


def test_an_item_outside_the_vocabulary_is_named() -> None:
    outside = Sequences(np.array([3, 30], np.int32), np.array([0, 2]))
    with pytest.raises(DataError, match=r"item_idx 30, but `items` has rows 0\.\.29"):
        batches_of(config_of()).prepare(outside, PLACE)
