"""A torch step, integers and gradients, against the loss pair by pair; and its independence of ranks."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.errors import DataError
from recspark.training.batches import _BATCH_NEGATIVES, StepBatch, StepBatches
from recspark.training.gradients import find_gradients
from recspark.training.objective import Objective, Place, build_objective
from recspark.training.sequence_files import MARK, Sequences
from tests.helpers.family_oracle import find_mixture, find_pairs, find_path

NUM_ITEMS = 30
PLACE = Place(epoch=1, step=4, global_step=14, first_row=0)
FAMILY = [(kind, name) for kind in ("skip_gram", "cbow") for name in ("negative_sampling", "hierarchical_softmax")]
KNOBS = {
    "plain": {},
    "decay": {"position_decay": 0.7, "window": 4},
    "whole session": {"window": "session"},
    "bought": {"window": 1},
    "groups": {"num_group_negatives": 3},
    "not masked": {"mask_positives": False, "num_group_negatives": 3},
    "subsampled": {"subsample": 0.02},
}


def objective_of(kind: str = "skip_gram", name: str = "negative_sampling", case: str = "plain", **more) -> Objective:
    config = TrainingConfig(**{"window": 3, "num_negatives": 5, "shared_negatives": 2} | KNOBS[case] | more)
    groups = np.int32(np.arange(NUM_ITEMS) % 5 - 1) if "num_group_negatives" in KNOBS[case] else None
    model = ModelConfig(kind=kind, objective=name)
    return build_objective(model, config, np.arange(1, NUM_ITEMS + 1), 3, groups)


def random_sequences(num_rows: int, seed: int = 0, bought_share: float = 0.0) -> Sequences:
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 9, num_rows))]).astype(np.int64)
    items = random.integers(0, NUM_ITEMS, offsets[-1])
    return Sequences((items | MARK * (random.random(len(items)) < bought_share)).astype(np.int32), offsets)


def plain_loss(objective: Objective, batch: Sequences, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """(loss, pairs) over whole tables [V, D], one pair and one negative at a time."""
    sentences = objective.draw(batch, PLACE)
    tokens, pairs = sentences.tokens.tolist(), find_pairs(objective, sentences)
    hidden = torch.from_numpy(find_mixture(objective, sentences)) @ x[tokens]
    size = objective.config.shared_negatives * _BATCH_NEGATIVES
    negatives = objective.noise.draw(objective.seed, PLACE.global_step, size).tolist()
    own = objective.draw_group_negatives(sentences, PLACE).tolist()
    loss = torch.zeros((), dtype=torch.float64)
    for j, c, weight in pairs:
        if objective.tree is not None:
            for row, sign in find_path(objective.tree, tokens[c]):
                loss = loss - weight * F.logsigmoid(sign * (hidden[j] @ y[row]))
            continue
        positives = {tokens[o] for i, o, _ in pairs if i == j} if objective.config.mask_positives else set()
        against = [n for n in negatives if n not in positives]
        loss = loss - weight * F.logsigmoid(hidden[j] @ y[tokens[c]])
        loss = loss - weight * 5 / size * F.logsigmoid(-(y[against] @ hidden[j])).sum()
        loss = loss - weight * F.logsigmoid(-(y[[n for n in own[j] if n >= 0]] @ hidden[j])).sum()
    return loss, len(pairs)


def find_table_gradients(batch: StepBatch, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`find_gradients` scattered into whole tables."""
    items, outputs = torch.from_numpy(batch.tokens.items), torch.from_numpy(batch.outputs)
    loss, gradient = find_gradients(batch, torch.cat([x.detach()[items], y.detach()[outputs]]))
    dx, dy = gradient.split([len(items), len(outputs)])
    assert len(items.unique()) == len(items)
    assert len(outputs.unique()) == len(outputs)
    return loss, torch.zeros_like(x).index_copy(0, items, dx), torch.zeros_like(y).index_copy(0, outputs, dy)


@pytest.mark.parametrize(("kind", "name"), FAMILY)
@pytest.mark.parametrize("case", KNOBS)
def test_a_step_has_the_loss_and_gradient_of_the_plain_formula(kind: str, name: str, case: str) -> None:
    objective = objective_of(kind, name, case)
    sequences = random_sequences(12, 5, bought_share=0.2 if case == "bought" else 0)
    torch.manual_seed(0)
    x, y = (torch.randn(NUM_ITEMS, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected, pairs = plain_loss(objective, sequences, x, y)
    expected.backward()
    batch = StepBatches(objective).prepare(sequences, PLACE)
    assert batch.num_pairs == pairs > 0
    loss, dx, dy = find_table_gradients(batch, x, y)
    # Weights are float32, the rest is double.
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(dx, x.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dy, y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), FAMILY)
def test_two_halves_of_a_batch_add_up_to_the_whole(kind: str, name: str) -> None:
    objective = objective_of(kind, name, "groups", subsample=0.02)
    whole = random_sequences(16)
    x, y = (torch.randn(NUM_ITEMS, 5, dtype=torch.float64) for _ in range(2))
    together = find_table_gradients(StepBatches(objective).prepare(whole, PLACE), x, y)
    halves = [StepBatches(objective).prepare(whole.slice(low, low + 8), Place(1, 4, 14, low)) for low in (0, 8)]
    found = [find_table_gradients(half, x, y) for half in halves]
    assert all(half.num_pairs for half in halves)
    for whole_part, parts in zip(together, zip(*found, strict=True), strict=True):
        torch.testing.assert_close(sum(parts), whole_part, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), FAMILY)
def test_a_batch_without_pairs_has_no_gradient(kind: str, name: str) -> None:
    single = Sequences(np.array([3, 4], np.int32), np.array([0, 1, 2]))
    for sequences in (single, single.slice(0, 0)):
        batch = StepBatches(objective_of(kind, name)).prepare(sequences, PLACE)
        rows = torch.ones(NUM_ITEMS, 4)
        loss, dx, dy = find_table_gradients(batch, rows, rows)
        assert batch.num_pairs == 0
        assert float(loss) == float(dx.abs().sum()) == float(dy.abs().sum()) == 0


def test_tokens_are_listed_by_their_row() -> None:
    tokens = StepBatches(objective_of()).prepare(random_sequences(20), PLACE).tokens
    by_row = np.split(tokens.order, tokens.starts[1:])
    assert [set(tokens.row[some]) for some in by_row] == [{row} for row in range(len(tokens.items))]


def test_an_item_outside_the_vocabulary_is_named() -> None:
    outside = Sequences(np.array([3, 30], np.int32), np.array([0, 2]))
    with pytest.raises(DataError, match=r"item_idx 30, but `items` has rows 0\.\.29"):
        StepBatches(objective_of()).prepare(outside, PLACE)
