"""Index benchmarks: their vectors and recall, whose point counts, the front, and its picture."""

import xml.etree.ElementTree as ET

import numpy as np

from benchmarks import index_build_worker, index_search_worker
from benchmarks.front_plot import draw_front
from benchmarks.index_search import PLAN, Point, _line, cheapest, is_on_front
from benchmarks.index_vectors import as_items, clustered_vectors, draw_queries, exact_neighbours, recall_of, save_set
from benchmarks.lines import check_line
from benchmarks.paired import Timing
from benchmarks.render import draw_pictures, render_speed


def points(*rows):
    return [Point(setting, recall, [Timing(wall, wall)] * 3) for setting, recall, wall in rows]


def test_vectors_queries_and_neighbours():
    vectors = clustered_vectors(500, 8, 20)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    queries = draw_queries(vectors, 40)
    wanted = exact_neighbours(vectors, queries, 5)
    scores = queries.astype(np.float64) @ vectors.T
    np.testing.assert_array_equal(wanted, np.argsort(-scores, axis=1)[:, :5])
    assert recall_of(wanted, wanted) == 1
    assert recall_of(np.where(np.arange(5) < 2, -1, wanted), wanted) == 0.6
    assert as_items(vectors).item_id[499].as_py() == "499"


def test_the_cheapest_point_that_reaches_the_target_counts():
    found = points((1, 0.8, 1.0), (2, 0.96, 3.0), (4, 0.99, 2.0))
    assert cheapest(found, 0.95).setting == 2  # not 4, which noise made faster
    assert cheapest(found, 0.999).setting == 4
    assert cheapest(found, 0.5).setting == 1


def test_a_point_is_off_the_front_where_another_is_better_in_both():
    plan = points((1, 0.96, 1.0))
    same = {PLAN: plan, "other": points((1, 0.97, 0.95))}
    assert is_on_front(plan, same, 10, 0.95)  # within noise
    assert not is_on_front(plan, same | {"better": points((1, 0.96, 0.5))}, 10, 0.95)
    assert is_on_front(plan, same | {"lower": points((1, 0.95, 0.5))}, 10, 0.95)


def test_a_line_holds_both_settings_and_is_rendered_with_its_front():
    work = {"vectors": "clustered", "num_vectors": 900, "dim": 8, "queries": 50, "k": 10}
    front = {PLAN: [{"setting": None, "recall": 1.0, "queries_per_second": 900.0}],
             "Annoy": [{"setting": 10, "recall": 0.55, "queries_per_second": 5000.0}]}  # fmt: skip
    line = _line(points((4, 0.96, 1.0)), points((9, 0.9, 2.0)), "Annoy", 0.95, work, {}, "command", front=front)
    check_line(line)
    assert (line["ratio"], line["has_peer_reached"], line["setting"]) == (2.0, False, {"project": 4, "peer": 9})
    (name,) = draw_pictures([line])
    assert name == "front-index_search-clustered-900x8.svg"
    assert f"]({name})" in render_speed([line])


def test_the_picture_shows_every_index():
    front = {name: [{"setting": s, "recall": 0.5 + s / 10, "queries_per_second": 10.0**s} for s in (1, 2, 3)]
             for name in ("plan", "flat", "a & b")}  # fmt: skip
    svg = ET.fromstring(draw_front(front, "title"))
    texts = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"plan", "flat", "a & b", "1,000", "0.6"} <= texts
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}polyline"))) == 3


def test_workers_build_and_search(tmp_path):
    vectors = clustered_vectors(700, 8, 20)
    queries = draw_queries(vectors, 30)
    wanted = exact_neighbours(vectors, queries, 10)
    files = save_set(tmp_path, vectors, queries)
    ids = str(tmp_path / "ids.npy")
    built = index_search_worker.build(**files, knobs={"kind": "ivf_flat"})
    assert set(index_search_worker.search(built["settings"][-1], 10, ids)) == {"wall", "cpu"}
    assert recall_of(np.load(ids), wanted) == 1
    index_build_worker.load(**files)
    for build in (lambda: index_build_worker.build_peer("IVF16,PQ2"), index_build_worker.build_project):
        assert build()["wall"] > 0
        index_build_worker.search(16, 10, ids)
        assert recall_of(np.load(ids), wanted) > 0.3
