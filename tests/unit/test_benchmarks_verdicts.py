"""QUALITY.md's verdicts on hand-written lines: who beats whom, which bars are reached, whose settings were tried."""

import pytest

from benchmarks.datasets.bars import BARS, PUBLISHED, Bar
from benchmarks.datasets.catalogue import DATASETS
from benchmarks.lines import quality_line
from benchmarks.places import CONF, ROOT
from benchmarks.render import render_quality
from benchmarks.verdicts import (
    compare_models,
    compare_with_papers,
    explain_scoring,
    find_tried,
    judge,
    judge_bars,
    main_metric,
    short,
)


def line(model, *values, kind=None, metric="hr@10", dataset="s3-beauty"):
    return quality_line(dataset, model, kind or model, metric, dict(enumerate(values)), 1.0, "command")


BASELINES = [line("popularity", 0.0152), line("item_knn", 0.065), line("rp3beta", 0.06)]


def test_each_learned_model_is_held_against_each_baseline():
    found = compare_models(
        "s3-beauty", [*BASELINES, line("skip_gram", 0.0638), line("skip_gram", 0.9, metric="mrr@10")]
    )
    assert found == [
        "Best hr@10: item_knn, a baseline, .0650.",
        "skip_gram beats popularity: .0638 against .0152 (+.0486, +319.7 %); "
        "does not beat item_knn: .0638 against .0650 (-.0012, -1.8 %); "
        "beats rp3beta: .0638 against .0600 (+.0038, +6.3 %).",
    ]


def test_equal_is_not_better_and_a_small_lead_is_called_one():
    equal, close = line("cbow", 0.065), line("two_tower", 0.0651, 0.0659)  # mean .0655, deviation .00057
    found = compare_models("s3-beauty", [*BASELINES, equal, close])
    assert found[0] == "Best hr@10: two_tower, a learned model, .0655."
    assert "cbow beats popularity" in found[1]
    assert "does not beat item_knn: .0650 against .0650 (+.0000, +0.0 %)" in found[1]
    assert "beats item_knn: .0655 against .0650 (+.0005, +0.8 %, less than the seeds' standard deviation)" in found[2]
    assert "beats rp3beta: .0655 against .0600 (+.0055, +9.2 %)." in found[2]


def test_baselines_that_are_missing_are_named_but_not_of_a_graph():
    assert compare_models("s3-beauty", BASELINES[:1])[-1] == "Not measured here: item_knn, rp3beta."
    spectral = line("spectral", 0.4, metric="micro_f1_raw@50", dataset="blogcatalog")
    assert compare_models("blogcatalog", [spectral]) == ["Best micro_f1_raw@50: spectral, a baseline, .4000."]
    assert compare_models("s3-beauty", [line("popularity", 0.1, metric="mrr@5")]) == [
        "No line holds hr@10: no verdict."
    ]


def test_the_best_stands_among_published_figures():
    told = compare_with_papers("s3-beauty", BASELINES)
    assert told.startswith("Published hr@10: PopRec .0152, GRU4Rec .0283, Caser .0347, SASRec .0605, S3-Rec .0647. ")
    assert told.endswith("The best here, item_knn .0650, is above S3-Rec.")
    assert compare_with_papers("s3-beauty", [line("x", 0.03)]).endswith("x .0300, is above GRU4Rec, not above Caser.")
    assert compare_with_papers("online-retail", [line("x", 0.03, metric="recall@20")]) == ""


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.1388, "**missed by .0012**"),
        (0.14, "reached, .0170 short of the aim"),
        (0.139977, "**missed by .00002**"),
        (0.1399999996, "**missed by .0000000004**"),
        (0.15698, "reached, .00002 short of the aim"),
        (0.157, "reached, level with the aim"),
        (0.1571, "aim passed"),
    ],
)
def test_a_bar_is_reached_and_its_aim_passed(value, verdict):
    assert judge(Bar("skip_gram", "recall@20", 0.14, 0.157), value) == verdict


def test_a_bar_with_tolerance_counts_on_both_sides():
    bar = Bar("popularity", "recall@20", 0.0416, tolerance=0.0005)
    assert [judge(bar, v) for v in (0.0411, 0.0421)] == ["reached"] * 2
    assert [judge(bar, v) for v in (0.0400, 0.0425)] == ["**off by -.0016**", "**off by +.0009**"]


