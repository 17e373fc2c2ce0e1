import pyarrow as pa
import pytest

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import TABLES
from recspark.errors import DataError
from recspark.lake.arrow import find_done, find_table, open_table, read_table
from recspark.walks.bias import make_bias
from recspark.walks.graph_files import open_graph
from recspark.walks.job import build_walks
from recspark.walks.pieces import Piece
from recspark.walks.replicated import publish_graph, unsorted_writes, walk_frame
from recspark.walks.starts import find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import WalkTask, walk_batches
from tests.helpers.tiny_lake import write_stage
from tests.helpers.walks import chunk_numbers, ring_with_chords, sha_of_walks

pytestmark = pytest.mark.spark

NUM_ITEMS = 8
ONE_WAY = {0: [(1, 3.0), (2, 1.0)], 1: [(2, 2.0)], 2: [(3, 1.0)], 4: [(0, 0.5), (5, 0.0)]}  # 5, 6, 7 are isolated


def plan_walks_run(lake, source="files", **walks):
    columns = {"ts": "ts"} if source == "files" else {}
    more = {"directed": True} if source == "edges" else {"columns": columns}
    return plan_run(
        RunConfig.model_validate(
            {
                "paths": {"lake": lake},
                "run": {"seed": 5},
                "source": {"kind": source, "path": "events.csv", "format": "csv"} | more,
                "split": {"kind": "time", "cut": "2026-02-01"},
                "walks": {"walk_length": 5, "num_walks": 20} | walks,
            }
        ),
        {"fingerprint": "tiny"},
    )


def write_graph_stage(run, neighbours=ONE_WAY, num_items=NUM_ITEMS):
    """Items and item_graph as the run's own stages would have written them."""
    items = pa.Table.from_pylist(
        [{"item_idx": i, "item_id": f"i{i}", "num_events": 1, "active": True} for i in range(num_items)],
        schema=TABLES["items"].schema,
    )
    edges = pa.Table.from_pylist(
        [
            {"src_idx": s, "dst_idx": [d for d, _ in row], "score": [w for _, w in row], "count": [1] * len(row)}
            for s, row in neighbours.items()
        ],
        schema=TABLES["item_graph"].schema,
    )
    if run.producer("item_graph").name == "ingest":
        write_stage(run, "ingest", {"items": items, "item_graph": edges})
    else:
        write_stage(run, "sessions", {"items": items})
        write_stage(run, "graph", {"item_graph": edges})


def rows_of(run):
    return read_table(find_table(run.lake, run.stages["walks"], "walks")).to_pylist()


def test_walks_of_a_pruned_graph_go_both_ways(spark, lake):
    run = plan_walks_run(lake, p=0.5, q=2.0)
    write_graph_stage(run)
    build_walks(spark, run)
    rows = rows_of(run)
    joined = {(s, d) for s, row in ONE_WAY.items() for d, w in row if w} | {(0, 4)}
    joined |= {(d, s) for s, d in joined}
    assert len(rows) == 5 * 20
    assert all(len(r["walk"]) == 5 and r["walk"][0] == r["start_idx"] for r in rows)
    assert {pair for r in rows for pair in zip(r["walk"], r["walk"][1:], strict=False)} == joined
    version, record = find_done(run.lake, run.stages["walks"])
    assert (version, record.inputs) == (0, {"item_graph": 0, "items": 0})
    assert record.facts.items() >= {"num_items": 8, "num_shards": 64, "mode": "replicated", "num_epochs": 1}.items()
    assert record.counts == {
        "num_walks": 100, "tokens": 500, "dead_ends": 0, "num_nodes": 8, "num_edges": 10, "isolated": 3
    }  # fmt: skip


def test_directed_walks_stop_at_dead_ends_and_the_counts_say_so(spark, lake):
    run = plan_walks_run(lake, symmetrize=False)
    write_graph_stage(run)
    build_walks(spark, run)
    rows = rows_of(run)
    assert {r["start_idx"] for r in rows} == {0, 1, 2, 4}
    assert {tuple(r["walk"]) for r in rows if r["start_idx"] == 4} == {(4, 0, 1, 2, 3), (4, 0, 2, 3)}
    counts = find_done(run.lake, run.stages["walks"])[1].counts
    assert counts["num_walks"] == len(rows) == 80
    assert counts["tokens"] == sum(len(r["walk"]) for r in rows)
    assert counts["dead_ends"] == sum(len(r["walk"]) < 5 for r in rows) >= 60
    assert counts["isolated"] == 4


def test_unweighted_walks_take_edges_of_score_zero(spark, lake):
    run = plan_walks_run(lake, weighted=False, symmetrize=False)
    write_graph_stage(run)
    build_walks(spark, run)
    assert {tuple(r["walk"][:2]) for r in rows_of(run) if r["start_idx"] == 4} == {(4, 0), (4, 5)}


