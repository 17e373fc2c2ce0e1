"""Walks piece by piece: what a killed build goes on from, epochs on demand, the same rows in both modes."""

import pytest

from recspark.lake.arrow import find_done, find_table, open_table, read_table
from recspark.walks import job
from recspark.walks.pieces import Piece
from tests.helpers.walk_oracle import random_edges
from tests.helpers.walk_shards import graph_rows
from tests.helpers.walks import sha_of_walks
from tests.spark.test_walks_job import plan_walks_run, write_graph_stage

pytestmark = pytest.mark.spark

NUM_ITEMS = 30
EDGES = random_edges(25, 120, 7, directed=True) | {(3, 27): 2.0}
NEIGHBOURS = {r["src_idx"]: list(zip(r["dst_idx"], r["score"], strict=True)) for r in graph_rows(EDGES).to_pylist()}
IN_PARTS = {"p": 0.5, "q": 2.0, "num_epochs": 2, "chunk_tokens": 1000}  # 26 starts x 20 walks x 5 nodes: 3 parts


class Killed(Exception):
    """What a test throws where a machine would be lost."""


def build(spark, lake, **walks):
    """(run, digest of its walks)."""
    run = plan_walks_run(str(lake), **walks)
    if find_done(run.lake, run.stages["graph"]) is None:
        write_graph_stage(run, NEIGHBOURS, NUM_ITEMS)
    job.build_walks(spark, run)
    return run, sha_of_walks([rows_of(run)])


def rows_of(run):
    return read_table(find_table(run.lake, run.stages["walks"], "walks"))


@pytest.fixture
def pieces(monkeypatch):
    """The pieces that builds make from here on."""
    made, keep = [], job._keep
    monkeypatch.setattr(job, "_keep", lambda build, piece, frame: (keep(build, piece, frame), made.append(piece)))
    return made


@pytest.mark.parametrize(
    "rule",
    [
        IN_PARTS,
        {"p": 0.5, "q": 2.0, "variant": "node2vec_plus", "restart_probability": 0.1, "symmetrize": False},
        {"starts": "degree", "max_degree": 3, "q": 0.5},
    ],
    ids=["in parts", "plus, directed", "by degree"],
)
def test_both_modes_write_the_same_walks(spark, tmp_path, rule):
    expected, counts = None, None
    for mode, num_shards in (("replicated", None), ("sharded", 2), ("sharded", 5)):
        run, digest = build(spark, tmp_path / f"{mode}{num_shards}", mode=mode, num_shards=num_shards, **rule)
        record = find_done(run.lake, run.stages["walks"])[1]
        expected, counts = expected or digest, counts or record.counts
        assert (record.facts["mode"], digest, record.counts) == (mode, expected, counts)
    rows = rows_of(run).to_pylist()
    assert counts["num_walks"] == len(rows)
    assert counts["tokens"] == sum(len(r["walk"]) for r in rows)
    assert counts["dead_ends"] == sum(len(r["walk"]) < 5 for r in rows)
    assert not (tmp_path / "sharded5" / "checkpoints" / run.stages["walks"].key[:12] / "graph-0-5").exists()


def test_many_rounds_are_as_cheap_to_plan_as_few(spark, tmp_path):
    # Where each round's plan holds those before it, 20 rounds are more than a driver's memory.
    long = {"walk_length": 28, "num_walks": 1, "q": 2.0}
    _, digest = build(spark, tmp_path / "sharded", mode="sharded", num_shards=4, **long)
    assert digest == build(spark, tmp_path / "replicated", **long)[1]


@pytest.mark.parametrize("mode", ["replicated", "sharded"])
def test_a_killed_build_goes_on_from_its_pieces(spark, tmp_path, pieces, monkeypatch, mode):
    reached = []

    def kill(name):
        reached.append(name)
        if len(reached) == 4:
            raise Killed

    knobs = IN_PARTS | {"mode": mode}
    with monkeypatch.context() as patch:
        patch.setattr(job, "fault_point", kill)
        with pytest.raises(Killed):
            build(spark, tmp_path / "killed", **knobs)
    assert pieces == [Piece((0,), 0, 3), Piece((0,), 1, 3), Piece((0,), 2, 3), Piece((1,), 0, 3)]
    run = plan_walks_run(str(tmp_path / "killed"), **knobs)
    assert find_done(run.lake, run.stages["walks"]) is None
    pieces.clear()
    _, digest = build(spark, tmp_path / "killed", **knobs)
    assert pieces == [Piece((1,), 1, 3), Piece((1,), 2, 3)]
    assert digest == build(spark, tmp_path / "whole", **IN_PARTS)[1]


def test_a_piece_that_is_made_again_replaces_itself(spark, tmp_path, monkeypatch):
    keep = job._keep
    monkeypatch.setattr(job, "_keep", lambda *args: (keep(*args), keep(*args)))
    _, digest = build(spark, tmp_path / "twice", **IN_PARTS)
    monkeypatch.undo()
    assert digest == build(spark, tmp_path / "once", **IN_PARTS)[1]


@pytest.mark.parametrize("between", [None, 4.0], ids=["at once", "after another config"])
def test_more_epochs_take_over_those_there_are(spark, tmp_path, pieces, between):
    lake = tmp_path / "lake"
    two, first = build(spark, lake, num_epochs=2, p=0.5)
    if between:
        build(spark, lake, p=between)
    pieces.clear()
    four, _ = build(spark, lake, num_epochs=4, p=0.5)
    assert [p.epochs for p in pieces] == [(2, 3)]
    assert find_done(str(lake), four.stages["walks"])[1].counts["num_walks"] == 4 * 26 * 20 == len(rows_of(four))
    assert sha_of_walks([rows_of(four)]) == build(spark, tmp_path / "fresh", num_epochs=4, p=0.5)[1]
    pieces.clear()
    one, _ = build(spark, lake, num_epochs=1, p=0.5)
    assert pieces == []
    assert set(rows_of(one)["epoch"].to_pylist()) == {0}
    assert sha_of_walks([rows_of(two)]) == first, "earlier versions stay what they are"


def test_epochs_whose_files_are_lost_are_walked_again(spark, tmp_path, pieces):
    two, _ = build(spark, tmp_path / "lake", num_epochs=2)
    for uri in open_table(two.lake, "walks").file_uris():
        (tmp_path / uri.removeprefix("file://")).unlink()
    pieces.clear()
    _, digest = build(spark, tmp_path / "lake", num_epochs=3)
    assert [p.epochs for p in pieces] == [(0, 1, 2)]
    assert digest == build(spark, tmp_path / "fresh", num_epochs=3)[1]


def test_a_reader_sees_no_chunk_before_the_marker(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_publish", lambda *_: None)
    run = plan_walks_run(str(tmp_path / "lake"))
    write_graph_stage(run, NEIGHBOURS, NUM_ITEMS)
    job.build_walks(spark, run)
    assert not (tmp_path / "lake" / "tables" / "walks" / "_delta_log").exists()
