"""Time-to-quality: the seconds that count, and the picture drawn of both sides."""

from xml.etree import ElementTree

import pytest

from benchmarks import render
from benchmarks.curve_plot import draw_curves, seconds_ticks, value_ticks
from benchmarks.lines import speed_line
from benchmarks.render import draw_pictures, render_speed
from benchmarks.sgns import time_to_quality

_SVG = "{http://www.w3.org/2000/svg}"


def point(epochs, wall, purity, recall):
    return {
        "epochs": epochs, "wall": wall, "cpu": wall + 1, "neighbour_purity": purity, "next_item_recall@20": recall,
    }  # fmt: skip


CURVES = {
    "project": [point(1, 4, 0.2, 0.1), point(2, 8, 0.6, 0.2), point(4, 16, 0.7, 0.3)],
    "peer": [point(1, 40, 0.3, 0.2), point(2, 80, 0.6, 0.4)],
}


def curves_line(peer="gensim time to its best neighbour purity", num_items=50_000, **more):
    work = {"num_items": num_items, "tokens": 5_000_000, "dim": 128}
    paired, is_reached = time_to_quality(CURVES, "neighbour_purity")
    return speed_line("sgns", peer, paired, work, {}, "c", is_quality_reached=is_reached, curves=CURVES, **more)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{_SVG}text")]


def test_our_first_training_as_good_as_the_peers_best_counts():
    paired, is_reached = time_to_quality(CURVES, "neighbour_purity")
    assert (paired.peer[0].wall, paired.project[0].wall, is_reached) == (80, 8, True)
    assert paired.spread("cpu").median == 81 / 9


def test_quality_that_is_never_reached_is_told():
    paired, is_reached = time_to_quality(CURVES, "next_item_recall@20")
    assert (paired.peer[0].wall, paired.project[0].wall, is_reached) == (80, 16, False)
    missed = curves_line() | {"is_quality_reached": False}
    assert "cpu, **quality not reached** |" in render_speed([missed])
    assert "not reached" not in render_speed([curves_line()])


def test_the_picture_has_both_sides_both_panels_and_labelled_axes():
    svg = draw_curves(CURVES, "5 items < 6 & more", {"project": "recspark", "peer": "gensim"})
    root = ElementTree.fromstring(svg)
    assert len(root.findall(f"{_SVG}polyline")) == 4
    assert root.find(f"{_SVG}title").text == "5 items < 6 & more"
    assert root.find(f"{_SVG}rect").attrib["fill"] == "white"
    found = texts(svg)
    assert found.count("training seconds (wall, one thread, log scale)") == 2
    assert {"neighbour purity (share of the 10 nearest)", "next-item recall@20 (share of sentences)"} <= {*found}
    assert {"recspark", "gensim", "5", "10", "20", "50", "100"} <= {*found}


def test_points_lie_where_their_values_say():
    root = ElementTree.fromstring(draw_curves(CURVES, "t", {"project": "a", "peer": "b"}))
    project, peer = (
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        for line in root.findall(f"{_SVG}polyline")[:2]
    )
    assert project[1][1] == peer[1][1] < project[0][1]  # equal purity at equal height; better is higher
    assert project[1][0] - project[0][0] == pytest.approx(peer[1][0] - peer[0][0], abs=0.2)  # twice the time each
    assert all(0 <= x <= 900 and 0 <= y <= 400 for x, y in project + peer)


@pytest.mark.parametrize("wall", [0.004, 1.0, 3000.0])
def test_a_single_point_is_drawn(wall):
    svg = draw_curves({"project": [point(1, wall, 0, 0)], "peer": [point(1, wall, 0, 0)]}, "t", {})
    assert len(ElementTree.fromstring(svg).findall(f"{_SVG}polyline")) == 4
    assert len(seconds_ticks(wall / 2, wall * 2)) >= 2


def test_ticks_are_round_and_cover_the_range():
    assert seconds_ticks(3, 120) == [5, 10, 20, 50, 100]
    assert seconds_ticks(3, 6.5) == [3, 4, 5, 6]
    assert value_ticks(0.756) == [0, 0.2, 0.4, 0.6, 0.8]
    assert value_ticks(0.032) == [0, 0.01, 0.02, 0.03, 0.04]
    assert value_ticks(0.5) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_results_link_a_picture_and_hold_its_points():
    lines = [curves_line(), curves_line(num_items=9), curves_line("gensim other"), speed_line_without_curves()]
    text, pictures = render_speed(lines), draw_pictures(lines)
    assert sorted(pictures) == [
        "curves-sgns-50000-items-5000000-tokens.svg", "curves-sgns-9-items-5000000-tokens.svg",
    ]  # fmt: skip
    assert all(text.count(f"]({name})") == 1 for name in pictures)
    assert "| side | epochs | seconds | neighbour purity | next item recall@20 |" in text
    assert "| peer | 2 | 80.0 | 0.6000 | 0.4000 |" in text
    assert "sgns: 50,000 items, 5,000,000 tokens, dim 128" in texts(
        pictures["curves-sgns-50000-items-5000000-tokens.svg"]
    )


def speed_line_without_curves():
    return {k: v for k, v in curves_line("gensim time to its best recall").items() if k != "curves"}


def test_pictures_of_lines_that_are_gone_go_too(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "RESULTS", tmp_path / "results")
    (tmp_path / "curves-old.svg").write_text("")
    render._write_pictures({"curves-new.svg": "<svg/>"})
    assert [path.name for path in tmp_path.iterdir()] == ["curves-new.svg"]
