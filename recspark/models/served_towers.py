"""Towers as programs for other runtimes: plain tensors in, vectors out, padding instead of ragged rows.

user tower   items int64 [B, L] (item_idx, right-padded with -1), user int64 [B] (-1: unknown)  ->  [B, D], [B, K, D]
             where the tower asks for them, after these: weights float32 [B, L] of the events (0 or more); moment_us and
             last_us int64 [B], when a user is asked for and the last event before (below 0: unknown)
item tower   id vector [N, D], then each feature: codes int64 [N, M] (padded with -1), or vectors [N, W]; of a tower
             with neighbours also their item_idx int64 [N, T] (padded with -1) and visits float32 [N, T]  ->  [N, D]
ranking head items int64 [B, L], user vector [B, D], candidates int64 [B, C] (item_idx)  ->  scores [B, C]
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recspark.evaluate.history_context import MIN_WEIGHT
from recspark.models.feature_sum import FeatureSum
from recspark.models.pooling import MeanPooling
from recspark.models.ranking_head import RankingHead
from recspark.models.time_sum import TimeSum
from recspark.models.towers import ItemTower


class ServedUserTower(nn.Module):
    """A trained user tower with the items' tokens and what users have of their own.

    ``tokens_VD`` are the query vectors of all items; ``static`` [U + 1, D], whose last row is an unknown user's, is
    added to a pooled history. Users without a known item and without a row get zeros. ``times`` where the moment
    counts at which a user is asked for, ``has_weights`` where those of events do.
    """

    tokens: Tensor
    static: Tensor | None

    def __init__(
        self, tokens_VD: Tensor, pooling: nn.Module, mlp: nn.Module, static: Tensor | None, unit_items: bool,
        times: TimeSum | None = None, has_weights: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pooling, self.mlp, self.times = pooling, mlp, times
        self._unit_items, self._has_weights = unit_items, has_weights
        self.register_buffer("tokens", tokens_VD)
        self.register_buffer("static", static)

    def forward(self, items_BL: Tensor, user_B: Tensor, *more: Tensor) -> Tensor:
        """The newest item of a history stands last before the padding."""
        weight_BL = more[0].clamp(min=MIN_WEIGHT) if self._has_weights else None
        is_there = items_BL >= 0
        lengths_B = is_there.sum(1)
        x_BLD = self.tokens[items_BL.clamp(min=0)]
        if self._unit_items:
            x_BLD = F.normalize(x_BLD, dim=-1)
        x_BLD = x_BLD * is_there[..., None].to(x_BLD.dtype)
        pooled = self._pool(x_BLD, lengths_B, weight_BL)
        some = (lengths_B > 0).to(pooled.dtype)
        pooled = pooled * (some[:, None] if pooled.dim() == 2 else some[:, None, None])
        if self.static is not None:
            row_B = torch.where(user_B < 0, self.static.shape[0] - 1, user_B)
            own = self.static[row_B]
            pooled = pooled + (own if pooled.dim() == 2 else own[:, None])
        if self.times is not None:
            said = self.times(self.times.encode(more[-2], more[-1]))
            pooled = pooled + (said if pooled.dim() == 2 else said[:, None])
        out: Tensor = self.mlp(pooled)
        if self.static is None:
            out = out * (some[:, None] if out.dim() == 2 else some[:, None, None])
        return out

    def _pool(self, x_BLD: Tensor, lengths_B: Tensor, weight_BL: Tensor | None) -> Tensor:
        if weight_BL is None and isinstance(self.pooling, MeanPooling) and self.pooling.rate is None:
            return x_BLD.sum(1) / lengths_B.clamp(min=1).to(x_BLD.dtype).pow(self.pooling.power)[:, None]
        prefixes: Tensor = self.pooling(x_BLD, weight_BL)
        last_B = (lengths_B - 1).clamp(min=0)
        shape = (-1, 1) + (1,) * (prefixes.dim() - 2)
        index = last_B.view(shape).expand(-1, 1, *prefixes.shape[2:])
        return prefixes.gather(1, index)[:, 0]


class ServedItemTower(nn.Module):
    """A trained item tower; the id vector of an item without train events is zeros.

    ``inputs_VD`` are the inputs of all items, which a tower with neighbours reads them by.
    """

    inputs: Tensor | None

    def __init__(self, tower: ItemTower, inputs_VD: Tensor | None = None) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("inputs", inputs_VD)

    def forward(self, ids_ND: Tensor, *more: Tensor) -> Tensor:
        """``more``: features in the order of the schema, then neighbours and their visits."""
        x_ND, features = ids_ND, self.tower.features
        num_features = 0 if features is None else len(features.maps)
        if features is not None:
            for name, values in zip(features.maps, more[:num_features], strict=True):
                x_ND = x_ND + _look_up(features, name, values)
        out: Tensor = self.tower(x_ND, self._pool(*more[num_features:]) if self.inputs is not None else None)
        return out

    def _pool(self, neighbours_NT: Tensor, visits_NT: Tensor) -> Tensor:
        """[N, H]; an item without neighbours gets zeros."""
        assert self.inputs is not None
        assert self.tower.neighbours is not None
        visits_NT = visits_NT * (neighbours_NT >= 0).to(visits_NT.dtype)
        weights_NT = visits_NT / visits_NT.sum(1, keepdim=True).clamp(min=1e-12)
        messages = self.tower.neighbours.read(self.inputs[neighbours_NT.clamp(min=0)])
        return (messages * weights_NT[..., None]).sum(1)


class ServedRankingHead(nn.Module):
    """A trained ranking head with the items' vectors as they are compared: ``tokens_VD`` in a history, ``vectors_VD``
    and ``bias_V`` as candidates.
    """

    tokens: Tensor
    vectors: Tensor
    bias: Tensor

    def __init__(
        self, head: RankingHead, tokens_VD: Tensor, vectors_VD: Tensor, bias_V: Tensor, is_cosine: bool
    ) -> None:
        super().__init__()
        self.head, self._is_cosine = head, is_cosine
        self.register_buffer("tokens", tokens_VD)
        self.register_buffer("vectors", vectors_VD)
        self.register_buffer("bias", bias_V)

    def forward(self, items_BL: Tensor, user_BD: Tensor, candidates_BC: Tensor) -> Tensor:
        """The newest item of a history stands last before the padding; a user as the user tower gives him."""
        is_there = items_BL >= 0
        h_BLD = self.tokens[items_BL.clamp(min=0)] * is_there[..., None].to(self.tokens.dtype)
        u_BD = F.normalize(user_BD, dim=-1) if self._is_cosine else user_BD
        v_BCD = self.vectors[candidates_BC]
        retrieved_BC = (v_BCD * u_BD[:, None]).sum(-1) + self.bias[candidates_BC]
        scores: Tensor = self.head(u_BD, h_BLD, is_there.sum(1), v_BCD, retrieved_BC)
        return scores


def _look_up(features: FeatureSum, name: str, values: Tensor) -> Tensor:
    """One feature's part [N, D]; codes are averaged over those that are there."""
    module = features.maps[name]
    if isinstance(module, nn.EmbeddingBag):
        is_there = (values >= 0).to(module.weight.dtype)
        summed = (module.weight[values.clamp(min=0)] * is_there[..., None]).sum(1)
        x_ND = summed / is_there.sum(1).clamp(min=1)[:, None]
    else:
        x_ND = module(values)
    return x_ND * torch.sigmoid(features.gates[name](x_ND)) if len(features.gates) else x_ND
