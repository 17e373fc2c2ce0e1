"""Differences of configs in few words: leaves, and of lists of sections only what changed and is set."""

from recspark.config.source import DropRule
from recspark.pipeline.differences import find_differences


def rule(**fields) -> dict:
    return DropRule.model_validate(fields).model_dump(mode="json")


KEPT, OLD = rule(name="none", column="u", is_null=True), rule(name="bots", column="kind", one_of=["bot"])


def test_leaves_by_their_keys():
    old = {"graph": {"score": "count", "window": None}, "walks": {"p": 1.0}}
    new = {"graph": {"score": "cosine", "window": 3}, "walks": {"p": 1.0}}
    assert find_differences(old, new) == ["graph.score 'count' -> 'cosine'", "graph.window null -> 3"]


def test_rules_show_what_changed_and_is_set():
    new = rule(name="bots", column="kind", one_of=["bot", "test"])
    assert find_differences({"source": {"rules": [KEPT, OLD]}}, {"source": {"rules": [KEPT, new]}}) == [
        "source.rules [{name: 'bots', column: 'kind', one_of: ['bot']}] -> "
        "[{name: 'bots', column: 'kind', one_of: ['bot', 'test']}]"
    ]
    assert find_differences({"rules": [KEPT]}, {"rules": [KEPT, OLD]}) == [
        "rules [] -> [{name: 'bots', column: 'kind', one_of: ['bot']}]"
    ]


def test_an_order_that_matters_is_named():
    assert find_differences({"rules": [KEPT, OLD]}, {"rules": [OLD, KEPT]}) == ["rules in another order"]
    (one,) = find_differences({"rules": [KEPT, KEPT]}, {"rules": [KEPT]})
    assert one.endswith("-> [{name: 'none', column: 'u', is_null: true}]")


def test_a_section_that_comes_shows_its_set_fields():
    assert find_differences({"valid": None}, {"valid": {"kind": "last_k", "k": 2, "cut": None}}) == [
        "valid null -> {kind: 'last_k', k: 2}"
    ]