def test_max_degree_keeps_the_heaviest(spark, lake):
    run = plan_walks_run(lake, max_degree=1)
    write_graph_stage(run)
    build_walks(spark, run)
    steps = {pair for r in rows_of(run) for pair in zip(r["walk"], r["walk"][1:], strict=False)}
    assert steps == {(0, 1), (1, 0), (2, 1), (3, 2), (4, 0)}


def test_an_ingested_edge_list_is_walked_on(spark, lake):
    run = plan_walks_run(lake, source="edges", symmetrize=False)
    write_graph_stage(run)
    build_walks(spark, run)
    assert len(rows_of(run)) == 80


def test_epochs_are_partitions_and_differ(spark, lake):
    run = plan_walks_run(lake, num_epochs=3, q=0.5)
    write_graph_stage(run)
    build_walks(spark, run)
    rows = rows_of(run)
    walks = [sorted(tuple(r["walk"]) for r in rows if r["epoch"] == e) for e in range(3)]
    assert [len(w) for w in walks] == [100, 100, 100]
    assert walks[0] != walks[1] != walks[2]
    paths = open_table(run.lake, "walks").file_uris()
    assert {p.split("epoch=")[1].split("/")[0] for p in paths} == {"0", "1", "2"}


def test_two_configs_share_a_lake(spark, lake):
    first, second = plan_walks_run(lake, p=0.5), plan_walks_run(lake, p=2.0)
    write_graph_stage(first)
    build_walks(spark, first)
    before = sha_of_walks([read_table(find_table(lake, first.stages["walks"], "walks"))])
    build_walks(spark, second)
    after = [sha_of_walks([read_table(find_table(lake, r.stages["walks"], "walks"))]) for r in (first, second)]
    assert after[0] == before
    assert after[1] != before


def test_a_graph_without_edges_stops_before_a_commit(spark, lake):
    run = plan_walks_run(lake)
    write_graph_stage(run, {0: [(1, 0.0)]})
    with pytest.raises(DataError, match="none of its 8 items has a neighbour"):
        build_walks(spark, run)
    assert find_done(run.lake, run.stages["walks"]) is None


@pytest.fixture
def task(spark):
    graph, bias = ring_with_chords(), make_bias(0.5, 2.0)
    files = publish_graph(spark, {"test": "ring"}, lambda: (build_walk_graph(graph, bias), find_starts(graph.indptr)))
    return WalkTask(files, bias, seed=3, num_walks=30, walk_length=12, piece=Piece((0, 1), 0, 1), num_chunks=16)


def test_the_same_rows_for_any_number_of_partitions(spark, task):
    expected = sha_of_walks(walk_batches(chunk_numbers(16), task))
    for num_partitions in (1, 2, 7, 20):
        frame = walk_frame(spark, task, num_partitions)
        assert frame.rdd.getNumPartitions() == num_partitions
        assert sha_of_walks([frame.toArrow()]) == expected


def test_a_graph_is_written_once_a_session(spark, task):
    again = publish_graph(spark, {"test": "ring"}, lambda: pytest.fail("made again"))
    assert again is task.files
    assert len(open_graph(again)[1].nodes) == 40


def test_several_epochs_are_written_without_a_sort(spark, task, lake):
    setting = "spark.sql.maxConcurrentOutputFileWriters"
    before = spark.conf.get(setting, "0")
    frame = walk_frame(spark, task, 1)
    sorted_bytes = sort_memory(spark, lambda: frame.write.format("delta").partitionBy("epoch").save(f"{lake}/sorted"))
    with unsorted_writes(spark, 2):
        assert spark.conf.get(setting) == "2"
        unsorted_bytes = sort_memory(spark, lambda: frame.write.format("delta").partitionBy("epoch").save(f"{lake}/a"))
    assert spark.conf.get(setting) == before
    assert sorted_bytes > 0
    assert unsorted_bytes == 0
    rows = spark.read.format("delta").load(f"{lake}/a")
    assert sha_of_walks([rows.select(*TABLES["walks"].schema.names).toArrow()]) == sha_of_walks([frame.toArrow()])


def sort_memory(spark, write):
    """Peak execution memory of the job's stages; a map-only write needs none unless it sorts."""
    spark.sparkContext.setJobGroup("sort_memory", "sort_memory")
    tracker = spark.sparkContext.statusTracker()
    known = set(tracker.getJobIdsForGroup("sort_memory"))
    write()
    jobs = set(tracker.getJobIdsForGroup("sort_memory")) - known
    stages = {stage for job in jobs for stage in tracker.getJobInfo(job).stageIds}
    store = spark.sparkContext._jsc.sc().statusStore()
    first = min(stages)  # of the write; later ones are Delta's own
    return store.lastStageAttempt(first).peakExecutionMemory()
