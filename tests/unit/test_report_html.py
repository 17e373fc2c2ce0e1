"""The page: well-formed, complete, and safe with any id in it."""

from html.parser import HTMLParser

import pytest

from recspark.pipeline.evaluate_stage import evaluate
from recspark.report.html import render_html
from recspark.report.summary import build_report
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_graph, write_sessions, write_stage

VOID = {"meta", "rect"}


class Page(HTMLParser):
    """Collects texts and rectangles, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open_tags, self.texts, self.tags, self.widths = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "rect":
            self.widths.append(float(dict(attrs)["width"]))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture
def run(tmp_path):
    run = plan_tiny(tmp_path)
    counts = {"rows_in": 1003, "kept": 1000, "dropped": {"<b>&rule": 2}, "quarantined": {}}
    write_stage(run, "ingest", {}, counts=counts)
    write_sessions(run, [3, 2, 1], [([0], [], [], [1]), ([1], [], [], [2])])
    return run


def test_the_page_is_whole_and_shows_all_models(run):
    write_embeddings(run, {0: [1.0, 0.0], 1: [0.9, 0.1], 2: [0.0, 1.0]})
    write_graph(run, "item_knn_graph", {0: [(2, 1.0)]})
    evaluate(run)
    report = build_report(run.lake, run.stages)
    page = Page(render_html(report, "my <run>"))
    assert page.open_tags == []
    assert {"my <run>", "skip_gram", "item_knn", "popularity", "recall@3"} <= set(page.texts)
    assert page.tags.count("svg") == 2
    recalls = [values["recall@3"] for values in report["evaluation"]["metrics"].values()]
    assert page.widths[:3] == pytest.approx([r / max(recalls) * 360 for r in recalls], abs=0.1)
    assert "script" not in page.tags


def test_a_run_without_evaluation_still_has_its_counts(run):
    page = Page(render_html(build_report(run.lake, run.stages), "half a run"))
    assert {"dropped: <b>&rule 2", "1,003", "does not add up: 1 rows unaccounted for"} <= set(page.texts)
    assert "svg" not in page.tags
    assert "b" not in page.tags
