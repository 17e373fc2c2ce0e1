"""Sections `release` and `recommend`: when there is a stage, what its key hangs on, what cannot be."""

import pytest

from recspark.config import load_config, plan_run
from tests.helpers.configs import SOURCE, keys_of, problems_of, write_minimal

FEATURE = "features: [{name: brand, path: i.csv, key: sku, column: b, kind: categorical}]\n"


def stages_of(conf, *overrides):
    return list(plan_run(load_config(conf, overrides), SOURCE).stages)


def test_a_run_publishes_only_where_it_is_asked_to(tmp_path):
    conf = write_minimal(tmp_path)
    assert "release" not in stages_of(conf)
    assert stages_of(conf, "release={}")[-2:] == ["evaluate", "release"]
    assert stages_of(conf, "release={}", "evaluate=null")[-2:] == ["index", "release"]
    assert "release" not in stages_of(conf, "release={}", "model.kind=popularity")


def test_gates_decide_about_activation_not_about_the_release(tmp_path):
    conf = write_minimal(tmp_path, "release: {}\n")
    keys = keys_of(conf)
    assert keys_of(conf, "release.gates.min_recall=.5") == keys
    changed = keys_of(conf, "release.num_canaries=50")
    assert {name for name in keys if keys[name] != changed[name]} == {"release"}
    assert keys_of(conf, "recommend.k=7") == keys


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("release: {}\nindex: null\n", "release: needs section index: an index is what it releases"),
        (
            "release: {gates: {metric: recall@7}}\nevaluate: {ks: [5]}\n",
            "release.gates.metric: 'recall@7' is not measured; expected one of recall@5, ndcg@5, hr@5, mrr@5, map@5",
        ),
        (
            "recommend: {quotas: [{feature: brand, max_items: 2}]}\n",
            "recommend.quotas.0.feature: no item feature 'brand' in this config; it has none",
        ),
        (
            f"{FEATURE}recommend: {{filters: [{{feature: shop, keep: [a]}}]}}\n",
            "recommend.filters.0.feature: no item feature 'shop' in this config; it has brand",
        ),
    ],
)
def test_what_the_config_does_not_have_cannot_be_asked_for(tmp_path, more, problem):
    assert problems_of(write_minimal(tmp_path, more)) == [problem]


def test_a_metric_that_is_measured_may_be_a_gate(tmp_path):
    conf = write_minimal(tmp_path, "release: {gates: {metric: ndcg@20, min_over_baselines: {item_knn: .9}}}\n")
    gates = load_config(conf).release.gates
    assert (gates.metric, gates.min_over_baselines, gates.max_metric_drop) == ("ndcg@20", {"item_knn": 0.9}, 0.05)
