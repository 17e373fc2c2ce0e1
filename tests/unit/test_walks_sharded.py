"""Sharded walks are the replicated ones, for any number of shards and any rule of a step."""

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from recspark.config.schema import WalksConfig
from recspark.graph.csr import graph_from_table
from recspark.walks import bursts
from recspark.walks import shard_files as sf
from recspark.walks import shard_graph as sg
from recspark.walks.bursts import ShardTask
from recspark.walks.graph_files import write_graph
from recspark.walks.messages import Message, from_bytes, join_messages, to_bytes
from recspark.walks.modes import degrees_of, prepare_graph
from recspark.walks.pieces import Piece
from recspark.walks.plan import bias_of, measure_graph
from recspark.walks.starts import find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import WalkTask, walk_batches
from tests.helpers.walk_oracle import GRAPHS, random_edges
from tests.helpers.walk_shards import build_files, graph_rows, run_rounds
from tests.helpers.walks import chunk_numbers, sha_of_walks

NUM_NODES = 60
EDGES = random_edges(50, 400, 9, directed=True) | {(3, n): 2.0 for n in range(50)} | {(7, 55): 1.0, (8, 55): 0.0}
RULES = [
    {},
    {"p": 0.25, "q": 2.0},
    {"p": 4.0, "q": 0.5},
    {"p": 0.5, "q": 1.0},
    {"p": 1e4, "q": 1e4},
    {"p": 0.25, "q": 2.0, "weighted": False},
    {"p": 0.25, "q": 2.0, "symmetrize": False},
    {"p": 0.25, "q": 0.5, "max_degree": 4},
    {"p": 0.25, "q": 2.0, "variant": "node2vec_plus"},
    {"p": 2.0, "q": 0.25, "variant": "node2vec_plus", "gamma": 0.5, "symmetrize": False},
    {"p": 0.25, "q": 2.0, "restart_probability": 0.3},
    {"q": 2.0, "restart_probability": 0.2, "symmetrize": False, "variant": "node2vec_plus"},
    {"p": 0.25, "q": 2.0, "starts": "degree"},
    {"p": 0.25, "q": 2.0, "starts": "degree", "symmetrize": False},
]


def config_of(rule):
    return WalksConfig.model_validate({"walk_length": 9, "num_walks": 7} | rule)


def prepared(config):
    return prepare_graph(graph_from_table(graph_rows(EDGES), NUM_NODES), config)


def replicated(config, folder, piece):
    graph, bias = prepared(config), bias_of(config)
    degrees = degrees_of(config, measure_graph(graph, bias, config.weighted))
    starts = find_starts(graph.indptr, num_walks=config.num_walks, by_degree=degrees)
    files = write_graph("graph", build_walk_graph(graph, bias, config.weighted), starts, str(folder))
    task = WalkTask(files, bias, 3, config.num_walks, config.walk_length, piece, 1)
    return sha_of_walks(walk_batches(chunk_numbers(1), task))


def shard_task(config, folder, num_shards, piece, num_files=3):
    plan = sg.ShardPlan(NUM_NODES, bias_of(config), config.weighted, config.symmetrize, config.max_degree, str(folder))
    files = build_files(graph_rows(EDGES), plan, num_shards)
    size = measure_graph(prepared(config), plan.bias, config.weighted)
    assert (sum(files.num_edges), files.num_starts) == (size.num_edges, size.num_starts)
    degrees = degrees_of(config, size)
    return ShardTask(files, plan.bias, 3, config.num_walks, config.walk_length, degrees, piece, num_files)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_same_walks_for_any_number_of_shards(rule, tmp_path):
    config, piece = config_of(rule), Piece((0, 1), 0, 1)
    expected = replicated(config, tmp_path, piece)
    for num_shards in (1, 2, 7, 50):
        walks, rounds = run_rounds(shard_task(config, tmp_path / str(num_shards), num_shards, piece))
        assert sha_of_walks(walks) == expected
        assert 1 <= rounds <= 9
        assert (rounds == 1) == (num_shards == 1)


def test_parts_of_an_epoch_are_the_same_in_both_modes(tmp_path):
    config = config_of({"p": 0.25, "q": 2.0})
    for part in range(3):
        piece = Piece((1,), part, 3)
        walks, _ = run_rounds(shard_task(config, tmp_path / str(part), 4, piece))
        assert sha_of_walks(walks) == replicated(config, tmp_path, piece)


def test_small_bursts_and_messages_change_nothing(tmp_path, monkeypatch):
    config, piece = config_of({"p": 0.25, "q": 2.0, "variant": "node2vec_plus"}), Piece((0,), 0, 1)
    task = shard_task(config, tmp_path, 5, piece)
    expected = sha_of_walks(run_rounds(task)[0])
    monkeypatch.setattr(bursts, "BURST_WALKERS", 11)
    monkeypatch.setattr(bursts, "FLUSH_BYTES", 200)
    assert sha_of_walks(run_rounds(task)[0]) == expected


def test_files_hold_mixed_starts_in_an_order_that_no_sharding_changes(tmp_path):
    config, piece = config_of({}), Piece((0,), 0, 1)
    one, many = (run_rounds(shard_task(config, tmp_path / str(n), n, piece))[0] for n in (1, 9))
    one, many = (pa.Table.from_batches(w) for w in (one, many))
    assert one.equals(many)
    starts = one["start_idx"].to_numpy()
    assert abs(np.corrcoef(starts, np.arange(len(starts)))[0, 1]) < 0.2


