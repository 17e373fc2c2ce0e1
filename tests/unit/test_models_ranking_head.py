"""The ranking head: its formula item by item, its gradient, and numpy that serves what torch has trained."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recspark.config.towers import RankingConfig
from recspark.evaluate import ranking_head as served
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.ranking_head import StoredRankingHead
from recspark.models.ranking_head import RankingHead

DIM, MAX_ITEMS, NUM_ITEMS = 6, 5, 12
HISTORIES = Ragged.from_rows([[1, 2, 3], [7], list(range(9)), [], [4, 4]])
CONFIGS = [
    RankingConfig(kind="target_attention", attention_hidden=attention, hidden=hidden, weights=weights,  # type: ignore[arg-type]
                  positions=positions, activation=activation)  # type: ignore[arg-type]
    for (attention, hidden), weights, positions, activation in itertools.product(
        [((4,), (5,)), ((7, 3), (6, 4, 2))], ["raw", "softmax"], [True, False], ["prelu", "relu"]
    )
]  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head_of(config: RankingConfig, is_cosine: bool = True) -> RankingHead:
    torch.manual_seed(1)
    head = RankingHead(config, DIM, MAX_ITEMS, is_cosine, 0.1)
    for name, parameter in head.named_parameters():
        if parameter.requires_grad and name != "log_scale":
            nn.init.normal_(parameter, std=0.4)
    return head.eval()


def name_of(config: RankingConfig) -> str:
    return f"{len(config.hidden)}-{config.weights}-{config.positions}-{config.activation}"


def score_plainly(head: StoredRankingHead, user: Any, history: Any, item: Any, retrieved: float) -> float:
    """The formula for one candidate, a history item at a time, in float64."""
    arrays, spec = {name: np.float64(array) for name, array in head.arrays.items()}, head.spec
    u, v, tokens = (np.asarray(x, np.float64) * spec.gain for x in (user, item, history))
    tokens = tokens[-spec.max_items :]
    weights = []
    for place, h in enumerate(tokens):
        x = np.concatenate([h, v, h * v]) @ _first(arrays, "attention", 3) + arrays["attention.maps.0.bias"]
        if "places" in arrays:
            x = x + arrays["places"][len(tokens) - 1 - place]
        weights.append(_go_on(arrays, "attention", x))
    if spec.weights == "softmax" and weights:
        powers = np.exp(np.array(weights) - max(weights))
        weights = list(powers / powers.sum())
    pooled = sum((w * h for w, h in zip(weights, tokens, strict=True)), np.zeros(DIM))
    x = np.concatenate([u, pooled, v, pooled * v]) @ _first(arrays, "mlp", 4) + arrays["mlp.maps.0.bias"]
    return float(np.exp(arrays["log_scale"]) * retrieved + _go_on(arrays, "mlp", x))


def _first(arrays: dict[str, Any], name: str, num_inputs: int) -> Any:
    """The first layer as one matrix over all inputs side by side."""
    return np.concatenate([arrays[f"{name}.maps.{place}.weight"].T for place in range(num_inputs)])


def _go_on(arrays: dict[str, Any], name: str, x: Any) -> float:
    for layer, slope in enumerate(arrays[f"{name}.slopes"]):
        x = np.where(x > 0, x, slope * x)
        x = arrays[f"{name}.layers.{layer}.weight"] @ x + arrays.get(f"{name}.layers.{layer}.bias", 0)
    return float(x[0])


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_numpy_scores_are_the_formula_s_and_torch_s(config: RankingConfig) -> None:
    head = head_of(config)
    stored, tokens, vectors = head.store(), random(NUM_ITEMS, DIM).numpy(), random(NUM_ITEMS, DIM, seed=1).numpy()
    users, bias = random(len(HISTORIES), DIM, seed=2).numpy(), random(NUM_ITEMS, seed=3).numpy()
    rows = np.array([[0, 5, 11, 3], [2, -1, 1, 0], [9, 8, 7, 6], [1, 2, 3, 4], [-1, -1, -1, 4]])
    found = stored.score(users, HISTORIES, tokens, rows, vectors, bias)
    for user, place in np.ndindex(*rows.shape):
        row = rows[user, place]
        if row < 0:
            assert found[user, place] == -np.inf
            continue
        history, v = tokens[HISTORIES.row(user)], vectors[row]
        expected = score_plainly(stored, users[user], history, v, float(users[user] @ v + bias[row]))
        assert found[user, place] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    by_torch = score_by_torch(head, users, tokens, np.maximum(rows, 0), vectors, bias)
    np.testing.assert_allclose(found[rows >= 0], by_torch[rows >= 0], rtol=1e-5, atol=1e-5)


def score_by_torch(head: RankingHead, users: Any, tokens: Any, rows: Any, vectors: Any, bias: Any) -> Any:
    """All users at once, padded to the longest history."""
    history = HISTORIES.keep_last(MAX_ITEMS)
    is_there = np.arange(MAX_ITEMS) < history.lengths[:, None]
    padded = np.zeros((len(history), MAX_ITEMS, DIM), np.float32)
    padded[is_there] = tokens[history.values]
    items = vectors[rows]
    retrieved = (items * users[:, None]).sum(-1) + bias[rows]
    inputs = (torch.from_numpy(x) for x in (users, padded, history.lengths, items, retrieved))
    with torch.no_grad():
        return head(*inputs).numpy()


def test_users_of_a_group_do_not_change_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, table = head_of(CONFIGS[0]).store(), random(NUM_ITEMS, DIM).numpy()
    users, rows = random(len(HISTORIES), DIM, seed=2).numpy(), np.tile(np.arange(4), (len(HISTORIES), 1))
    together = stored.score(users, HISTORIES, table, rows, table, np.zeros(NUM_ITEMS, np.float32))
    monkeypatch.setattr(served, "_VALUES_AT_ONCE", 1)
    alone = stored.score(users, HISTORIES, table, rows, table, np.zeros(NUM_ITEMS, np.float32))
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_cosine", [True, False])
def test_an_untrained_head_ranks_as_the_retrieval(is_cosine: bool) -> None:
    head = RankingHead(CONFIGS[0], DIM, MAX_ITEMS, is_cosine, 0.1)
    retrieved = random(2, 3)
    found = head(random(2, DIM), random(2, 4, DIM), torch.tensor([4, 4]), random(2, 3, DIM), retrieved)
    torch.testing.assert_close(found, retrieved * (10 if is_cosine else 1))


@pytest.mark.parametrize("weights", ["raw", "softmax"])
def test_padding_behind_a_history_changes_nothing(weights: str) -> None:
    head = head_of(CONFIGS[0].model_copy(update={"weights": weights}))
    u, h, v, retrieved = random(2, DIM), random(2, 3, DIM, seed=1), random(2, 4, DIM, seed=2), random(2, 4)
    lengths = torch.tensor([3, 2])
    h[1, 2] = 0
    padded = torch.cat([h, torch.zeros(2, 2, DIM)], 1)
    torch.testing.assert_close(head(u, h, lengths, v, retrieved), head(u, padded, lengths, v, retrieved))


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[-2]], ids=name_of)
def test_the_gradient_is_that_of_the_formula(config: RankingConfig) -> None:
    head = head_of(config).double()
    names = [name for name, parameter in head.named_parameters() if parameter.requires_grad]
    parameters = [head.get_parameter(name).detach().clone().requires_grad_() for name in names]
    inputs = [random(2, DIM), random(2, 3, DIM, seed=1), random(2, 2, DIM, seed=2), random(2, 2, seed=3)]
    u, h, v, retrieved = (x.double().requires_grad_() for x in inputs)
    lengths = torch.tensor([3, 2])

    def scores(u: Tensor, h: Tensor, v: Tensor, retrieved: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, named, (u, h, lengths, v, retrieved))

    assert torch.autograd.gradcheck(scores, (u, h, v, retrieved, *parameters))


def test_stored_arrays_do_not_follow_the_training() -> None:
    head = head_of(CONFIGS[0])
    before = {name: array.copy() for name, array in head.store().arrays.items()}
    kept = head.store()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(1)
    for name, array in kept.arrays.items():
        np.testing.assert_array_equal(array, before[name])
