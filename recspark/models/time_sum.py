"""A moment's codes as one vector, and the codes of moments inside an exported tower.

Shapes: N = rows, F = features, D = embedding_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recspark.evaluate.time_features import DAY, DAY_US, EDGES_US, HOUR, HOUR_US, SIZES


class TimeSum(nn.Module):
    """The sum of what each code stands for; code 0, what is not known, says nothing."""

    edges_us: Tensor

    def __init__(self, names: Sequence[str], dim: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Embedding(SIZES[name], dim, padding_idx=0) for name in names})
        for table in self.maps.values():
            nn.init.normal_(table.weight, std=0.1)  # type: ignore[arg-type]
            with torch.no_grad():
                table.weight[0] = 0  # type: ignore[operator]
        self.register_buffer("edges_us", torch.from_numpy(EDGES_US), persistent=False)

    def forward(self, codes_NF: Tensor) -> Tensor:
        """Codes of `evaluate.time_features`, in the order of the names -> [N, D]."""
        parts = [table(codes_NF[:, place]) for place, table in enumerate(self.maps.values())]
        return torch.stack(parts).sum(0)

    def encode(self, moment_us_N: Tensor, last_us_N: Tensor) -> Tensor:
        """[N, F] of moments and the last events before them in microseconds since the epoch, below 0 where unknown."""
        found = [self._encode(name, moment_us_N, last_us_N) for name in self.maps]
        return torch.stack(found, 1) * (moment_us_N >= 0)[:, None]

    def _encode(self, name: str, moment_us_N: Tensor, last_us_N: Tensor) -> Tensor:
        if name == HOUR:
            return torch.div(moment_us_N, HOUR_US, rounding_mode="floor") % 24 + 1
        if name == DAY:
            return (torch.div(moment_us_N, DAY_US, rounding_mode="floor") + 3) % 7 + 1
        bucket = ((moment_us_N - last_us_N)[:, None] >= self.edges_us).sum(1) + 1
        return bucket * ((last_us_N >= 0) & (last_us_N < moment_us_N))
