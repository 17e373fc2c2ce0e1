"""Towers: what they are made of looks at nothing it must not, and numpy serves what torch has trained."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recspark.config.towers import HistoryConfig, MlpConfig, TowersConfig, UserTowerConfig
from recspark.evaluate.history_context import HistoryContext, raise_weights
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import NAMES, encode_times
from recspark.evaluate.user_tower import encode_users
from recspark.models.feature_sum import FeatureData, FeatureSum
from recspark.models.mlp import Mlp, RankedBatchNorm
from recspark.models.pooling import AttentionLayer, MeanPooling, build_pooling
from recspark.models.towers import Towers
from recspark.training.towers.network import describe_user_tower, fold_interests

DIM, MAX_ITEMS, NUM_ITEMS = 8, 6, 20
POOLINGS = ("mean", "decay", "attention", "multi_interest")


def pooling_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    found = build_pooling(kind, DIM, MAX_ITEMS, 2, 2, 0.0, 0.5, 3)
    assert found
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.5)
    return found.eval()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_prefix_does_not_see_what_comes_after_it(kind: str) -> None:
    pool, x = pooling_of(kind), random(2, 5, DIM)
    changed = x.clone()
    changed[:, 3:] = 9.0
    torch.testing.assert_close(pool(x)[:, :3], pool(changed)[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pool(x)[:, 3:], pool(changed)[:, 3:])


@pytest.mark.parametrize("kind", POOLINGS)
def test_nor_does_a_prefix_see_the_weights_after_it(kind: str) -> None:
    pool, x = pooling_of(kind), random(2, 5, DIM)
    weights = torch.tensor([[1.0, 2.0, 0.5, 4.0, 1.0], [3.0, 1.0, 1.0, 0.1, 2.0]])
    changed = weights.clone()
    changed[:, 3:] = 7.0
    torch.testing.assert_close(pool(x, weights)[:, :3], pool(x, changed)[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pool(x, weights)[:, 3:], pool(x, changed)[:, 3:])


@pytest.mark.parametrize("kind", POOLINGS)
def test_weights_of_1_change_nothing_and_padding_may_have_any(kind: str) -> None:
    pool, x = pooling_of(kind), random(2, 4, DIM)
    torch.testing.assert_close(pool(x, torch.ones(2, 4)), pool(x), rtol=1e-4, atol=1e-5)
    weights, padded = torch.rand(2, 4) + 0.1, torch.cat([x, torch.zeros(2, 2, DIM)], 1)
    for filler in (1e-6, 9.0):
        wide = torch.cat([weights, torch.full((2, 2), filler)], 1)
        torch.testing.assert_close(pool(padded, wide)[:, :4], pool(x, weights), rtol=1e-4, atol=1e-5)


def test_weighted_poolings_are_their_formulas() -> None:
    x, w = random(1, 4, DIM), torch.tensor([[2.0, 0.5, 1e-6, 3.0]])
    w_L1 = w[0][:, None]
    torch.testing.assert_close(MeanPooling(0.5)(x, w)[0, 3], (w_L1 * x[0]).sum(0) / w.sum() ** 0.5)
    torch.testing.assert_close(MeanPooling()(x, w)[0, 1], (w_L1 * x[0])[:2].sum(0) / 2.5)
    rate = float(nn.functional.softplus(torch.tensor(1.0)))
    decayed = w[0] * torch.exp(-rate * torch.tensor([3.0, 2.0, 1.0, 0.0]))
    torch.testing.assert_close(MeanPooling(decay=True)(x, w)[0, 3], (decayed / decayed.sum()) @ x[0])
    interests = pooling_of("multi_interest")
    hidden = torch.tanh(interests.widen(x + interests.positions[:4]))  # type: ignore[operator, index]
    weights = torch.softmax(interests.score(hidden)[0] + w_L1.log(), 0)  # type: ignore[operator]
    torch.testing.assert_close(interests(x, w)[0, 3], weights.T @ x[0], rtol=1e-4, atol=1e-5)


def test_attention_looks_at_an_item_of_weight_3_as_at_three_of_it() -> None:
    """A layer by itself, as positions tell copies apart."""
    torch.manual_seed(0)
    layer, x = AttentionLayer(DIM, 2, 0.0).eval(), random(1, 3, DIM)
    weights = torch.tensor([[1.0, 3.0, 1.0]])
    bias = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf) + weights.log()[:, None, None, :]
    copies = torch.cat([x[:, :1], x[:, 1:2].expand(1, 3, DIM), x[:, 2:]], 1)
    torch.testing.assert_close(layer(x, bias)[:, 2], layer(copies)[:, 4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_history_of_nothing_but_weight_0_is_as_one_without_weights(kind: str) -> None:
    pool, x = pooling_of(kind), random(2, 4, DIM)
    zeros = torch.from_numpy(raise_weights(np.zeros((2, 4), np.float32)))
    found = pool(x, zeros)
    assert torch.isfinite(found).all()
    if kind != "mean":  # whose sum of weights is raised to .5
        torch.testing.assert_close(found, pool(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", POOLINGS)
def test_padding_behind_a_history_changes_nothing(kind: str) -> None:
    pool, x = pooling_of(kind), random(2, 3, DIM)
    padded = torch.cat([x, torch.zeros(2, 3, DIM)], 1)
    torch.testing.assert_close(pool(x), pool(padded)[:, :3], rtol=1e-4, atol=1e-5)


def test_mean_and_decay_are_their_formulas() -> None:
    x = random(1, 3, DIM)
    torch.testing.assert_close(MeanPooling(0.5)(x)[0, 2], x[0].sum(0) / 3**0.5)
    decayed = MeanPooling(decay=True)
    rate = float(nn.functional.softplus(torch.tensor(1.0)))
    weights = torch.exp(-rate * torch.tensor([2.0, 1.0, 0.0]))
    torch.testing.assert_close(decayed(x)[0, 2], (weights / weights.sum()) @ x[0])


USER_TOWERS = [
    UserTowerConfig(
        history=HistoryConfig(pooling=pooling, max_items=MAX_ITEMS, num_layers=2, num_interests=3, length_power=0.5),  # type: ignore[arg-type]
        mlp=mlp,
    )
    for pooling, mlp in itertools.product(
        POOLINGS, [MlpConfig(), MlpConfig(hidden=(6,), activation="gelu"), MlpConfig(hidden=(5, 4), norm="batch")]
    )
]


@pytest.mark.parametrize("times", [(), ("time_since_last",), NAMES])
@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("has_static", [False, True])
@pytest.mark.parametrize("config", USER_TOWERS, ids=lambda c: f"{c.history.pooling}-{len(c.mlp.hidden)}")
def test_numpy_encodes_users_as_torch_does(
    config: UserTowerConfig, has_static: bool, has_weights: bool, times: tuple[str, ...]
) -> None:
    history_config = config.history.model_copy(update={"event_weights": has_weights})
    config = config.model_copy(update={"history": history_config, "time_features": times})
    tower = Towers(TowersConfig(user=config), DIM, [], [], is_cosine=True).user
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.4)
    tower.train()
    tower.mlp(random(30, DIM) + 1)  # gives batch norm something to remember
    tower.eval()
    tokens, static = random(NUM_ITEMS, DIM), random(4, DIM) if has_static else None
    history = Ragged.from_rows([[1, 2, 3], [7], list(range(10)), [5, 5]])
    weight = np.linspace(0.2, 3, len(history.values)).astype(np.float32)
    ts_us = 10**15 + np.arange(len(history.values)) * 977 * 10**6
    moment_us = ts_us[history.offsets[1:] - 1] + np.array([1, 5 * 10**9, 10**12, 0])
    last_us = np.append(ts_us[history.offsets[1:-1] - 1], ts_us[-2])  # of the last user one event is at the moment
    codes = torch.from_numpy(encode_times(times, moment_us, last_us)) if times else None
    expected = []
    with torch.no_grad():
        for row in range(len(history)):
            recent = torch.from_numpy(history.row(row)[-MAX_ITEMS:].astype(np.int64))
            own = weight[history.offsets[row] : history.offsets[row + 1]][-MAX_ITEMS:]
            pooled = tower.pool(tokens[recent][None], torch.from_numpy(own)[None] if has_weights else None)[:, -1]
            own_static = None if static is None else static[row : row + 1]
            expected.append(tower.combine(pooled, own_static, None if codes is None else codes[row : row + 1])[0])
    arrays = {name: t.numpy() for name, t in tower.state_dict().items()}
    statics = None if static is None else static.numpy()
    context = HistoryContext(weight if has_weights else None, ts_us if times else None).at(moment_us, len(history))
    found = encode_users(describe_user_tower(config), arrays, tokens.numpy(), history, statics, context=context)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_a_user_without_a_known_item_is_zero() -> None:
    config = USER_TOWERS[1]
    tower = Towers(TowersConfig(user=config), DIM, [], [], is_cosine=True).user
    arrays = {name: t.numpy() for name, t in tower.state_dict().items()}
    found = encode_users(describe_user_tower(config), arrays, random(3, DIM).numpy(), Ragged.from_rows([[], [1]]))
    assert not found[0].any()
    assert found[1].any()


def test_users_with_a_vector_of_their_own_keep_it_and_others_fall_back_on_their_history() -> None:
    spec = describe_user_tower(UserTowerConfig(id=True, history=HistoryConfig(pooling="none")))
    tokens = np.array([[3.0, 0.0], [0.0, 2.0]], np.float32)
    history, own = Ragged.from_rows([[0], [0, 1]]), np.array([[7.0, 7.0], [0.0, 0.0]], np.float32)
    found = encode_users(spec, {}, tokens, history, own, np.array([True, False]))
    np.testing.assert_allclose(found, [[7, 7], [0.5, 0.5]])  # the mean of unit vectors


def test_a_tower_begins_as_the_sum_of_its_inputs() -> None:
    x = random(3, DIM)
    torch.testing.assert_close(Mlp(DIM, (16, 4), "relu", "layer", 0.0, residual=True)(x), x)
    assert Mlp(DIM, (), "relu", "layer", 0.0, residual=False)(x) is x


def test_batch_norm_of_one_rank_is_torchs() -> None:
    own, theirs, x = RankedBatchNorm(DIM), nn.BatchNorm1d(DIM), random(9, DIM) * 3 + 1
    torch.testing.assert_close(own(x), theirs(x), rtol=1e-4, atol=1e-5)
    own.eval(), theirs.eval()
    torch.testing.assert_close(own(x), theirs(x), rtol=1e-4, atol=1e-5)


def features() -> list[FeatureData]:
    """A list of codes (rows of 2, 1, 1, the last unknown) and vectors of three numbers."""
    codes = FeatureData("genre", 4, torch.tensor([1, 3, 2, 0]), torch.tensor([0, 2, 3, 4]))
    return [codes, FeatureData("picture", 3, torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]), None)]


def test_features_are_added_up_and_a_missing_one_says_nothing() -> None:
    found = FeatureSum(features(), DIM, is_gated=False)
    genres, picture = found.maps["of_genre"].weight, found.maps["of_picture"]
    rows = torch.tensor([2, 0, 0])
    out = found(rows)
    torch.testing.assert_close(out[1], (genres[1] + genres[3]) / 2 + picture.weight[:, 0] + picture.bias)  # type: ignore[index, operator]
    torch.testing.assert_close(out[1], out[2])
    torch.testing.assert_close(out[0], found.missing()[0])
    assert not genres[0].any()  # type: ignore[index]


@pytest.mark.parametrize("name", ["type", "values", "items", "training", "pop"])
def test_features_may_be_called_as_methods_of_torchs_containers_are(name: str) -> None:
    found = FeatureSum([replace(features()[0], name=name)], DIM, is_gated=True)
    assert found(torch.tensor([0, 2])).shape == (2, DIM)


def test_a_gate_turns_a_feature_down() -> None:
    found = FeatureSum(features()[:1], DIM, is_gated=True)
    nn.init.constant_(found.gates["of_genre"].bias, -50.0)  # type: ignore[arg-type]
    nn.init.zeros_(found.gates["of_genre"].weight)  # type: ignore[arg-type]
    assert found(torch.tensor([0])).abs().max() < 1e-12


def test_a_target_is_scored_by_the_nearest_interest() -> None:
    queries = torch.tensor([[[1.0, 0], [0, 1.0]], [[0, 1.0], [1.0, 0]]])
    flat, rows = fold_interests(queries, torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0], [0, 3.0], [1.0, 0.2]]))
    assert flat.shape == (4, 2)
    assert rows.tolist() == [0, 1, 3]
