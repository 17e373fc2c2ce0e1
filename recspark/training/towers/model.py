"""From a config and its pinned tables to a tower model ready to train: `two_tower`, `mf` or `light_gcn`.

items, users, user_histories -> features, train histories, target counts -> network, table, candidates -> TowerBackend
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from recspark.baselines.histories import build_user_matrix
from recspark.config import Run
from recspark.config.towers import HistoryConfig, ItemTowerConfig, TowersConfig, UserTowerConfig
from recspark.contracts import columns as c
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import NEVER
from recspark.lake.arrow import TableAt, read_table
from recspark.logs import log
from recspark.models.feature_sum import FeatureData
from recspark.models.item_neighbours import ItemNeighbours, find_neighbours
from recspark.models.light_gcn import BipartiteGraph, spectral_start
from recspark.models.ranking_head import RankingHead
from recspark.models.tower_table import TowerRows, TowerTable
from recspark.models.towers import Similarity, Towers
from recspark.training.init import init_rows
from recspark.training.inputs import TrainInputs
from recspark.training.negatives import leave_out_rare
from recspark.training.towers.backend import TowerBackend
from recspark.training.towers.candidates import CandidateSource
from recspark.training.towers.event_columns import EventColumns
from recspark.training.towers.examples import NEXT, ExampleMaker, choose_mode, number_moments
from recspark.training.towers.explicit_negatives import ExplicitNegatives, read_shown
from recspark.training.towers.features import EncodedFeature, read_features
from recspark.training.towers.graph_network import GraphNetwork
from recspark.training.towers.hard_negatives import HardNegatives
from recspark.training.towers.network import TowerNetwork, TwoTowerNetwork
from recspark.training.towers.ranking import RankingLoss
from recspark.training.world import World

InitialRows = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class TowerData:
    """What a tower model is built from. ``train`` has the train items of user u in row u, ``moments`` which of them
    came at once (`number_moments`), ``columns`` what else is known of all train events; ``kept`` bool [V] marks items
    with train events enough to be learned.
    """

    train: Ragged
    moments: Ragged
    columns: EventColumns
    kept: NDArray[np.bool_]
    item_features: list[EncodedFeature]
    user_features: list[EncodedFeature]

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.train)

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """Users with a train event [U]."""
        return self.train.lengths > 0

    @property
    def until_us(self) -> int:
        """The time of the newest train event."""
        assert self.columns.ts_us is not None
        return int(self.columns.ts_us.max(initial=NEVER))

    def users_UN(self) -> sp.csr_array:
        """Users x items: 1 where a user's train part holds the item."""
        return build_user_matrix(self.train, len(self.kept))


def build_tower_backend(run: Run, inputs: TrainInputs, world: World, num_threads: int) -> TowerBackend:
    """A model at its start. Collective.

    Raises: DataError when nothing is ever a target, or a feature cannot be read.
    """
    towers, data, seed = settle(run), read_tower_data(run, inputs), run.seed
    mode = choose_mode(towers, run.config.model.kind, run.config.source.order != "none")
    needs_times = mode == NEXT and (towers.negatives.explicit is not None or bool(towers.user.time_features))
    columns = data.columns if needs_times else replace(data.columns, ts_us=None)
    maker = ExampleMaker(towers, mode, data.kept, seed, columns)
    counts = maker.count_targets(data.train, data.moments)
    source = CandidateSource(towers.negatives, counts, data.kept, seed, by_prefix=mode == NEXT)
    torch.manual_seed(seed)  # dense parameters start alike on all ranks
    network, table = _build_network(run, towers, data, world)
    hard = ranking = None
    if run.config.model.has_ranking_head:
        ranking = RankingLoss(network.modules.ranking_head, network.similarity, towers.ranking, seed)
    if towers.negatives.hard_graph or towers.negatives.hard_model:
        hard = HardNegatives(towers.negatives, data.users_UN(), seed)
    explicit = _build_explicit(run, towers, data, inputs)
    if world.rank == 0:
        num_dense = sum(p.numel() for p in network.modules.parameters() if p.requires_grad)
        log("train", f"{run.config.model.kind}: targets {mode}, candidates {source.describe()}",
            rows=table.rows.num_rows, dense_parameters=num_dense)  # fmt: skip
    schemas = {"item": [f.schema for f in data.item_features], "user": [f.schema for f in data.user_features]}
    return TowerBackend(
        network, table, maker, source, hard, run.config.training, world, num_threads, schemas, explicit, ranking
    )


