"""An item's input together with those of its neighbours: one convolution of PinSage.

    n = sum over neighbours j of weight_j ReLU(Q x_j + q)        zeros without neighbours
    h = ReLU(W [x, n] + w), at unit length
    z = x + G h

Shapes: I = items, J = items whose inputs are needed, E = pairs of item and neighbour, D = embedding_dim, H = 2 D.
Source: Ying et al. 2018 (PinSage), algorithm 1 with importance pooling (weights are shares of visits) and H twice D as
there; G is their last layer (algorithm 2, line 8), here x is added. Weights start where z is x and half the direction
of its neighbours' mean, not at random: from there few steps of training are needed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NEIGHBOURS_SHARE = 0.5


class NeighbourLayer(nn.Module):
    """Q is ``message``, W ``join``, G ``out``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 2 * dim
        self.message, self.join = nn.Linear(dim, width), nn.Linear(dim + width, width)
        self.out = nn.Linear(width, dim, bias=False)
        positive_and_negative = torch.cat([torch.eye(dim), -torch.eye(dim)])
        with torch.no_grad():
            self.message.weight.copy_(positive_and_negative)
            self.join.weight.copy_(torch.cat([torch.zeros(width, dim), torch.eye(width)], 1))
            self.out.weight.copy_(_NEIGHBOURS_SHARE * positive_and_negative.T)
            self.message.bias.zero_()
            self.join.bias.zero_()

    def read(self, x: Tensor) -> Tensor:
        """What an input [..., D] says as a neighbour [..., H]."""
        return torch.relu(self.message(x))

    def pool(self, x_JD: Tensor, starts_I: Tensor, places_E: Tensor, weights_E: Tensor) -> Tensor:
        """Weighted sums of neighbours [I, H]; the arrays are those of `Near`. Never holds them one by one."""
        return F.embedding_bag(places_E, self.read(x_JD), starts_I, mode="sum", per_sample_weights=weights_E)

    def forward(self, x_ID: Tensor, pooled_IH: Tensor) -> Tensor:
        """[I, D] and [I, H] -> [I, D]."""
        hidden = torch.relu(self.join(torch.cat([x_ID, pooled_IH], -1)))
        out: Tensor = x_ID + self.out(F.normalize(hidden, dim=-1))
        return out
