"""Edge lists into `items` and `item_graph`, against networkx-free brute force; features; messages."""

import random
from collections import defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recspark.errors import SourceError
from recspark.sources.edges import build_items
from recspark.sources.job import ingest
from tests.helpers.sources import has_tables, make_run, rows_and_record, write_lines

pytestmark = pytest.mark.spark


def random_edges(seed):
    """(src, dst, weight) with repeats, both directions, self loops and a node that has nothing else."""
    random.seed(seed)
    names = [str(n) for n in range(1, 30)] + ["01", "\u00e4", "b c"]
    edges = [(random.choice(names), random.choice(names), random.choice([0.5, 1.0, 2.25])) for _ in range(150)]
    return [*edges, edges[0], (edges[1][1], edges[1][0], 4.0), ("alone", "alone", 1.0)]


def expected_tables(edges, directed):
    """{src: {dst: summed weight}} and items as [(id, degree)] in the order of their ids."""
    graph, nodes = defaultdict(lambda: defaultdict(float)), set()
    for src, dst, weight in edges:
        nodes |= {src, dst}
        if src != dst:
            graph[src][dst] += weight
            if not directed:
                graph[dst][src] += weight
    degree = {n: len(graph.get(n, {})) for n in nodes}
    if directed:
        for node in nodes:
            degree[node] += sum(node in neighbours for neighbours in graph.values())
    return graph, sorted(degree.items(), key=lambda x: (-x[1], x[0].encode()))


@pytest.mark.parametrize(("directed", "num_neighbours"), [(False, None), (True, None), (True, 2)])
def test_an_edge_list_becomes_items_and_graph(spark, lake, tmp_path, directed, num_neighbours):
    edges = random_edges(seed=1)
    src, dst, weight = (list(column) for column in zip(*edges, strict=True))
    pq.write_table(pa.table({"from": src, "to": dst, "w": weight}), tmp_path / "edges.parquet")
    source = {
        "kind": "edges", "path": str(tmp_path / "edges.parquet"), "format": "parquet", "directed": directed,
        "src_column": "from", "dst_column": "to", "weight_column": "w", "num_neighbours": num_neighbours,
    }  # fmt: skip
    run = make_run(lake, source)
    ingest(spark, run)
    graph, order = expected_tables(edges, directed)
    items, record = rows_and_record(run, "items")
    found = sorted((i["item_idx"], i["item_id"], i["num_events"]) for i in items)
    assert found == [(idx, name, degree) for idx, (name, degree) in enumerate(order)]
    idx = {name: n for n, (name, _) in enumerate(order)}
    rows, _ = rows_and_record(run, "item_graph")
    assert {r["src_idx"] for r in rows} == {idx[name] for name in graph}
    for row in rows:
        neighbours = graph[order[row["src_idx"]][0]]
        best = sorted((-weight, idx[name]) for name, weight in neighbours.items())[:num_neighbours]
        assert row["dst_idx"] == [n for _, n in best]
        assert row["score"] == pytest.approx([-s for s, _ in best])
        assert row["count"] == [1] * len(best)
    loops = sum(src == dst for src, dst, _ in edges)
    assert record.counts["dropped"] == {"self_loop": loops}
    assert record.counts["kept"] == len(edges) - loops
    ends = {r["src_idx"] for r in rows} | {n for r in rows for n in r["dst_idx"]}
    assert record.counts["isolated"] == len(order) - len(ends) >= 1
    assert record.counts["edges"] == sum(len(n) if num_neighbours is None else min(len(n), 2) for n in graph.values())


@pytest.mark.parametrize(("symmetrize", "is_said"), [(True, True), (False, False)])
def test_directions_that_walks_will_ignore_are_told(spark, lake, tmp_path, capsys, symmetrize, is_said):
    path = write_lines(tmp_path / "e.csv", "src,dst", "a,b", "c,b", "d,d")
    source = {"kind": "edges", "path": str(path), "format": "csv", "directed": True}
    run = make_run(lake, source, walks={"symmetrize": symmetrize})
    ingest(spark, run)
    assert ("walks.symmetrize: false keeps directions" in capsys.readouterr().err) == is_said
    assert rows_and_record(run, "item_graph")[1].counts["isolated"] == 1  # d; b has edges in, none out


def test_nodes_are_numbered_without_one_task_that_sees_them_all(spark):
    edges = spark.createDataFrame([("a", "b", 1.0)], "src string, dst string, weight double")
    plan = build_items(edges, edges, True)._jdf.queryExecution().executedPlan().toString()
    assert "rangepartitioning" in plan
    assert "SinglePartition" not in plan


def test_bad_edges_are_quarantined_and_weights_may_be_left_out(spark, lake, tmp_path):
    path = write_lines(tmp_path / "e.csv", "src,dst,w", "a,b,1", "b,c,0", "c,d,-1", "d,,1", "e,f,x", "g", "h,i,2",
                       "j,k,1e39", "k,l,1e-50")  # fmt: skip
    source = {"kind": "edges", "path": str(path), "format": "csv", "directed": False, "max_bad_ratio": 1.0}
    run = make_run(lake, source | {"weight_column": "w"})
    ingest(spark, run)
    _, record = rows_and_record(run, "item_graph")
    assert record.counts["quarantined"] == {
        "missing_dst": 1, "not_positive_weight": 3, "unparsable_line": 1, "unreadable_weight": 2,
    }  # fmt: skip
    assert record.counts["kept"] == 2
    assert record.facts == {"order": "none", "source": run.source, "directed": False}


def test_a_missing_column_of_an_edge_list_is_named(spark, lake, tmp_path):
    path = write_lines(tmp_path / "e.csv", "source,target", "a,b")
    source = {"kind": "edges", "path": str(path), "format": "csv", "directed": False, "dst_column": "Target"}
    with pytest.raises(
        SourceError, match=r"src_column: no column 'src'.*did you mean 'target'\? \(columns there: source"
    ):
        ingest(spark, make_run(lake, source))
    assert not has_tables(lake)
