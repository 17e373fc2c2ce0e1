"""Item filters and quotas against a plain loop, and what is said where they cannot be."""

import numpy as np
import pytest

from recspark.config.release import ItemFilterConfig, QuotaConfig, RecommendConfig
from recspark.errors import ConfigError
from recspark.evaluate.lists import NO_ITEM, Ranked
from recspark.lake.arrow import find_table
from recspark.retrieval.rules import FREE, Quota, keep_within_quotas, plan_rules
from tests.helpers.tiny_lake import plan_tiny, write_sessions

CATEGORIES = ["a", "b", "a", None, "c", "b"]
TAGS = [["x", "y"], ["y"], [], None, ["z"], ["x"]]
RATINGS = [1.0, 2.0, 3.0, None, 2.0, 1.0]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    run = plan_tiny(tmp_path_factory.mktemp("rules"), evaluate=None)
    write_sessions(run, [6, 5, 4, 3, 2, 1], [], f_category=CATEGORIES, f_tags=TAGS, f_rating=RATINGS)
    return find_table(run.lake, run.stages["sessions"], "items")


def plan(items, **section):
    return plan_rules(items, RecommendConfig(k=3, **section))


def test_without_rules_every_item_may_be_listed(items):
    found = plan(items)
    assert (found.k, found.depth, found.mask_seen, found.allowed, found.quotas) == (3, 3, True, None, ())


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({"feature": "category", "keep": ["a", "c"]}, [0, 2, 4]),
        ({"feature": "category", "drop": ["a", "c"]}, [1, 3, 5]),
        ({"feature": "tags", "keep": ["x", "z"]}, [0, 4, 5]),
        ({"feature": "tags", "drop": ["y"]}, [2, 3, 4, 5]),
        ({"feature": "rating", "keep": ["2"]}, [1, 4]),
    ],
)
def test_filters_keep_or_drop_by_value(items, rule, allowed):
    assert plan(items, filters=(rule,)).allowed.tolist() == allowed


def test_an_item_has_to_pass_all_filters(items):
    rules = ({"feature": "category", "keep": ["a", "b"]}, {"feature": "tags", "drop": ["x"]})
    assert plan(items, filters=rules).allowed.tolist() == [1, 2]


def test_filters_that_leave_nothing_are_told(items):
    with pytest.raises(ConfigError, match=r"recommend.filters: none of the 6 items of .*items passes; look at the"):
        plan(items, filters=({"feature": "category", "keep": ["q"]},))


def test_a_feature_that_the_items_lack_is_told_with_those_they_have(items):
    with pytest.raises(ConfigError, match="no column f_brand; its features are: f_category, f_rating, f_tags"):
        plan(items, filters=({"feature": "brand", "keep": ["q"]},))
    with pytest.raises(ConfigError, match=r"recommend.quotas: feature tags has several values an item; a quota needs"):
        plan(items, quotas=({"feature": "tags", "max_items": 1},))


def test_quotas_give_each_value_a_code_and_look_deeper(items):
    found = plan(items, quotas=({"feature": "category", "max_items": 1},), quota_depth=2)
    assert found.depth == 6
    codes = found.quotas[0].codes
    assert codes[3] == FREE
    assert [codes[0] == codes[2], codes[1] == codes[5], codes[0] == codes[1], codes[0] == codes[4]] == [
        True, True, False, False,
    ]  # fmt: skip
    only_a = plan(items, quotas=({"feature": "category", "max_items": 1, "values": ["a"]},)).quotas[0].codes
    assert [i for i, code in enumerate(only_a) if code != FREE] == [0, 2]


def keep_slowly(ids, quotas, k):
    """The oracle: one list, one item after the other."""
    kept, used = [], [{} for _ in quotas]
    for item in ids:
        codes = [int(quota.codes[item]) for quota in quotas]
        if item == NO_ITEM or len(kept) == k:
            break
        if all(c == FREE or used[q].get(c, 0) < quotas[q].max_items for q, c in enumerate(codes)):
            kept.append(item)
            for q, c in enumerate(codes):
                used[q][c] = used[q].get(c, 0) + 1
    return kept + [NO_ITEM] * (k - len(kept))


@pytest.mark.parametrize("num_quotas", [1, 2, 3])
def test_quotas_pass_over_items_as_a_loop_would(num_quotas):
    random = np.random.default_rng(num_quotas)
    quotas = [Quota(random.integers(-1, 4, 30).astype(np.int32), int(random.integers(1, 4))) for _ in range(num_quotas)]
    ids = np.stack([random.permutation(30)[:20] for _ in range(50)]).astype(np.int32)
    ids[5, 10:] = NO_ITEM
    scores = -np.sort(random.random(ids.shape).astype(np.float32), axis=1)
    found = keep_within_quotas(Ranked(ids, scores), quotas, 8)
    assert found.ids.tolist() == [keep_slowly(row, quotas, 8) for row in ids.tolist()]
    for row in range(len(ids)):
        places = [ids[row].tolist().index(i) for i in found.ids[row].tolist() if i != NO_ITEM]
        assert found.scores[row, : len(places)].tolist() == scores[row, places].tolist()
        assert np.isneginf(found.scores[row, len(places) :]).all()


def test_lists_shorter_than_k_are_padded():
    found = keep_within_quotas(Ranked(np.array([[0, 1]], np.int32), np.ones((1, 2), np.float32)), [], 4)
    assert found.ids.tolist() == [[0, 1, NO_ITEM, NO_ITEM]]


def test_a_filter_needs_keep_or_drop():
    with pytest.raises(ValueError, match="filter on feature 'x' needs keep or drop, one of them"):
        ItemFilterConfig(feature="x")
    with pytest.raises(ValueError, match="needs keep or drop"):
        ItemFilterConfig(feature="x", keep=("a",), drop=("b",))
    assert QuotaConfig(feature="x", max_items=1).values is None
