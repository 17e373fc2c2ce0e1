"""What a ranking head learns from: whose targets, against what, by which loss, and nothing that comes later."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recspark.config.towers import HistoryConfig, NegativesConfig, RankingConfig, TowersConfig, UserTowerConfig
from recspark.evaluate.ragged import Ragged
from recspark.models.ranking_head import RankingHead
from recspark.models.towers import Similarity
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.towers import ranking as module
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.examples import NEXT, REST, ExampleMaker, Examples
from recspark.training.towers.losses import ABSENT
from recspark.training.towers.network import Compared
from recspark.training.towers.ranking import RankingLoss, choose_targets, draw_share, find_costs
from recspark.training.towers.step import TowerStep, build_step

NUM_ITEMS, DIM, MAX_ITEMS = 40, 6, 8
HISTORIES = [[i % 10, (i + 1) % 10, 10 + i % 5, 20 + i, 3] for i in range(12)] + [[7, 8], [30, 31, 32, 33, 34, 35, 36]]
TOWERS = TowersConfig(user=UserTowerConfig(history=HistoryConfig(max_items=MAX_ITEMS)))
RANKING = RankingConfig(
    kind="target_attention",
    candidates=12,
    num_negatives=5,
    attention_hidden=(4,),
    hidden=(5,),
    dropout=0.0,
    max_targets=3,
)
PLACE = Place(0, 2, 2, 0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def examples_of(histories: list[list[int]] = HISTORIES, mode: str = NEXT, first_user: int = 0) -> Examples:
    rows = Ragged.from_rows(histories)
    users = np.arange(first_user, first_user + len(histories), dtype=np.int32)
    batch = Sequences(rows.values, rows.offsets, users)
    return ExampleMaker(TOWERS, mode, np.ones(NUM_ITEMS, np.bool_), 1).make(batch, PLACE)


def step_of(examples: Examples, is_sampled: bool = False) -> TowerStep:
    config = NegativesConfig(kind="sampled", uniform=6) if is_sampled else NegativesConfig()
    counts = np.bincount([i for h in HISTORIES for i in h], minlength=NUM_ITEMS)
    source = CandidateSource(config, counts, np.ones(NUM_ITEMS, np.bool_), 3)
    found = source.whole() if source.is_full else source.draw(examples.target_item, 2)
    return build_step(examples, found, PLACE)


def similarity() -> Similarity:
    return Similarity(TOWERS, is_cosine=True)


def compared_of(step: TowerStep) -> Compared:
    """Vectors of unit length, queries over the temperature."""
    table, own_table = F.normalize(random(NUM_ITEMS, DIM), dim=-1), F.normalize(random(NUM_ITEMS, DIM, seed=1), dim=-1)
    queries = F.normalize(random(step.examples.num_rows, DIM, seed=2), dim=-1) * 10
    history = own_table[torch.from_numpy(step.examples.history.values.astype(np.int64))]
    items = table[torch.from_numpy(step.items)]
    return Compared(queries.requires_grad_(), items.requires_grad_(), history.requires_grad_())


def loss_of(config: RankingConfig = RANKING) -> RankingLoss:
    torch.manual_seed(1)
    head = RankingHead(config, DIM, MAX_ITEMS, True, 0.1)
    for name, parameter in head.named_parameters():
        if name != "log_scale":
            nn.init.normal_(parameter, std=0.4)
    return RankingLoss(head, similarity(), config, seed=5)


def test_of_each_user_at_most_so_many_targets_are_drawn() -> None:
    examples = examples_of()
    chosen = choose_targets(examples, 3, key=1)
    owner = examples.row_user[examples.target_row]
    wanted = np.minimum(np.bincount(owner), 3)
    assert np.bincount(owner[chosen]).tolist() == wanted.tolist()
    assert (np.diff(chosen) > 0).all()
    assert choose_targets(examples, 3, key=2).tolist() != chosen.tolist()
    assert choose_targets(examples, 99, key=1).tolist() == list(range(len(owner)))


def targets_of(examples: Examples, chosen: Any) -> set[tuple[int, int, int]]:
    """(user, how much he has seen, target)."""
    rows = examples.target_row[chosen]
    users, starts = examples.row_user[rows], examples.history.offsets[:-1][examples.row_user[rows]]
    found = zip(examples.users[users], rows - starts, examples.target_item[chosen], strict=True)
    return {(int(u), int(n), int(t)) for u, n, t in found}


def test_users_that_are_apart_have_the_same_targets_as_together() -> None:
    whole = examples_of()
    parts = [examples_of(HISTORIES[:5]), examples_of(HISTORIES[5:], first_user=5)]
    apart = set().union(*(targets_of(part, choose_targets(part, 2, key=4)) for part in parts))
    assert targets_of(whole, choose_targets(whole, 2, key=4)) == apart


def test_a_share_is_drawn_of_the_candidates() -> None:
    items = np.arange(0, 200, 2)
    drawn = draw_share(items, 0.3, key=1)
    assert len(drawn) == 30
    assert (np.diff(drawn) > 0).all()
    assert draw_share(items, 0.3, key=2).tolist() != drawn.tolist()
    assert draw_share(items, 2.0, key=1).tolist() == list(range(100))
    assert len(draw_share(items, 1e-9, key=1)) == 1


def test_what_targets_cost_is_the_plain_formula() -> None:
    scores = random(2, 4)
    is_there = torch.tensor([[True, True, True, True], [True, True, False, True]])
    first, second = scores.numpy().astype(np.float64)
    softmax = [-np.log(np.exp(first[0]) / np.exp(first).sum())]
    softmax.append(-np.log(np.exp(second[0]) / np.exp(second[[0, 1, 3]]).sum()))
    bce = [np.log1p(np.exp(-first[0])) + np.log1p(np.exp(first[1:])).mean()]
    bce.append(np.log1p(np.exp(-second[0])) + np.log1p(np.exp(second[[1, 3]])).mean())
    np.testing.assert_allclose(find_costs(scores, is_there, "softmax").numpy(), softmax, rtol=1e-5)
    np.testing.assert_allclose(find_costs(scores, is_there, "bce").numpy(), bce, rtol=1e-5)


@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("mode", [NEXT, REST])
def test_negatives_are_the_best_of_those_drawn_and_nothing_of_the_user_s_own(mode: str, is_sampled: bool) -> None:
    examples = examples_of(mode=mode)
    step = step_of(examples, is_sampled)
    compared = compared_of(step)
    rows = loss_of()._choose_rows(step, compared)
    assert rows.places.shape == (len(rows.row), 6)
    with torch.no_grad():
        scores = (compared.queries @ compared.items.T).numpy()
    drawn = None
    for place, row in enumerate(rows.row.tolist()):
        user = int(examples.row_user[row])
        own = set(examples.history.row(user).tolist())
        own |= set(examples.target_item[examples.row_user[examples.target_row] == user].tolist())
        target, *negatives = rows.places[place].tolist()
        assert int(step.items[target]) in set(examples.target_item[examples.target_row == row].tolist())
        there = [n for n in negatives if n != ABSENT]
        assert not {int(step.items[n]) for n in there} & own
        assert len(set(there)) == len(there)
        assert set(there) <= set(step.candidates.tolist())
        assert (np.diff(scores[row, there]) <= 0).all()
        drawn = set(there) if drawn is None else drawn | set(there)
    # One share of the candidates for all rows: 5 of 12 of them.
    assert drawn is not None
    assert len(drawn) <= -(-5 * len(step.candidates) // 12)


def measure_plainly(loss: RankingLoss, step: TowerStep, compared: Compared, config: RankingConfig) -> float:
    """The loss target by target, each history alone and unpadded."""
    rows, total = loss._choose_rows(step, compared), 0.0
    queries = F.normalize(compared.queries, dim=-1)
    for place, row in enumerate(rows.row.tolist()):
        items = [n for n in rows.places[place].tolist() if n != ABSENT]
        start = int(step.examples.history.offsets[step.examples.row_user[row]])
        stop = row + 1 if step.examples.is_prefixes else start + int(step.examples.history.lengths[row])
        assert compared.history is not None
        u, h, v = queries[row], compared.history[start:stop], compared.items[torch.tensor(items)]
        scores = loss._head(u[None], h[None], torch.tensor([stop - start]), v[None], (v @ u)[None])
        costs = find_costs(scores, torch.ones(1, len(items), dtype=torch.bool), config.loss)
        total += float(costs.detach()) * float(rows.weight[place])
    return total


@pytest.mark.parametrize("name", ["softmax", "bce"])
@pytest.mark.parametrize("mode", [NEXT, REST])
def test_the_loss_is_that_of_each_target_alone(mode: str, name: Any) -> None:
    config = RANKING.model_copy(update={"loss": name})
    examples = replace(examples_of(mode=mode))
    weights = np.linspace(0.5, 2, len(examples.target_item)).astype(np.float32)
    step = step_of(replace(examples, target_weight=weights))
    loss, compared = loss_of(config), compared_of(step)
    found, weight = loss.measure(step, compared)
    assert found.item() == pytest.approx(measure_plainly(loss, step, compared, config), rel=1e-5)
    assert weight == pytest.approx(float(loss._choose_rows(step, compared).weight.sum()))


@pytest.mark.parametrize("pairs", [1, 200])
def test_groups_and_layers_computed_twice_change_neither_loss_nor_gradient(
    monkeypatch: pytest.MonkeyPatch, pairs: int
) -> None:
    config = RANKING.model_copy(update={"joint": 1.0})

    def run() -> list[Tensor]:
        step = step_of(examples_of())
        loss, compared = loss_of(config), compared_of(step)
        found, _ = loss.measure(step, compared)
        found.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in loss._head.parameters()]
        inputs = [compared.queries.grad, compared.items.grad, compared.history.grad]  # type: ignore[union-attr]
        return [found.detach(), *(g for g in (*gradients, *inputs) if g is not None)]

    plain = run()
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs)
    for found, expected in zip(run(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_at_or_after_a_target_is_looked_at() -> None:
    """The loss of one target alone has no gradient in any history item but those before it."""
    examples, config = examples_of(), RANKING.model_copy(update={"joint": 1.0, "max_targets": 99})
    history = examples.history
    for target in range(len(examples.target_item)):
        weights = np.zeros(len(examples.target_item), np.float32)
        weights[target] = 1
        step = step_of(replace(examples, target_weight=weights))
        compared = compared_of(step)
        loss_of(config).measure(step, compared)[0].backward()  # type: ignore[no-untyped-call]
        assert compared.history is not None
        gradient = compared.history.grad
        assert gradient is not None
        row = int(examples.target_row[target])
        start = int(history.offsets[examples.row_user[row]])
        is_seen = gradient.abs().sum(1).numpy() > 0
        assert np.flatnonzero(is_seen).tolist() == list(range(start, row + 1))
        user = int(examples.users[examples.row_user[row]])
        assert history.values[start : row + 1].tolist() == HISTORIES[user][: row + 1 - start]
        assert examples.target_item[target] == HISTORIES[user][row + 1 - start]


def test_towers_get_the_share_of_the_gradient_that_is_asked_for() -> None:
    gradients = {}
    for joint in (0.0, 0.5, 1.0):
        step = step_of(examples_of())
        compared = compared_of(step)
        found, _ = loss_of(RANKING.model_copy(update={"joint": joint})).measure(step, compared)
        found.backward()  # type: ignore[no-untyped-call]
        gradients[joint] = compared.items.grad, compared.queries.grad
    assert gradients[0.0] == (None, None)
    for half, whole in zip(gradients[0.5], gradients[1.0], strict=True):
        assert half is not None
        torch.testing.assert_close(2 * half, whole)


def test_a_step_without_targets_costs_nothing() -> None:
    step = step_of(examples_of())
    nobody = build_step(examples_of([[3]]), step.found, PLACE)
    found, weight = loss_of().measure(nobody, compared_of(nobody))
    assert (found.item(), weight) == (0.0, 0.0)


def test_untrained_costs_are_those_of_equal_scores() -> None:
    for name, expected in (("softmax", np.log(6)), ("bce", 2 * np.log(2))):
        config = RANKING.model_copy(update={"loss": name})
        scores, is_there = torch.zeros(1, 6), torch.ones(1, 6, dtype=torch.bool)
        assert float(find_costs(scores, is_there, name)) == pytest.approx(expected)
        assert loss_of(config).untrained_cost == pytest.approx(expected)
