"""What ranks the users of an evaluation: the trained model, baselines, the planted truth of a synthetic source.

Each is built once from pinned tables, then lists users block by block: (start, stop) of the cases -> their lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.baselines.registry import BaselineInputs, build_factors, build_ranker, history_weights_of
from recspark.config import Run
from recspark.config.baselines import CLOSED_FORM_KINDS, PpmiSvdConfig, SpectralConfig
from recspark.config.schema import EvaluateConfig
from recspark.errors import LakeError
from recspark.evaluate.histories import Cases
from recspark.evaluate.top_k import FloatArray, Ranked, rank_all
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.lake.arrow import TableAt
from recspark.lake.folders import rebuild_command
from recspark.retrieval.query import find_exact_reason
from recspark.retrieval.recommend import Searcher, recommend
from recspark.retrieval.rerank import Reranker, open_reranker
from recspark.retrieval.user_encoder import UserEncoder, open_user_encoder
from recspark.training.readout import popularity_bias

ORACLE, RETRIEVAL = "oracle", "_retrieval"
"""Labels: the planted truth; behind a kind, what its towers retrieve, before a ranking head."""
_ORDER = ("item_knn", "rp3beta", "ease", "als", "ppmi_svd", "spectral", "popularity")
"""Of baselines in a report, whatever the config's: neighbours, factors, what everybody likes."""
RankBlock = Callable[[int, int], Ranked]
"""(start, stop) of the cases -> their lists."""


@dataclass(frozen=True)
class Setting:
    """What all models of one evaluation share."""

    run: Run
    config: EvaluateConfig
    tables: dict[str, TableAt]
    cases: Cases
    num_events: NDArray[np.int64]
    item_ids: pa.ChunkedArray
    user_ids: pa.ChunkedArray
    """Of the users scored, in the order of ``cases``."""

    @property
    def k(self) -> int:
        """Length of the lists."""
        return max(self.config.ks)

    @cached_property
    def inputs(self) -> BaselineInputs:
        """What baselines are built from; read once for all of them."""
        tables = self.tables
        of_stages = tables.get("item_graph"), tables.get("als_factors")
        return BaselineInputs(self.run.config, self.num_events, tables["user_histories"], *of_stages)


def choose_builders(run: Run) -> dict[str, Callable[[Setting], RankBlock]]:
    """What builds each ranker, by label, in the order of the report: the model, what a ranking head of it goes by, its
    baselines, the oracle.
    """
    kind, names = run.config.model.kind, run.config.baselines.names
    builders: dict[str, Callable[[Setting], RankBlock]] = {}
    builders[kind] = _build_trained if run.config.model.has_vectors else _build_baseline(kind)
    if run.config.model.has_ranking_head:
        builders[f"{kind}{RETRIEVAL}"] = _build_retrieval
    builders |= {name: _build_baseline(name) for name in _ORDER if name in names and name != kind}
    if run.config.source.kind == "synthetic":
        builders[ORACLE] = _build_oracle
    return builders


def _build_trained(setting: Setting) -> RankBlock:
    embeddings = setting.tables["item_embeddings"]
    vectors = read_item_vectors(embeddings)
    encoder, reranker = open_user_encoder(vectors, embeddings), open_reranker(vectors, embeddings)
    return _rank_by_vectors(setting, vectors, _open_index(setting), encoder, reranker)


def _build_retrieval(setting: Setting) -> RankBlock:
    embeddings = setting.tables["item_embeddings"]
    vectors = read_item_vectors(embeddings)
    return _rank_by_vectors(setting, vectors, _open_index(setting), open_user_encoder(vectors, embeddings))


def _open_index(setting: Setting) -> Searcher | None:
    if setting.config.search != "index":
        return None
    from recspark.index.store import open_index  # faiss is loaded only where it is asked for

    run = setting.run
    reason = find_exact_reason(run.lake, run.stages["index"].id, setting.tables["item_embeddings"])
    if reason:
        raise LakeError(f"evaluate: evaluate.search is index, but {reason}; {rebuild_command('indexes')}")
    index: Searcher = open_index(run.lake, run.stages["index"].id)
    return index


def _build_baseline(kind: str) -> Callable[[Setting], RankBlock]:
    def build(setting: Setting) -> RankBlock:
        if kind in CLOSED_FORM_KINDS:
            return _rank_by_vectors(setting, _build_vectors(kind, setting.inputs), None)
        rank, cases = build_ranker(kind, setting.inputs), setting.cases
        return lambda start, stop: rank(cases.history.block(start, stop), cases.masked.block(start, stop), setting.k)

    return build


def _build_vectors(kind: str, inputs: BaselineInputs) -> ItemVectors:
    """A baseline's item vectors as its section says that they are scored."""
    knobs: PpmiSvdConfig | SpectralConfig = getattr(inputs.config.baselines, kind)
    factors = build_factors(kind, inputs)
    rows = np.flatnonzero(factors.is_known)
    queries, vectors = factors.read_out(knobs.readout)
    bias = popularity_bias(inputs.num_events, factors.is_known, knobs.popularity_term)
    one_sided = queries is vectors
    vectors = vectors[rows]
    queries = vectors if one_sided else queries[rows]
    weights = history_weights_of(knobs)
    return ItemVectors(kind, knobs.metric, rows, vectors, queries, bias[rows], history_weights=weights)


def _rank_by_vectors(
    setting: Setting,
    vectors: ItemVectors,
    index: Searcher | None,
    encoder: UserEncoder | None = None,
    reranker: Reranker | None = None,
) -> RankBlock:
    cases = setting.cases

    def rank_block(start: int, stop: int) -> Ranked:
        history, masked = cases.history.block(start, stop), cases.masked.block(start, stop)
        users, context = cases.user_idx[start:stop], cases.context.block(cases.history, start, stop)
        return recommend(vectors, history, masked, setting.k, index, encoder, users, context=context, reranker=reranker)

    return rank_block


def _build_oracle(setting: Setting) -> RankBlock:
    """The planted truth's lists, over the same candidates as everyone's: the most that can be reached."""
    from recspark.sources.planted import PlantedWorld, item_number, user_number

    world = PlantedWorld(setting.run.config.source.synthetic, setting.run.seed)
    items = np.array([item_number(i) for i in setting.item_ids.to_pylist()], dtype=np.int64)
    users = np.array([user_number(u) for u in setting.user_ids.to_pylist()], dtype=np.int64)

    def rank_block(start: int, stop: int) -> Ranked:
        def score_block(first: int, last: int) -> FloatArray:
            return world.score_items(users[start + first : start + last])[:, items]

        masked = setting.cases.masked.block(start, stop)
        return rank_all(score_block, masked, len(items), setting.k, setting.num_events > 0)

    return rank_block
