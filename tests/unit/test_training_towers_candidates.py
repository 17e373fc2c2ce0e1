"""Candidates: what is drawn, how often it was to be expected, and that with logQ a sample stands for the catalogue."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recspark.config.towers import NegativesConfig, TowersConfig
from recspark.errors import DataError
from recspark.evaluate.ragged import Ragged
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.towers.candidate_queue import CandidateQueue
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.examples import NEXT, ExampleMaker
from recspark.training.towers.losses import Targets, retrieval_loss, softmax_scores
from recspark.training.towers.step import build_step

NUM_ITEMS, DIM, NUM_STEPS, TARGET = 12, 3, 1500, 2
COUNTS = np.array([60, 30, 20, 12, 9, 8, 6, 5, 4, 3, 2, 1])
SHARES = COUNTS / COUNTS.sum()
MIXTURES = [
    {"in_batch": True, "uniform": 0},
    {"in_batch": False, "uniform": 40},
    {"in_batch": False, "uniform": 0, "popularity": 40, "popularity_exponent": 0.75},
    {"in_batch": True, "uniform": 20, "popularity": 20},
]


def source(**config: object) -> CandidateSource:
    negatives = NegativesConfig(kind="sampled", **config)  # type: ignore[arg-type]
    return CandidateSource(negatives, COUNTS, np.ones(NUM_ITEMS, np.bool_), seed=3)


def draw_targets(step: int, size: int = 60) -> NDArray[np.int64]:
    return np.random.default_rng(step).choice(NUM_ITEMS, size, p=SHARES)


@pytest.mark.parametrize("config", MIXTURES)
def test_expected_counts_are_those_of_many_draws(config: dict[str, object]) -> None:
    found, total = source(**config), np.zeros(NUM_ITEMS)
    for step in range(NUM_STEPS):
        drawn = found.draw(draw_targets(step), step)
        assert drawn.counts is not None
        total[drawn.items] += drawn.counts
    expected = found.expected_counts(60 if config["in_batch"] else 0)
    assert expected.sum() == pytest.approx(60 * config["in_batch"] + config["uniform"] + config.get("popularity", 0))  # type: ignore[operator]
    np.testing.assert_allclose(total / NUM_STEPS, expected, rtol=0.12)


def mean_gradient(found: CandidateSource, sign: float = 1.0) -> Tensor:
    """The mean gradient of item vectors of one user, over many samples."""
    q = F.normalize(torch.randn(1, DIM, generator=torch.Generator().manual_seed(1))) * 2
    v = F.normalize(torch.randn(NUM_ITEMS, DIM, generator=torch.Generator().manual_seed(2)))
    total = torch.zeros(NUM_ITEMS, DIM)
    for step in range(NUM_STEPS):
        drawn = found.draw(np.append(draw_targets(step), TARGET), step)
        assert drawn.correction is not None
        own = v[torch.from_numpy(drawn.items)].requires_grad_()
        target = Targets(np.zeros(1, np.int64), drawn.columns_of(np.array([TARGET])), np.ones(1, np.float32))
        loss = retrieval_loss(softmax_scores, q, own, target, torch.from_numpy(drawn.correction) * sign)
        (gradient,) = torch.autograd.grad(loss, own)
        total[torch.from_numpy(drawn.items)] += gradient
    return total / NUM_STEPS


def full_gradient() -> Tensor:
    q = F.normalize(torch.randn(1, DIM, generator=torch.Generator().manual_seed(1))) * 2
    v = F.normalize(torch.randn(NUM_ITEMS, DIM, generator=torch.Generator().manual_seed(2))).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(q @ v.T, torch.tensor([TARGET])), v)
    return gradient


def error_of(found: CandidateSource, sign: float = 1.0) -> float:
    """How far negatives' mean gradient is from the full softmax's, relative to it."""
    others = torch.arange(NUM_ITEMS) != TARGET  # whose own pull is exact whatever is drawn
    expected = full_gradient()[others]
    return float((mean_gradient(found, sign)[others] - expected).norm() / expected.norm())


@pytest.mark.parametrize("config", MIXTURES)
def test_with_log_q_the_mean_gradient_is_that_of_the_full_softmax(config: dict[str, object]) -> None:
    # The estimate is a ratio of means, whose bias falls with the sample: here 40 to 100 draws of 12 items.
    assert error_of(source(**config)) < 0.08


@pytest.mark.parametrize("config", MIXTURES)
def test_explicit_negatives_beside_a_mixture_count_in_full_beside_the_whole_catalogue(
    config: dict[str, object],
) -> None:
    """They are not drawn, so not corrected: the mean gradient is that of log(sum over all + weight x theirs)."""
    found, explicit, weight = source(**config), torch.tensor([[4, 9]]), 3.0
    q = F.normalize(torch.randn(1, DIM, generator=torch.Generator().manual_seed(1))) * 2
    v = F.normalize(torch.randn(NUM_ITEMS, DIM, generator=torch.Generator().manual_seed(2)))
    total = torch.zeros(NUM_ITEMS, DIM)
    for step in range(NUM_STEPS):
        drawn = found.draw(np.append(draw_targets(step), TARGET), step)
        assert drawn.correction is not None
        own = torch.cat([v[torch.from_numpy(drawn.items)], v]).requires_grad_()
        target = Targets(np.zeros(1, np.int64), drawn.columns_of(np.array([TARGET])), np.ones(1, np.float32))
        shared = len(drawn.items)
        loss = retrieval_loss(
            softmax_scores, q, own, target, torch.from_numpy(drawn.correction), explicit + shared, shared,
            hard_correction_H=torch.full((2,), weight).log(),
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, own)
        total += gradient[shared:]
        total[torch.from_numpy(drawn.items)] += gradient[:shared]
    whole = v.clone().requires_grad_()
    scores = (q @ whole.T)[0]
    all_scores = torch.cat([scores, scores[explicit[0]] + np.log(weight)])
    (expected,) = torch.autograd.grad(all_scores.logsumexp(0) - scores[TARGET], whole)
    others = torch.arange(NUM_ITEMS) != TARGET
    error = (total / NUM_STEPS - expected)[others].norm() / expected[others].norm()
    assert float(error) < 0.08


@pytest.mark.parametrize("config", [{"uniform": 64}, {"uniform": 32, "queue": 64, "queue_after_steps": 1}])
def test_items_that_come_with_a_row_count_once_as_in_the_full_softmax(config: dict[str, int]) -> None:
    """A user's later items are candidates whenever he is: divided by Q like others' they would count many times."""
    assert own_push_of_batches(config, True) == pytest.approx(1, abs=0.1)
    assert own_push_of_batches(config, False) > 1.5


def own_push_of_batches(config: dict[str, int], has_certain: bool) -> float:
    """What pushes users from their own other items over many batches of prefixes, relative to the full softmax."""
    num_items, num_users, batch, length = 400, 60, 6, 8
    random = np.random.default_rng(4)
    shares = 1 / np.arange(20, num_items + 20)
    histories = np.stack([random.choice(num_items, length, False, shares / shares.sum()) for _ in range(num_users)])
    is_own = torch.zeros(num_items, num_users)
    is_own[torch.from_numpy(histories).T, torch.arange(num_users)] = 1
    # A user's query is an axis of his own, so that an item's gradient tells who pushes it; his items score highest.
    noise = torch.randn(num_items, num_users, generator=torch.Generator().manual_seed(5))
    v, queries = 2 * is_own + noise / 4, torch.eye(num_users)
    kept, negatives = np.ones(num_items, np.bool_), NegativesConfig(kind="sampled", **config)  # type: ignore[arg-type]
    maker = ExampleMaker(TowersConfig(), NEXT, kept, 1)
    counts = np.bincount(histories[:, 1:].ravel(), minlength=num_items)
    found, queue = CandidateSource(negatives, counts, kept, 1), CandidateQueue(negatives, num_users, "cpu")
    sampled, full = torch.zeros(num_items, num_users), torch.zeros(num_items, num_users)
    for number in range(300):
        users = random.choice(num_users, batch, False)
        own = Ragged.from_rows(histories[users].tolist())
        place = Place(0, number, number, 0)
        examples = maker.make(Sequences(own.values, own.offsets, users.astype(np.int32)), place)
        step = build_step(examples, found.draw(examples.target_item, number), place)
        targets, correction = step.targets, step.found.correction
        if not has_certain:
            targets = replace(targets, certain_row=targets.row, certain_column=targets.column)
        q, wanted = queries[examples.users[examples.row_user]], torch.from_numpy(examples.target_item)
        of_targets = q[examples.target_row]
        full += (of_targets @ v.T).softmax(1).T @ of_targets
        items, shown = step.found.items, v[torch.from_numpy(step.found.items)].requires_grad_()
        if queue.is_open(number):
            items = np.concatenate([items, queue.state_dict()["items"].numpy()])
            shown, correction, targets = queue.extend(step, shown, targets, found)
        assert correction is not None
        loss = retrieval_loss(softmax_scores, q, shown, targets, torch.from_numpy(correction))
        (gradient,) = torch.autograd.grad(loss, shown)
        sampled.index_add_(0, torch.from_numpy(items), gradient)
        sampled.index_add_(0, wanted, of_targets)  # less the targets' pull, which is exact
        queue.push(step, v[torch.from_numpy(step.items)])
    return float((sampled * is_own).sum() / (full * is_own).sum())


def test_a_wrong_sign_and_no_correction_are_far_off() -> None:
    config = {"in_batch": True, "uniform": 0}
    right = error_of(source(**config))
    assert error_of(source(**config), sign=-1.0) > 3 * right
    assert error_of(source(**config, log_q=False)) > 3 * right


def test_draws_hang_on_the_step_alone_and_items_are_distinct() -> None:
    config = {"in_batch": True, "uniform": 30, "popularity": 30}
    one, again, other = (source(**config).draw(draw_targets(0), step) for step in (5, 5, 6))
    assert one.items.tolist() == again.items.tolist() == sorted(set(one.items.tolist()))
    np.testing.assert_array_equal(one.counts, again.counts)  # type: ignore[arg-type]
    assert not np.array_equal(one.counts, other.counts)  # type: ignore[arg-type]


def test_without_in_batch_a_target_counts_for_its_own_rows_only() -> None:
    drawn = source(in_batch=False, uniform=1).draw(np.array([4, 7, 7]), 0)
    assert {4, 7} <= set(drawn.items.tolist())
    assert drawn.counts is not None
    assert drawn.correction is not None
    assert drawn.counts.sum() == 1
    assert np.isneginf(drawn.correction[drawn.counts == 0]).all()


def test_small_catalogues_are_taken_whole_and_unlisted_items_are_in_none() -> None:
    listed = np.arange(NUM_ITEMS) != 3
    found = CandidateSource(NegativesConfig(full_max_items=11), COUNTS, listed, 0)
    assert found.is_full
    assert found.whole().items.tolist() == [i for i in range(NUM_ITEMS) if i != 3]
    assert not CandidateSource(NegativesConfig(full_max_items=10), COUNTS, listed, 0).is_full


def test_nothing_to_find_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no item is ever a target: every history is too short"):
        CandidateSource(NegativesConfig(), np.zeros(4, np.int64), np.ones(4, np.bool_), 0)
