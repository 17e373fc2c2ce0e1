"""Features as one vector: each looked up or projected to embedding_dim, then added up.

Shapes: n = all items (or users), N = rows asked for, D = embedding_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class FeatureData:
    """One feature of all n rows, as torch has it: codes in a ragged row (``offsets`` int64 [n + 1]), or vectors [n, W].

    ``size`` is how many codes there are, or W. Code 0 stands for missing and unseen values.
    """

    name: str
    size: int
    values: Tensor
    offsets: Tensor | None


class FeatureSum(nn.Module):
    """The sum of all features of some rows [N, D].

    A row's codes are averaged. ``is_gated``: each feature's vector x is multiplied by sigmoid(W x + b) first, so that
    one that says little can be turned down for some rows.
    """

    def __init__(self, features: list[FeatureData], dim: int, is_gated: bool) -> None:
        super().__init__()
        self._data = features
        self.maps = nn.ModuleDict({_key(f): _build_map(f, dim) for f in features})
        self.gates = nn.ModuleDict({_key(f): nn.Linear(dim, dim) for f in features} if is_gated else {})

    def forward(self, rows_N: Tensor) -> Tensor:
        """[N] indices -> [N, D]."""
        found = []
        for feature in self._data:
            x_ND = self._look_up(feature, rows_N)
            found.append(x_ND * torch.sigmoid(self.gates[_key(feature)](x_ND)) if len(self.gates) else x_ND)
        return torch.stack(found).sum(0)

    def missing(self) -> Tensor:
        """What a row without any value gets: [1, D]."""
        found = []
        for feature in self._data:
            module = self.maps[_key(feature)]
            if isinstance(module, nn.EmbeddingBag):
                x_1D = module.weight[:1]
            else:
                x_1D = module(feature.values.new_zeros(1, feature.size))
            found.append(x_1D * torch.sigmoid(self.gates[_key(feature)](x_1D)) if len(self.gates) else x_1D)
        return torch.stack(found).sum(0)

    def _look_up(self, feature: FeatureData, rows_N: Tensor) -> Tensor:
        module = self.maps[_key(feature)]
        if feature.offsets is None:
            out: Tensor = module(feature.values[rows_N])
            return out
        starts, lengths = feature.offsets[rows_N], feature.offsets[rows_N + 1] - feature.offsets[rows_N]
        bags = torch.cumsum(lengths, 0) - lengths
        places = torch.arange(int(lengths.sum()), device=rows_N.device) + torch.repeat_interleave(
            starts - bags, lengths
        )
        return F.embedding_bag(feature.values[places], module.weight, bags, mode="mean")  # type: ignore[arg-type]


def _key(feature: FeatureData) -> str:
    """Of its modules: a feature may be called as a method of torch's containers is, such as type or values."""
    return f"of_{feature.name}"


def _build_map(feature: FeatureData, dim: int) -> nn.Module:
    if feature.offsets is None:
        return nn.Linear(feature.size, dim)
    table = nn.EmbeddingBag(feature.size, dim, mode="mean")
    nn.init.normal_(table.weight, std=0.1)
    with torch.no_grad():
        table.weight[0] = 0  # an unseen value says nothing
    return table
