"""The two towers: from vectors by id, features and a history to what is compared.

    item    (id, left out at random) + features, neighbours joined to it -> mlp
    user    pooled history + id + features -> mlp, one vector or one an interest
    head    (where there is one) user, history, candidates -> scores of these

Vectors by id are no parameters here: they live in a table over the ranks (`tower_table`), a step brings those it needs.
Shapes: N = rows, D = embedding_dim, K = interests.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recspark.config.towers import ItemTowerConfig, MlpConfig, TowersConfig, UserTowerConfig
from recspark.models.feature_sum import FeatureData, FeatureSum
from recspark.models.mlp import Mlp
from recspark.models.neighbour_layer import NeighbourLayer
from recspark.models.pooling import build_pooling
from recspark.models.ranking_head import RankingHead
from recspark.models.time_sum import TimeSum


class ItemTower(nn.Module):
    """An item's vector before it is brought to unit length; also what stands for it in a history.

    Its input is id + features, `read` by itself, as that is also what it is to items that it is a neighbour of.
    """

    def __init__(self, config: ItemTowerConfig, features: list[FeatureData], dim: int) -> None:
        super().__init__()
        self.features = FeatureSum(features, dim, config.fusion == "gate") if features else None
        self.neighbours = NeighbourLayer(dim) if config.neighbours.count else None
        self.mlp = build_mlp(config.mlp, dim)

    def read(self, ids_ND: Tensor, items_N: Tensor) -> Tensor:
        """The inputs [N, D] of vectors by id (zeros where they are left out) and item_idx."""
        return ids_ND if self.features is None else ids_ND + self.features(items_N)

    def forward(self, x_ND: Tensor, pooled_NH: Tensor | None = None) -> Tensor:
        """Inputs, and what `NeighbourLayer.pool` makes of those of their neighbours where it has any -> [N, D]."""
        if self.neighbours is not None:
            assert pooled_NH is not None
            x_ND = self.neighbours(x_ND, pooled_NH)
        out: Tensor = self.mlp(x_ND)
        return out


class UserTower(nn.Module):
    """A user's vector before it is brought to unit length: what does not hang on the history is added to it."""

    def __init__(self, config: UserTowerConfig, features: list[FeatureData], dim: int, is_gated: bool) -> None:
        super().__init__()
        h = config.history
        self.features = FeatureSum(features, dim, is_gated) if features else None
        self.pooling = build_pooling(
            h.pooling, dim, h.max_items, h.num_heads, h.num_layers, h.dropout, h.length_power, h.num_interests
        )
        self.dropout = nn.Dropout(h.dropout)
        self.mlp = build_mlp(config.mlp, dim)
        self.times = TimeSum(config.time_features, dim) if config.time_features else None

    def pool(self, x_BLD: Tensor, weight_BL: Tensor | None = None) -> Tensor:
        """Histories padded on the right [B, L, D], events' weights -> each prefix [B, L, D], or [B, L, K, D]."""
        assert self.pooling
        out: Tensor = self.pooling(self.dropout(x_BLD), weight_BL)
        return out

    def find_static(self, ids_ND: Tensor | None, users_N: Tensor) -> Tensor | None:
        """What does not hang on the history [N, D]: id and features; None without either."""
        if self.features is None:
            return ids_ND
        found: Tensor = self.features(users_N)
        return found if ids_ND is None else ids_ND + found

    def combine(self, pooled: Tensor | None, static_ND: Tensor | None, codes_NF: Tensor | None = None) -> Tensor:
        """Pooled histories [N, D] or [N, K, D] and the rest [N, D] -> of the former's shape; ``codes_NF`` are those of
        the moments (`evaluate.time_features`), of a tower that reads them.
        """
        if codes_NF is not None:
            assert self.times is not None
            times_ND = self.times(codes_NF)
            static_ND = times_ND if static_ND is None else static_ND + times_ND
        if pooled is None:
            assert static_ND is not None
            return self.mlp(static_ND)  # type: ignore[no-any-return]
        if static_ND is not None:
            pooled = pooled + (static_ND[:, None] if pooled.dim() == 3 else static_ND)
        flat: Tensor = self.mlp(pooled.reshape(-1, pooled.shape[-1]))
        return flat.view(pooled.shape)


class Similarity(nn.Module):
    """How vectors are compared: by cosine over a temperature, fixed or learned, or by inner product."""

    def __init__(self, config: TowersConfig, is_cosine: bool) -> None:
        super().__init__()
        self._is_cosine = is_cosine
        has_scale = is_cosine and config.loss not in ("triplet", "ccl")
        log_scale = -torch.tensor(config.temperature if has_scale else 1.0).log()
        self.log_scale = nn.Parameter(log_scale, requires_grad=has_scale and config.learn_temperature)

    def candidates(self, x_ND: Tensor) -> Tensor:
        """Vectors as an inner product compares them: of unit length where the metric is cosine."""
        return F.normalize(x_ND, dim=-1) if self._is_cosine else x_ND

    def queries(self, x_ND: Tensor) -> Tensor:
        """The same over the temperature."""
        return self.candidates(x_ND) * self.log_scale.exp()


class Towers(nn.Module):
    """Both towers and how they are compared; what is compared may be ranked once more by a head."""

    def __init__(
        self,
        config: TowersConfig,
        dim: int,
        item_features: list[FeatureData],
        user_features: list[FeatureData],
        is_cosine: bool,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.item = ItemTower(config.item, item_features, dim)
        self.user = UserTower(config.user, user_features, dim, config.item.fusion == "gate")
        self.similarity = Similarity(config, is_cosine)
        max_items, ranking = config.user.history.max_items, config.ranking  # last: the towers start as without it
        has_head = ranking.kind != "none"
        self.ranking_head = RankingHead(ranking, dim, max_items, is_cosine, config.temperature) if has_head else None


def build_mlp(config: MlpConfig, dim: int) -> Mlp:
    """The layers of a section `mlp`."""
    return Mlp(dim, config.hidden, config.activation, config.norm, config.dropout, config.residual)
