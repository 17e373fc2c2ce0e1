"""A head that ranks retrieved candidates once more, by what of a history counts for each of them.

    weight_i = attention(h_i, v, h_i v, how long ago)        of each history item i for candidate v
    pooled   = sum_i weight_i h_i
    score    = scale x (u . v + bias) + mlp(u, pooled, v, pooled v)

It begins as the retrieval's own order: the last layer of the mlp starts at zero, scale at 1 / temperature.
Source: Zhou et al. 2018 (Deep Interest Network), eq. 3; weights need not add up to 1. There the weights see h_i - v
too, which a linear first layer already has from h_i and v; no retrieval score is added, and no place is looked at.

Shapes: T = rows, C = candidates of each, L = items of the longest history, D = embedding_dim.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recspark.config.towers import RankingConfig
from recspark.evaluate.ranking_head import SOFTMAX, RankingHeadSpec, StoredRankingHead


class RankingHead(nn.Module):
    """Scores of candidates from vectors as the towers compare them.

    Under cosine these have unit length and are multiplied by sqrt(D), so that their numbers are about 1 at any D.
    """

    def __init__(self, config: RankingConfig, dim: int, max_items: int, is_cosine: bool, temperature: float) -> None:
        super().__init__()
        gain = math.sqrt(dim) if is_cosine else 1.0
        self.spec = RankingHeadSpec(config.candidates, max_items, config.weights, gain)
        # What is the same for all that is compared has no gradient, and an optimizer would walk on its rounding errors.
        has_level = config.weights != SOFTMAX
        self.attention = SummedMlp(3, dim, config.attention_hidden, config.activation, has_last_bias=has_level)
        self.mlp = SummedMlp(4, dim, config.hidden, config.activation, config.dropout, has_last_bias=False)
        nn.init.zeros_(self.mlp.layers[-1].weight)  # type: ignore[arg-type]
        places = torch.zeros(max_items, config.attention_hidden[0])
        self.places = nn.Parameter(places) if config.positions else None
        self.log_scale = nn.Parameter(-torch.tensor(temperature if is_cosine else 1.0).log())

    def forward(
        self, users_TD: Tensor, history_TLD: Tensor, lengths_T: Tensor, items_TCD: Tensor, retrieved_TC: Tensor
    ) -> Tensor:
        """Scores [T, C]. Histories are padded on the right with zeros; ``retrieved_TC`` are the retrieval's scores,
        similarity + bias.
        """
        u, h, v = (x * self.spec.gain for x in (users_TD, history_TLD, items_TCD))
        from_last_TL = lengths_T[:, None] - 1 - torch.arange(h.shape[1], device=h.device)
        pooled = self._weigh(h, v, from_last_TL) @ h
        added: Tensor = self.mlp(u[:, None], pooled, v, pooled * v)
        return self.log_scale.exp() * retrieved_TC + added

    def store(self) -> StoredRankingHead:
        """As plain arrays."""
        return StoredRankingHead(self.spec, {name: t.cpu().numpy().copy() for name, t in self.state_dict().items()})

    def _weigh(self, h_TLD: Tensor, v_TCD: Tensor, from_last_TL: Tensor) -> Tensor:
        """How much each history item counts for each candidate: [T, C, L]."""
        h, v = h_TLD[:, None], v_TCD[:, :, None]
        shift = None if self.places is None else self.places[from_last_TL.clamp(min=0)][:, None]
        weights: Tensor = self.attention(h, v, h * v, shift=shift)
        if self.spec.weights != SOFTMAX:
            return weights  # what stands on padding is multiplied by zeros
        return torch.softmax(weights.masked_fill(from_last_TL[:, None] < 0, -1e9), -1)


class SummedMlp(nn.Module):
    """Layers over several inputs of D numbers, down to one number: [..., D] each, broadcast -> [...].

    The first layer is a linear map an input, added up: that of all inputs side by side, without putting them there, so
    that an input which many rows share is mapped once.
    """

    def __init__(
        self,
        num_inputs: int,
        dim: int,
        hidden: tuple[int, ...],
        activation: str,
        dropout: float = 0.0,
        has_last_bias: bool = True,
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(dim, hidden[0], bias=place == 0) for place in range(num_inputs))
        layers = [nn.Linear(*widths) for widths in itertools.pairwise(hidden)]
        self.layers = nn.ModuleList([*layers, nn.Linear(hidden[-1], 1, bias=has_last_bias)])
        is_learned = activation == "prelu"
        slopes = torch.full((len(hidden),), 0.25 if is_learned else 0.0)
        self.slopes = nn.Parameter(slopes, requires_grad=is_learned)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *inputs: Tensor, shift: Tensor | None = None) -> Tensor:
        """``shift`` is added before the first activation."""
        x: Tensor = self.maps[0](inputs[0])
        for layer, one in zip(self.maps[1:], inputs[1:], strict=True):
            x = x + layer(one)
        if shift is not None:
            x = x + shift
        for place, layer in enumerate(self.layers):
            x = layer(self.dropout(F.prelu(x, self.slopes[place : place + 1])))
        return x[..., 0]
