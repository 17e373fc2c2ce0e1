"""Every gate at its limit, and the words of a refusal."""

import pytest

from recspark.config.release import GatesConfig
from recspark.releases.gates import COMPARING, PASSED, REFUSED, SKIPPED, Compared, describe_gates, judge, refused

EVALUATED = {"split": "test", "history": "train+valid", "mask_seen": True, "search": "exact", "k": 20}


def measured(**changes):
    """Figures that pass every default."""
    own = {"recall@20": 0.30, "ndcg@20": 0.2, "coverage@20": 0.4, "popularity_lift@20": 0.5}
    figures = {
        "recall_at_10": 0.97, "without_vector": 0.01, "head_share": 0.1, "head_items": 0.01, "k": 20,
        "evaluated": EVALUATED, "trained": "skip_gram",
        "metrics": {"skip_gram": own, "popularity": {"recall@20": 0.05}},
    }  # fmt: skip
    for name, value in changes.items():
        if name in own:
            own[name] = value
        else:
            figures[name] = value
    return figures


def outcomes(compared, **limits):
    values = GatesConfig().model_dump(mode="json") | limits
    return {gate.name: gate.outcome for gate in judge(compared, values)}


def metric(value):
    return {"skip_gram": {"recall@20": value, "coverage@20": 0.4, "popularity_lift@20": 0.5}, "popularity": {}}


def test_good_figures_pass_every_gate():
    compared = Compared(measured(), measured(), "before", 0.6, 200)
    assert set(outcomes(compared).values()) == {PASSED}


@pytest.mark.parametrize(
    ("gate", "compared", "limits"),
    [
        ("min_recall", Compared(measured(recall_at_10=0.79)), {}),
        ("max_metric_drop", Compared(measured(metrics=metric(0.284)), measured(), "before", 0.6, 200), {}),
        ("min_over_popularity", Compared(measured(metrics=metric(0.04) | {"popularity": {"recall@20": 0.05}})), {}),
        ("min_coverage", Compared(measured()), {"min_coverage": 0.41}),
        ("max_popularity_lift", Compared(measured()), {"max_popularity_lift": 0.49}),
        ("max_head_share", Compared(measured(head_share=0.71)), {}),
        ("min_neighbour_overlap", Compared(measured(), measured(), "before", 0.04, 200), {}),
        ("max_without_vector", Compared(measured(without_vector=0.51)), {}),
    ],
)
def test_each_gate_refuses_alone(gate, compared, limits):
    found = outcomes(compared, **limits)
    assert [name for name, outcome in found.items() if outcome == REFUSED] == [gate]
    off = {"min_over_baselines": {}} if gate == "min_over_popularity" else {gate: None}
    assert REFUSED not in outcomes(compared, **(limits | off)).values()


def test_a_value_at_its_limit_passes():
    compared = Compared(measured(recall_at_10=0.8, head_share=0.7), measured(), "before", 0.05, 10)
    assert REFUSED not in outcomes(compared).values()
    drop = Compared(measured(metrics=metric(0.285)), measured(), "before", 0.6, 200)
    assert outcomes(drop)["max_metric_drop"] == PASSED


def test_the_first_release_is_compared_with_none():
    found = outcomes(Compared(measured()))
    assert {name for name, outcome in found.items() if outcome == SKIPPED} == {
        "max_metric_drop", "min_neighbour_overlap",
    }  # fmt: skip


def test_what_was_not_measured_is_skipped_and_said():
    gates = judge(Compared({"recall_at_10": 0.9}), GatesConfig().model_dump(mode="json"))
    assert {g.name: g.why for g in gates if g.outcome == SKIPPED} == {
        "max_metric_drop": "no other release is active",
        "min_over_popularity": "popularity was not evaluated beside the model",
        "min_coverage": "not measured",
        "max_popularity_lift": "not measured",
        "max_head_share": "not measured",
        "min_neighbour_overlap": "no other release is active",
        "max_without_vector": "not measured",
    }


def drop_gate(compared):
    """Outcome and words of the gate on the metric, by the default limits."""
    gates = judge(compared, GatesConfig().model_dump(mode="json"))
    return next((gate.outcome, gate.why) for gate in gates if gate.name == "max_metric_drop")


@pytest.mark.parametrize(
    ("own", "before", "why"),
    [
        (
            measured(metrics=metric(0.1)), measured(evaluated=EVALUATED | {"k": 50}),
            "release before was evaluated in another way (k 50 there, 20 here)",
        ),
        (
            measured(), measured(metrics={"skip_gram": {"recall@50": 0.3}}),
            "recall@20 was not measured in release before",
        ),
        ({"recall_at_10": 0.9}, measured(), "the release was not evaluated, as release before was"),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_compared_is_no_metric_that_is_as_good(own, before, why):
    assert drop_gate(Compared(own, before, "before", 0.6, 200)) == (REFUSED, f"cannot be compared: {why}")


def test_a_release_that_was_not_evaluated_has_nothing_to_lose():
    before = {"recall_at_10": 0.9}
    for own in (measured(), before):
        assert drop_gate(Compared(own, before, "before")) == (SKIPPED, "release before was not evaluated")


def test_a_damaged_active_release_refuses_for_the_gates_that_are_on():
    compared = Compared(measured(), None, "before", flaws=dict.fromkeys(COMPARING, "manifest.json: edited"))
    limits = GatesConfig().model_dump(mode="json")
    assert {gate.name: gate.describe().split("  ")[-1] for gate in refused(judge(compared, limits))} == dict.fromkeys(
        COMPARING, "cannot be compared: manifest.json: edited"
    )
    assert refused(judge(compared, limits | dict.fromkeys(COMPARING))) == []


def test_few_common_canaries_say_nothing():
    gates = judge(Compared(measured(), measured(), "before", 0.0, 9), {"min_neighbour_overlap": 0.5})
    assert gates[-1].outcome == SKIPPED or gates[-2].why == "only 9 canaries in common with release before"


def test_another_metric_may_be_chosen():
    found = judge(Compared(measured()), {"metric": "ndcg@20", "min_over_baselines": {"popularity": 1.0}})
    assert [g.why for g in found if g.name == "min_over_popularity"] == [
        "popularity was not evaluated beside the model"
    ]


def test_a_model_is_not_held_against_itself():
    figures = measured(trained="popularity", metrics={"popularity": {"recall@20": 0.1}})
    gate = next(g for g in judge(Compared(figures), {"min_over_baselines": {"popularity": 1.0}}) if "over" in g.name)
    assert (gate.outcome, gate.why) == (SKIPPED, "the model is popularity itself")


def test_a_refusal_says_by_how_much():
    gates = judge(Compared(measured(recall_at_10=0.75, head_share=0.9)), {"min_recall": 0.8, "max_head_share": 0.7})
    assert [gate.name for gate in refused(gates)] == ["min_recall", "max_head_share"]
    first, second = describe_gates(refused(gates)).splitlines()
    assert first.startswith("refused  min_recall ")
    assert first.endswith("0.7500 >= 0.8000  recall@10 of the index against exact search, off by 0.0500")
    assert second.endswith("0.9000 <= 0.7000  share of places for the 1.0% most popular items, off by 0.2000")
