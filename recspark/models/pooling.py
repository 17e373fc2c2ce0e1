"""A history of item vectors as a user's vector: for every prefix of it, each looking at nothing behind its end.

Histories are padded on the right, so that prefix t of every one ends at place t. Where items have weights (above 0, of
padding too), one of weight w counts as w of them would.
Shapes: B = histories, L = items of the longest, D = embedding_dim, K = interests.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MeanPooling(nn.Module):
    """The sum of the items so far over n^power, n their number or the sum of their weights. ``decay``: item d places
    before the end weighs exp(-g d) of all, times its own weight; g is learned and starts at softplus(1) = 1.3.
    """

    def __init__(self, power: float = 1.0, decay: bool = False) -> None:
        super().__init__()
        self.power = power
        self.rate = nn.Parameter(torch.ones(())) if decay else None

    def forward(self, x_BLD: Tensor, weight_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]: row t is made of items 0..t."""
        shares = self.weights(x_BLD.shape[1], x_BLD.device)
        if weight_BL is None:
            return shares @ x_BLD
        shares = shares * weight_BL[:, None]
        if self.rate is not None:
            return (shares / shares.sum(2, keepdim=True)) @ x_BLD
        count_L = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device)
        return (shares * (count_L / weight_BL.cumsum(1)).pow(self.power)[..., None]) @ x_BLD

    def weights(self, length: int, device: torch.device) -> Tensor:
        """float32 [L, L]: what item j weighs in prefix t."""
        place = torch.arange(length, device=device, dtype=torch.float32)
        distance = place[:, None] - place[None, :]
        if self.rate is None:
            return (distance >= 0) / (place + 1)[:, None].pow(self.power)
        scores = -F.softplus(self.rate) * distance
        return torch.softmax(scores.masked_fill(distance < 0, -math.inf), 1)


class AttentionPooling(nn.Module):
    """A causal transformer over the items with learned positions, counted from the start; the last state is the user.

    An item of weight w is looked at as w of it would be: log w is added to its scores. Pre-norm layers. Source: Kang &
    McAuley 2018 (SASRec), with GELU and the layer's input kept unscaled.
    """

    def __init__(self, dim: int, max_items: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_items, dim) * 0.02)
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(AttentionLayer(dim, num_heads, dropout) for _ in range(num_layers))

    def forward(self, x_BLD: Tensor, weight_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        h_BLD = self.dropout(self.norm_in(x_BLD + self.positions[: x_BLD.shape[1]]))
        bias = None if weight_BL is None else _look_back(weight_BL)
        for layer in self.layers:
            h_BLD = layer(h_BLD, bias)
        out: Tensor = self.norm_out(h_BLD)
        return out


class AttentionLayer(nn.Module):
    """Causal self-attention and a feed-forward net of twice the width, each behind a norm and around a residual."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.rate = num_heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BLD: Tensor, bias_B1LL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]; ``bias_B1LL`` is added to the scores, -inf where a place must not look."""
        h_BLD = h_BLD + self.dropout(self.out(self._attend(self.norm_attention(h_BLD), bias_B1LL)))
        fed: Tensor = self.narrow(self.dropout(F.gelu(self.widen(self.norm_feed(h_BLD)))))
        return h_BLD + F.dropout(fed, self.rate, self.training)

    def _attend(self, h_BLD: Tensor, bias_B1LL: Tensor | None) -> Tensor:
        b, length, dim = h_BLD.shape
        q, k, v = self.to_qkv(h_BLD).view(b, length, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias_B1LL, dropout_p=rate, is_causal=bias_B1LL is None
        )
        return mixed.transpose(1, 2).reshape(b, length, dim)


class InterestPooling(nn.Module):
    """K vectors a prefix: weighted means of its items, the weights by K small attention heads, times the items' own.

    Source: Cen et al. 2020 (ComiRec-SA), eq. 4 to 6, with positions counted from the start as there.
    """

    def __init__(self, dim: int, max_items: int, num_interests: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_items, dim) * 0.02)
        self.widen, self.score = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, num_interests, bias=False)

    def forward(self, x_BLD: Tensor, weight_BL: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, K, D]."""
        scores_BLK = self.score(torch.tanh(self.widen(x_BLD + self.positions[: x_BLD.shape[1]])))
        # Running softmax: one exponential an item serves all prefixes; a maximum over all keeps it finite.
        weights_BLK = (scores_BLK - scores_BLK.amax(1, keepdim=True).detach()).clamp_min(-60).exp()
        if weight_BL is not None:
            weights_BLK = weights_BLK * weight_BL[..., None]
        summed = (weights_BLK[..., None] * x_BLD[:, :, None]).cumsum(1)
        return torch.div(summed, weights_BLK.cumsum(1)[..., None])


def _look_back(weight_BL: Tensor) -> Tensor:
    """What is added to scores [B, 1, L, L] of items before a place and at it; -inf for those behind."""
    place = torch.arange(weight_BL.shape[1], device=weight_BL.device)
    is_behind = place[None, :] > place[:, None]
    return weight_BL.log()[:, None, None, :].masked_fill(is_behind, -math.inf)


def build_pooling(
    kind: str, dim: int, max_items: int, num_heads: int, num_layers: int, dropout: float, power: float, interests: int
) -> nn.Module | None:
    """The module of a pooling's name, None for `none`."""
    if kind == "none":
        return None
    if kind == "attention":
        return AttentionPooling(dim, max_items, num_heads, num_layers, dropout)
    if kind == "multi_interest":
        return InterestPooling(dim, max_items, interests)
    return MeanPooling(power, decay=kind == "decay")