def test_a_message_survives_its_journey():
    lists = np.array([0, 2, 2], np.int64), np.array([4, 9], np.int32), np.array([0.5, 1.0], np.float32)
    one = Message(
        *(np.array([1, 2], np.int32),) * 4, np.array([[1, 2], [3, 4]], np.int32), np.array([1, -1], np.int32), *lists
    )
    back = from_bytes(to_bytes(one))
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(one, back, strict=True))
    wide = one._replace(nodes=np.ones((2, 3), np.int32))
    both = join_messages([one, wide])
    assert both.nodes.tolist() == [[1, 2, 0], [3, 4, 0], [1, 1, 1], [1, 1, 1]]
    assert both.near_row.tolist() == [1, -1, 3, -1]
    assert both.near_indptr.tolist() == [0, 2, 2, 4, 4]


def test_walkers_from_one_node_carry_its_row_once(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(bursts, "to_row", lambda shard, file, message: sent.append((shard, message)))
    config = config_of({"q": 2.0, "num_walks": 200})
    list(bursts.begin_batches(chunk_numbers(4), shard_task(config, tmp_path, 4, Piece((0,), 0, 1))))
    graph = prepared(config)
    moved = [m for shard, m in sent if shard >= 0]
    assert moved
    for message in moved:
        assert len(message.near_indptr) - 1 == len(set(message.previous.tolist())) < message.num_walkers
        for previous, row in zip(message.previous, message.near_row, strict=True):
            carried = message.near[message.near_indptr[row] : message.near_indptr[row + 1]]
            np.testing.assert_array_equal(carried, graph.indices[graph.indptr[previous] : graph.indptr[previous + 1]])


def test_two_attempts_of_a_task_say_the_same_and_do_not_meet(tmp_path):
    # As a speculative copy beside its original, which Spark starts on another host only.
    config, piece = config_of({"p": 0.25, "q": 2.0}), Piece((0,), 0, 1)
    one, two = (shard_task(config, tmp_path, 3, piece) for _ in range(2))  # built twice into one folder
    assert not set(one.files.names) & set(two.files.names)
    for shard in range(3):
        for mine, other in zip(sf.open_shard(one.files, shard)[0], sf.open_shard(two.files, shard)[0], strict=True):
            np.testing.assert_array_equal(mine, other)
    first, second = (list(bursts.begin_batches(chunk_numbers(3), task)) for task in (one, two))
    assert [b.to_pydict() for b in first] == [b.to_pydict() for b in second]


@pytest.mark.parametrize("num_shards", [1, 2, 5, 1000])
@pytest.mark.parametrize("num_nodes", [3, 40, 100_000])
def test_cuts_are_ranges_of_all_nodes(num_nodes, num_shards):
    random = np.random.default_rng(1)
    nodes = (random.random(5000) ** 3 * num_nodes).astype(np.int64)
    counts = np.bincount(nodes * sg.NUM_BUCKETS // num_nodes, minlength=sg.NUM_BUCKETS)
    bounds = sg.cut_nodes(counts, num_nodes, num_shards)
    assert bounds[0] == 0
    assert bounds[-1] == num_nodes
    assert (np.diff(bounds) > 0).all()
    assert len(bounds) <= num_shards + 1
    if num_nodes > 1000 and num_shards == 5:
        held = np.histogram(nodes, bounds)[0]
        assert held.max() < 1.2 * held.mean()


def test_damaged_edges_and_repeated_ones_are_counted(tmp_path):
    plan = sg.ShardPlan(4, bias_of(WalksConfig()), True, True, None, str(tmp_path), (0, 4))
    rows = graph_rows({(0, 1): float("nan"), (1, 9): 1.0, (2, 1): -1.0, (3, 1): 1.0})
    (facts,) = sg.scan_batches(rows.to_batches(), plan)
    assert facts.column("flaws")[0].as_py() == 3
    twice = pa.concat_tables([graph_rows({(0, 1): 1.0, (1, 0): 1.0}), graph_rows({(0, 1): 2.0})])
    (facts,) = sg.build_batches(sg.pack_batches(twice.to_batches(), plan), plan)
    assert facts.column("repeated")[0].as_py() == 1


def test_a_shard_is_fetched_once_a_machine(tmp_path):
    source = tmp_path / "store" / "shard"
    source.mkdir(parents=True)
    (source / "indptr.npy").write_bytes(b"1")
    store, cache = pafs.LocalFileSystem(), str(tmp_path / "cache")
    first = sf.fetch(store, str(source), cache)
    (source / "indptr.npy").write_bytes(b"2")
    assert sf.fetch(store, str(source), cache) == first
    assert (tmp_path / "cache" / first.rsplit("/", 1)[1] / "indptr.npy").read_bytes() == b"1"


def test_the_golden_graph_worked_by_hand_holds_in_shards(tmp_path):
    # As in the kernel's test: at 1, from 0, with p = 1/2, q = 2: 0, 2 and 3 are a third each.
    num_nodes, edges = GRAPHS["golden"]
    config = WalksConfig(p=0.5, q=2.0, walk_length=3, num_walks=60_000)
    plan = sg.ShardPlan(num_nodes, bias_of(config), True, True, None, str(tmp_path))
    task = ShardTask(build_files(graph_rows(edges), plan, 5), plan.bias, 1, 60_000, 3, None, Piece((0,), 0, 1), 1)
    assert task.files.num_shards == 5
    walks = np.array([row for batch in run_rounds(task)[0] for row in batch.column("walk").to_pylist()])
    third = np.bincount(walks[(walks[:, 0] == 0) & (walks[:, 1] == 1), 2], minlength=5) / 30_000
    np.testing.assert_allclose(third, [1 / 3, 0, 1 / 3, 1 / 3, 0], atol=0.02)
