"""Which baselines there are, and how each is built from the train part of a lake.

rankers: popularity, item_knn, rp3beta, ease, als    tables -> lists of any users
factors: ppmi_svd, spectral                          tables -> item vectors, as a trained model's
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.baselines import als, ease, histories, ppmi_svd, spectral
from recspark.baselines.factors import ItemFactors
from recspark.baselines.item_knn import build_score_matrix, rank_by_neighbours
from recspark.baselines.popularity import rank_by_popularity, weigh_by_recency
from recspark.baselines.rp3beta import build_rp3beta
from recspark.config import RunConfig
from recspark.config.baselines import HistoryConfig
from recspark.contracts import columns as c
from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.evaluate.top_k import Ranked
from recspark.lake.arrow import TableAt, read_table

Ranker = Callable[[Ragged, Ragged, int], Ranked]
"""(histories, masked items, k) of some users -> their lists."""


@dataclass(frozen=True)
class BaselineInputs:
    """What baselines are built from: ``num_events`` [N] are train events, tables are pinned.

    ``item_graph`` is that of `item_knn`, or an edge list's own, which has no ``user_histories``.
    """

    config: RunConfig
    num_events: NDArray[np.int64]
    user_histories: TableAt | None = None
    item_graph: TableAt | None = None
    als_factors: TableAt | None = None

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.num_events)

    @property
    def known(self) -> BoolArray:
        """Items with train events [N]: only they are listed."""
        return self.num_events > 0

    @cached_property
    def users_UN(self) -> sp.csr_array:
        """Users x items: 1 where the train part of a user's history holds the item."""
        assert self.user_histories, "the config is checked: this baseline needs users"
        return histories.build_user_matrix(histories.read_train_items(self.user_histories), self.num_items)

    def read_graph(self) -> Any:
        """Edges of ``item_graph``."""
        assert self.item_graph, "the plan has a stage for it"
        return read_table(self.item_graph, [c.SRC_IDX, c.DST_IDX, c.SCORE])


def check_limits(config: RunConfig, num_events: NDArray[np.int64]) -> None:
    """Checks what is limited by the catalogue, before the first of a run's baselines is built.

    Raises: ConfigError, SetupError where the catalogue is too large for one; DataError where it is too small.
    """
    num_items = int((num_events > 0).sum())
    if "ease" in config.scored_kinds:
        ease.check_size(num_items, config.baselines.ease)
    check_dimensions(config, num_items)


def check_dimensions(config: RunConfig, num_items: int) -> None:
    """Checks that a run's baselines with item vectors have items enough for their length.

    Raises: DataError.
    """
    dim, knobs = config.model.embedding_dim, config.baselines
    if "ppmi_svd" in config.scored_kinds:
        ppmi_svd.check_size(dim, knobs.ppmi_svd, num_items)
    if "spectral" in config.scored_kinds:
        spectral.check_size(dim, knobs.spectral, num_items)


def build_ranker(kind: str, inputs: BaselineInputs) -> Ranker:
    """What ranks lists by a baseline of `LIST_KINDS`.

    Raises: ConfigError, SetupError where the catalogue is too large for it.
    """
    return _RANKERS[kind](inputs)


def build_factors(kind: str, inputs: BaselineInputs) -> ItemFactors:
    """The item vectors of a baseline of `CLOSED_FORM_KINDS`, of length ``model.embedding_dim``.

    Raises: DataError, SetupError, TrainingError where the histories or the graph do not give them.
    """
    config, dim = inputs.config.baselines, inputs.config.model.embedding_dim
    seed = inputs.config.run.seed
    if kind == "ppmi_svd":
        return ppmi_svd.build_ppmi_svd(inputs.users_UN, dim, config.ppmi_svd, seed)
    if inputs.user_histories is None:
        return spectral.build_spectral_from_graph(inputs.read_graph(), inputs.num_items, dim, config.spectral, seed)
    return spectral.build_spectral_from_users(inputs.users_UN, dim, config.spectral, seed)


def history_weights_of(config: HistoryConfig) -> HistoryWeights:
    """How much each item of a history counts, as a baseline's section says."""
    return HistoryWeights(config.history_decay, config.history_items)


def _rank_popularity(inputs: BaselineInputs) -> Ranker:
    half_life = inputs.config.baselines.popularity.half_life_days
    popularity: NDArray[Any] = inputs.num_events
    if half_life is not None:
        assert inputs.user_histories
        events = histories.read_train_events(inputs.user_histories)
        popularity = weigh_by_recency(*events, half_life, inputs.num_items)
    return lambda _, masked, k: rank_by_popularity(popularity, masked, k, inputs.known)


def _rank_item_knn(inputs: BaselineInputs) -> Ranker:
    scores_NN = build_score_matrix(inputs.read_graph(), inputs.num_items)
    return _rank_by_scores(scores_NN, inputs, inputs.config.baselines.item_knn)


def _rank_rp3beta(inputs: BaselineInputs) -> Ranker:
    config = inputs.config.baselines.rp3beta
    return _rank_by_scores(build_rp3beta(inputs.users_UN, config), inputs, config)


def _rank_by_scores(scores_NN: sp.csr_array, inputs: BaselineInputs, config: HistoryConfig) -> Ranker:
    known, weights = inputs.known, history_weights_of(config)
    return lambda history, masked, k: rank_by_neighbours(scores_NN, history, masked, k, known, weights)


def _rank_ease(inputs: BaselineInputs) -> Ranker:
    check_limits(inputs.config, inputs.num_events)
    known, config = inputs.known, inputs.config.baselines.ease
    weights_MM = ease.build_ease(sp.csr_array(inputs.users_UN[:, np.flatnonzero(known)]), config.l2)
    weights = history_weights_of(config)
    return lambda history, masked, k: ease.rank_by_ease(weights_MM, known, history, masked, k, weights)


def _rank_als(inputs: BaselineInputs) -> Ranker:
    assert inputs.als_factors, "the plan has a stage for it"
    factors_ND, known = als.read_factors(inputs.als_factors, inputs.num_items)
    config = inputs.config.baselines.als
    return lambda history, masked, k: als.rank_by_als(factors_ND, known, history, masked, k, config)


_RANKERS: dict[str, Callable[[BaselineInputs], Ranker]] = {
    "popularity": _rank_popularity,
    "item_knn": _rank_item_knn,
    "rp3beta": _rank_rp3beta,
    "ease": _rank_ease,
    "als": _rank_als,
}