def test_the_best_variant_counts_and_what_nobody_measured_is_told():
    lines = [line("two_tower_mean", 0.05), line("two_tower_last", 0.07), line("skip_gram_walks", 0.09)]
    judged = {
        (bar.model, bar.metric): (best and best["model"], told) for bar, best, told in judge_bars("s3-beauty", lines)
    }
    assert judged["two_tower", "hr@10"] == ("two_tower_last", "reached, .0020 short of the aim")
    assert judged["two_tower_attention", "hr@10"] == (None, "not measured")
    assert judged["skip_gram", "hr@10"] == (None, "not measured")  # its walks are another model


def test_a_bar_that_lists_its_models_takes_the_best_of_them_by_the_scoring_of_papers():
    lines = [
        line(model, value, kind="skip_gram", metric=metric, dataset="blogcatalog")
        for model, metric, value in (
            ("skip_gram_walks", "micro_f1_raw@50", 0.409977),
            ("node2vec", "micro_f1_raw@50", 0.4107),
            ("node2vec", "micro_f1@50", 0.4169),
            ("spectral", "micro_f1_raw@50", 0.5),
        )
    ]
    (bar, best, told), (_, nothing, _) = judge_bars("blogcatalog", lines)
    assert (bar.name, best and best["model"]) == ("skip_gram_walks or node2vec", "node2vec")
    assert told == "reached, .0180 short of the aim"
    assert nothing is None
    assert compare_with_papers("blogcatalog", lines[:3]).endswith("node2vec .4107, is not above DeepWalk.")
    assert "micro_f1_raw: vectors as they are" in explain_scoring("blogcatalog")
    assert explain_scoring("gowalla") == ""


def test_the_figures_bars_and_papers_of_a_graph_share_one_scoring():
    for name, bars in BARS.items():
        if DATASETS[name].read_labels:
            assert len({"_raw@" in metric for metric in (main_metric(name, []), *(bar.metric for bar in bars))}) == 1


def test_tried_is_what_a_section_starts_a_line_with():
    trials = (
        "# Trials\nskip_gram: not in a section\n## gowalla\nSlice: of train. The popularity term.\n"
        "item_knn: a pair\n## dblp\n| cbow | .1 |\n| **rp3beta** | .2 |\n### two_tower\nOn it spectral scores\n"
    )
    found = {(d, m) for d, m in find_tried(trials) if d in DATASETS} - {("gowalla", "Slice")}
    assert found == {("gowalla", "item_knn"), ("dblp", "cbow"), ("dblp", "rp3beta"), ("dblp", "two_tower")}


def test_the_trials_that_are_there_are_found():
    found = find_tried((ROOT / "benchmarks" / "TRIALS.md").read_text())
    for dataset in ("gowalla", "s3-beauty", "diginetica"):
        assert {(dataset, "skip_gram"), (dataset, "item_knn")} <= found
    assert not {("gowalla", "popularity"), ("gowalla", "skip_gram_walks"), ("s3-sports", "item_knn")} & found


def test_a_row_without_trials_is_marked_and_the_bars_stand_above():
    text = render_quality([*BASELINES, line("skip_gram", 0.0638)], "## s3-beauty\nskip_gram: dim 64\n")
    assert "| skip_gram | skip_gram | hr@10 | **0.0638** ± 0.0000 | 0 | 1 | trials | `command` |" in text
    assert "| item_knn | item_knn | hr@10 | **0.0650** ± 0.0000 | 0 | 1 | no trials recorded | `command` |" in text
    assert "| item_knn | hr@10 | .0560 | > .0600 | item_knn .0650 | aim passed |" in text
    assert "| two_tower, best variant | hr@10 | .0605 | > .0720 | - | not measured |" in text
    assert "- skip_gram beats popularity" in text


def test_bars_and_main_metrics_are_of_data_sets_that_are_there():
    assert {*BARS, *PUBLISHED} <= {*DATASETS} == {path.name for path in CONF.iterdir()}
    for name, dataset in DATASETS.items():
        assert dataset.main_metric.replace("_raw@", "@") in dataset.metrics
        assert main_metric(name, []) == dataset.main_metric
        assert {bar.metric.replace("_raw@", "@") for bar in BARS.get(name, ())} <= {*dataset.metrics}
        assert all(bar.aim is None or bar.aim >= bar.must for bar in BARS.get(name, ()))


def test_short_drops_only_the_leading_zero():
    assert [short(v) for v in (0.0638, 1.0, -0.0012, 0.10004)] == [".0638", "1.0000", "-.0012", ".1000"]