def _build_explicit(run: Run, towers: TowersConfig, data: TowerData, inputs: TrainInputs) -> ExplicitNegatives | None:
    """Negatives from events, None without any."""
    if towers.negatives.explicit is None:
        return None
    assert inputs.user_negatives, "the plan has a stage for it"
    shown = read_shown(inputs.user_negatives, data.num_users, data.kept)
    return ExplicitNegatives(towers.negatives.explicit, shown, run.seed)


def count_rows(run: Run, inputs: TrainInputs) -> int:
    """Rows of a run's table, of items and of users where these have a vector of their own."""
    assert inputs.users, "the config is checked: towers need users"
    user, num_items = settle(run).user, len(inputs.num_events)
    own_history = user.history.pooling != "none" and not user.history.shared
    num_users = read_table(inputs.users, [c.USER_IDX]).num_rows if user.id else 0
    return TowerRows(num_items, num_users, own_history).num_rows


def count_head(run: Run) -> int:
    """Parameters of a run's ranking head, laid out without memory; 0 where it has none."""
    model = run.config.model
    if not model.has_ranking_head:
        return 0
    with torch.device("meta"):
        head = RankingHead(model.towers.ranking, model.embedding_dim, model.towers.user.history.max_items, True, 1.0)
    return sum(parameter.numel() for parameter in head.parameters())


def count_neighbour_bytes(run: Run, inputs: TrainInputs) -> tuple[int, int]:
    """Bytes a process that neighbours of items take, and those that looking for them does; 0 where there are none."""
    count, num_events = settle(run).item.neighbours.count, int(inputs.num_events.sum())
    return 12 * count * len(inputs.num_events), 32 * num_events if count else 0


def settle(run: Run) -> TowersConfig:
    """The section of a run as its kind reads it: mf and light_gcn have a vector a user and one an item, no more."""
    towers = run.config.model.towers
    if run.config.model.kind == "two_tower":
        return towers
    user = UserTowerConfig(id=True, history=HistoryConfig(pooling="none"))
    return towers.model_copy(update={"user": user, "item": ItemTowerConfig()})


def read_tower_data(run: Run, inputs: TrainInputs) -> TowerData:
    """Reads all train histories and the features that the towers name.

    Raises: DataError for a feature that is not there or cannot be learned from.
    """
    assert inputs.users, "the config is checked: towers need users"
    assert inputs.user_histories
    towers, features = settle(run), run.config.features
    kept = leave_out_rare(inputs.num_events, run.config.training.min_count) > 0
    num_users = read_table(inputs.users, [c.USER_IDX]).num_rows
    train, moments, columns = read_train_by_user(inputs.user_histories, num_users, towers.user.history.event_weights)
    of_items = [f for f in features if f.of == "item"]
    of_users = [f for f in features if f.of == "user"]
    buckets = towers.item.num_buckets
    return TowerData(
        train.where(kept[train.values]),
        moments.where(kept[train.values]),
        columns,
        kept,
        read_features(inputs.items, c.ITEM_IDX, towers.item.features, of_items, buckets),
        read_features(inputs.users, c.USER_IDX, towers.user.features, of_users, buckets),
    )


