"""The index's pictures: well-formed, every point in its place, the chosen setting marked."""

import xml.etree.ElementTree as ET

import pytest

from recspark.report.html import render_html
from recspark.report.index_curve import draw_curves


def point(effort, recall, p50, factor=8):
    recalls = {"recall_at_1": recall, "recall_at_10": recall - 0.1, "recall_at_100": recall - 0.2}
    return {"effort": effort, "refine_factor": factor, **recalls, "p50_ms": p50, "p99_ms": 2 * p50}


FACTS = {
    "plan": {"name": "IVF64,PQ8x8", "reasons": ["ivf_pq: <asked> for"], "refine_factor": 2},
    "nprobe": 4,
    "effort": 4,
    "curve": [point(1, 0.5, 1.0), point(2, 0.7, 1.5), point(4, 1.0, 4.0)],
    "refine_curve": [point(4, 0.8, 1.0, 1), point(4, 0.9, 2.0, 2)],
}


def drawings(figures):
    return [ET.fromstring(figure).find("svg") for figure in figures]


def lines_of(drawing):
    return [
        [tuple(map(float, place.split(","))) for place in line.get("points").split()]
        for line in drawing.iter("polyline")
    ]


def test_each_curve_has_a_picture_of_recall_and_one_of_time():
    found = drawings(draw_curves(FACTS))
    assert [svg.get("aria-label") for svg in found] == [
        "recall against exact search, by nprobe",
        "milliseconds a query, by nprobe",
        "recall against exact search, by candidates a result",
        "milliseconds a query, by candidates a result",
    ]
    assert [len(lines_of(svg)) for svg in found] == [3, 2, 3, 2]


def test_points_stand_where_they_belong():
    """Recall 1 at the top (14), 0 at the bottom (180): .5 is half way; the settings at equal distances."""
    at_1, at_10, _ = lines_of(drawings(draw_curves(FACTS))[0])
    assert [y for _, y in at_1] == pytest.approx([97, 14 + 0.3 * 166, 14])
    assert at_10[0][1] == pytest.approx(14 + 0.6 * 166)
    assert at_1[1][0] - at_1[0][0] == pytest.approx(at_1[2][0] - at_1[1][0])
    slowest = lines_of(drawings(draw_curves(FACTS))[1])[1][-1]
    assert slowest[1] == pytest.approx(14)


def test_the_chosen_setting_is_marked():
    recall, _, refine, _ = drawings(draw_curves(FACTS))
    assert [text.text for text in recall.iter("text") if text.get("font-weight")] == ["4"]
    assert [text.text for text in refine.iter("text") if text.get("font-weight")] == ["2"]


def test_one_point_is_no_curve():
    assert draw_curves({"effort": None, "curve": FACTS["curve"][:1], "refine_curve": []}) == []


def test_the_page_shows_index_and_reasons():
    stage = {"id": "abc", "version": 0, "inputs": {}, "counts": {"vectors": 9}, "facts": FACTS}
    report = {"lake": "lake", "evaluation": None, "leak_audit": None, "balance": [], "stages": {"index": stage}}
    page = render_html(report, "shop")
    assert "<h2>Index IVF64,PQ8x8</h2>" in page
    assert "ivf_pq: &lt;asked&gt; for" in page
    assert page.count("<svg") == 4
