"""One convolution over neighbours: the formula by loops, its gradient, and the same by the tower that is exported."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recspark.config.towers import ItemTowerConfig, MlpConfig, NeighboursConfig, TowersConfig
from recspark.models.feature_sum import FeatureData
from recspark.models.item_neighbours import NONE, ItemNeighbours, Near
from recspark.models.neighbour_layer import NeighbourLayer
from recspark.models.served_towers import ServedItemTower
from recspark.models.towers import Towers

DIM = 4
ITEMS = np.array([[1, 2], [0, NONE], [1, 0], [NONE, NONE]], np.int32)
VISITS = np.array([[3, 1], [2, 0], [1, 1], [0, 0]], np.int32)
NEIGHBOURS = ItemNeighbours(ITEMS, VISITS, np.full_like(ITEMS, NONE), num_users=1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def layer() -> NeighbourLayer:
    torch.manual_seed(1)
    found = NeighbourLayer(DIM).double()
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.5)
    return found


def apply(module: NeighbourLayer, x: Tensor, near: Near) -> Tensor:
    starts, places, weights = (torch.from_numpy(a) for a in (near.starts, near.places, near.weights))
    return module(x[torch.from_numpy(near.own)], module.pool(x, starts, places, weights.to(x.dtype)))  # type: ignore[no-any-return]


def join_by_loops(module: NeighbourLayer, x: Tensor, item: int) -> Tensor:
    """PinSage, algorithm 1 and line 8 of algorithm 2, with x added."""
    total, pooled = sum(VISITS[item]), torch.zeros(2 * DIM, dtype=x.dtype)
    for neighbour, visits in zip(ITEMS[item], VISITS[item], strict=True):
        if neighbour != NONE:
            message = (module.message.weight @ x[neighbour] + module.message.bias).clamp(min=0)
            pooled = pooled + visits / total * message
    hidden = (module.join.weight @ torch.cat([x[item], pooled]) + module.join.bias).clamp(min=0)
    return x[item] + module.out.weight @ (hidden / hidden.norm())


def test_it_is_the_formula() -> None:
    module, x = layer(), random(4, DIM)
    found = apply(module, x, NEIGHBOURS.near(np.arange(4)))
    for item in range(4):
        torch.testing.assert_close(found[item], join_by_loops(module, x, item), check_dtype=False)


def test_its_gradient_is_that_of_differences() -> None:
    module, near = layer(), NEIGHBOURS.near(np.array([0, 2, 3]))
    x = random(len(near.items), DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: apply(module, rows, near), (x,))
    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def call(*values: Tensor) -> Tensor:
        starts, places, shares = (torch.from_numpy(a) for a in (near.starts, near.places, near.weights))
        own = dict(zip(names, values, strict=True))
        messages = torch.relu(x.detach() @ own["message.weight"].T + own["message.bias"])
        pooled = nn.functional.embedding_bag(places, messages, starts, mode="sum", per_sample_weights=shares.double())
        return torch.func.functional_call(module, own, (x.detach()[torch.from_numpy(near.own)], pooled))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(call, tuple(weights))


def test_items_without_any_neighbour_are_read_by_themselves() -> None:
    module, x = layer(), random(1, DIM)
    near = NEIGHBOURS.near(np.array([3]))
    assert not len(near.places)
    torch.testing.assert_close(apply(module, x, near)[0], join_by_loops(module, torch.cat([random(3, DIM), x]), 3))


def test_an_item_begins_as_itself_and_half_the_direction_of_its_neighbours_mean() -> None:
    module, x = NeighbourLayer(DIM).double(), random(4, DIM)
    found = apply(module, x, NEIGHBOURS.near(np.arange(4)))
    torch.testing.assert_close(found[1], x[1] + x[0] / x[0].norm() / 2)
    added = found[0] - x[0]
    torch.testing.assert_close(added / added.norm(), nn.functional.normalize(0.75 * x[1] + 0.25 * x[2], dim=0))
    torch.testing.assert_close(found[3], x[3])


@pytest.mark.parametrize("has_features", [False, True])
def test_the_served_tower_computes_what_the_trained_one_does(has_features: bool) -> None:
    codes = FeatureData("genre", 5, torch.tensor([1, 3, 2, 4, 0]), torch.tensor([0, 2, 3, 4, 5]))
    item = ItemTowerConfig(neighbours=NeighboursConfig(count=2), mlp=MlpConfig(hidden=(6,)))
    torch.manual_seed(2)
    tower = Towers(TowersConfig(item=item), DIM, [codes] if has_features else [], [], is_cosine=True).item.eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids, near = random(4, DIM).float(), NEIGHBOURS.near(np.arange(4))
    with torch.no_grad():
        x = tower.read(ids, torch.arange(4))
        starts, places, weights = (torch.from_numpy(a) for a in (near.starts, near.places, near.weights))
        expected = tower(x, tower.neighbours.pool(x, starts, places, weights))
        served = ServedItemTower(tower, x)
        features = [torch.tensor([[1, 3], [2, -1], [4, -1], [0, -1]])] if has_features else []
        found = served(ids, *features, torch.from_numpy(ITEMS).long(), torch.from_numpy(VISITS).float())
    torch.testing.assert_close(found, expected)