def read_train_by_user(
    user_histories: TableAt, num_users: int, with_weights: bool = False
) -> tuple[Ragged, Ragged, EventColumns]:
    """The train items of each user_idx in order, repeats kept, their numbers as of `number_moments`, and what else is
    known of these events; an empty row for a user without any.

    Raises: DataError when a weight is no number of 0 or more.
    """
    asked = [c.WEIGHT] if with_weights else []
    rows = read_table(user_histories, [c.USER_IDX, c.ITEM_IDX, c.TS, c.NUM_TRAIN, *asked]).sort_by(c.USER_IDX)
    events, ts = Ragged.from_arrow(rows[c.ITEM_IDX]), pc.list_flatten(rows[c.TS]).to_numpy()
    is_tied = np.zeros(len(ts), np.bool_)
    is_tied[1:] = (ts[1:] == ts[:-1]) & (events.place_of_value[1:] > 0)
    is_train = events.place_of_value < np.repeat(rows[c.NUM_TRAIN].to_numpy(), events.lengths)
    lengths = np.zeros(num_users, np.int64)
    lengths[rows[c.USER_IDX].to_numpy()] = events.where(is_train).lengths
    train = Ragged.from_lengths(lengths, events.values[is_train])
    moments = Ragged(train.offsets, number_moments(is_tied)[is_train])
    weight = HistoryContext.from_rows(rows, asked).pick(is_train).weight
    return train, moments, EventColumns(train.offsets, ts[is_train], weight)


def _build_network(run: Run, towers: TowersConfig, data: TowerData, world: World) -> tuple[TowerNetwork, TowerTable]:
    if run.config.model.kind == "light_gcn":
        return _build_graph_network(run, towers, data, world)
    num_items, dim = len(data.kept), run.config.model.embedding_dim
    own_history = towers.user.history.pooling != "none" and not towers.user.history.shared
    rows = TowerRows(num_items, data.num_users if towers.user.id else 0, own_history)
    item_features, user_features = (_to_torch(f, world.device) for f in (data.item_features, data.user_features))
    modules = Towers(towers, dim, item_features, user_features, run.config.model.metric == "cosine")
    neighbours = find_item_neighbours(towers.item, data, run.seed)
    network = TwoTowerNetwork(modules, rows, towers, data.kept, data.is_seen, run.seed, data.until_us, neighbours)
    graph = _build_graph(towers, data) if run.config.model.kind == "mf" and towers.start == "spectral" else None
    return network, TowerTable(rows, dim, world, _choose_start(run, graph))


def find_item_neighbours(config: ItemTowerConfig, data: TowerData, seed: int) -> ItemNeighbours | None:
    """The neighbours of all items by train histories alone, None where their tower reads none."""
    if not config.neighbours.count:
        return None
    users_UN = data.users_UN()
    return find_neighbours(sp.csr_array(users_UN.T), users_UN, config.neighbours, seed)


def _build_graph_network(
    run: Run, towers: TowersConfig, data: TowerData, world: World
) -> tuple[TowerNetwork, TowerTable]:
    graph, rows = _build_graph(towers, data), TowerRows(len(data.kept), data.num_users)
    similarity = Similarity(towers, run.config.model.metric == "cosine")
    start = _choose_start(run, graph if towers.start == "spectral" else None)
    table = TowerTable(rows, run.config.model.embedding_dim, world, start)
    return GraphNetwork(similarity, graph, rows, towers.propagation), table


def _build_graph(towers: TowersConfig, data: TowerData) -> BipartiteGraph:
    return BipartiteGraph(data.users_UN(), towers.propagation.user_exponent, towers.propagation.item_exponent)


def _choose_start(run: Run, graph: BipartiteGraph | None) -> InitialRows:
    """The first rows: as long in the mean with a ``graph``, in the directions of its leading singular vectors, as
    random ones without.
    """
    dim, scale = run.config.model.embedding_dim, run.config.training.init_scale
    if graph is None:
        return lambda rows: init_rows(rows, dim, scale, run.seed)
    users, items = spectral_start(graph.to_users.matrix, dim, run.seed)
    all_rows = np.concatenate([items, users]) * np.float32(scale / np.sqrt(3))
    return lambda rows: all_rows[rows]


def _to_torch(features: list[EncodedFeature], device: str) -> list[FeatureData]:
    found = []
    for feature in features:
        offsets = None if feature.offsets is None else torch.from_numpy(feature.offsets).to(device)
        found.append(FeatureData(feature.name, feature.size, torch.from_numpy(feature.values).to(device), offsets))
    return found
