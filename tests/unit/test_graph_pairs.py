"""Weights and score terms by hand, and the config that contradicts them."""

import math

import numpy as np
import pytest

from recspark.config.graph import GraphConfig
from recspark.graph import kernel, top_n
from recspark.graph.pairs import DAY_US, fixed_point_shift, pair_weights, unit_shape
from recspark.graph.scores import score_rule


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"length_power": 0}, kernel.PLAIN),
        ({}, kernel.UNIT_WEIGHTS),
        ({"length_power": 0, "half_life_days": 3}, kernel.UNIT_WEIGHTS),
        ({"use_event_weights": True}, kernel.ITEM_WEIGHTS),
        ({"window": 3}, kernel.ORDERED),
        ({"distance_decay": 0.9, "use_event_weights": True}, kernel.ORDERED),
    ],
)
def test_the_cheapest_kernel_that_can_is_taken(settings, mode):
    config = GraphConfig.model_validate(settings)
    assert pair_weights(config, 10, 5, 1.0, 0).rule.mode == mode
    assert unit_shape(config).ordered == (mode == kernel.ORDERED)


def test_unit_weights_by_hand():
    """Four distinct items: 4^-.5; seven days before the newest with a half-life of seven: another half."""
    weights = pair_weights(GraphConfig(half_life_days=7), 3, 9, 1.0, newest_us=20 * DAY_US)
    found = weights.of_units(np.array([4, 4, 9], np.int32), np.array([20, 13, 20]) * DAY_US)
    assert found.tolist() == [0.5, 0.25, pytest.approx(1 / 3)]


def test_decay_starts_with_one_for_neighbours():
    rule = pair_weights(GraphConfig(distance_decay=0.5, window=3), 1, 100, 1.0, 0).rule
    assert rule.decay[1:5].tolist() == [1, 0.5, 0.25, 0.125]
    assert rule.window == 3
    assert pair_weights(GraphConfig(distance_decay=0.5), 1, 100, 1.0, 0).rule.window == 100


@pytest.mark.parametrize("num_terms", [1, 10, 10**6, 10**10])
@pytest.mark.parametrize("largest", [1e-3, 1.0, 3.0, 1e6])
def test_fixed_point_sums_cannot_overflow_and_are_as_fine_as_can_be(num_terms, largest):
    shift = fixed_point_shift(num_terms, largest)
    total = num_terms * (int(largest * 2.0**shift) + 1)
    assert total < 2**63
    assert shift == 52 or total > 2**59


def test_a_sum_near_the_limit_is_exact():
    """Half a million pairs of weight 2^20 beside one of 2^-10."""
    rule = pair_weights(GraphConfig(length_power=0, use_event_weights=True), 500_000, 2, 2.0**10, 0).rule
    assert (500_000 * 2**20 + 2**-10) * rule.scale < 2**63
    assert 2**-10 * rule.scale >= 1


def test_score_terms_of_items_without_units_are_zero():
    counts = np.array([4, 0, 9])
    rule = score_rule(GraphConfig(source_exponent=0.5, candidate_exponent=1), counts, 9)
    assert rule.source_terms.tolist() == [0.5, 0, pytest.approx(1 / 3)]
    assert rule.candidate_terms.tolist() == [0.25, 0, pytest.approx(1 / 9)]
    assert score_rule(GraphConfig(num_neighbours=None), counts, 9).limit == 3
    assert score_rule(GraphConfig(num_neighbours=2), counts, 9).limit == 2


def test_scores_by_hand():
    score = top_n.pair_score.py_func
    assert score(top_n.COUNT, 3.0, 1.0, 1.0) == 3
    assert score(top_n.PRODUCT, 3.0, 0.5, 0.25) == 0.375
    assert score(top_n.JACCARD, 3.0, 4.0, 5.0) == 0.5
    # Two items that only meet each other, c = r = 2 of S = 4: log(2 * 4 / (2 * 2)).
    rule = score_rule(GraphConfig(score="ppmi", ppmi_smoothing=1), np.array([2, 2]), 2, np.array([2.0, 2.0]))
    assert score(top_n.PPMI, 2.0, rule.source_terms[0], rule.candidate_terms[1]) == pytest.approx(np.log(2))
    shifted = score_rule(
        GraphConfig(score="ppmi", ppmi_smoothing=1, ppmi_shift=4), np.array([2, 2]), 2, np.array([2.0, 2.0])
    )
    assert score(top_n.PPMI, 2.0, shifted.source_terms[0], shifted.candidate_terms[1]) == pytest.approx(-np.log(2))


def test_lift_by_hand():
    """In 3 of 20 units together, in 6 and 5 alone: 3 * 20 / 30."""
    rule = score_rule(GraphConfig(score="lift"), np.array([6, 5]), 20)
    assert top_n.pair_score(top_n.PRODUCT, 3.0, rule.source_terms[0], rule.candidate_terms[1]) == pytest.approx(2)


def test_the_log_likelihood_ratio_is_dunnings():
    """The worked table of Dunning 1993 ("the swiss"): k = 110, 2442, 111, 29114 gives 270.72."""
    found = top_n.log_likelihood_ratio(110.0, 110.0 + 2442, 110.0 + 111, 110.0 + 2442 + 111 + 29114)
    assert found == pytest.approx(270.72, abs=0.01)


def test_the_log_likelihood_ratio_equals_the_entropy_form():
    """Mahout's: 2 (H(rows) + H(columns) - H(table)) with H(k) = N log N - sum k log k."""

    def entropy(*counts):
        total = sum(counts)
        return total * math.log(total) - sum(k * math.log(k) for k in counts if k)

    for both, source, candidate, total in [
        (1, 1, 1, 2),
        (5, 5, 5, 5),
        (3, 10, 4, 100),
        (1, 2, 3, 5),
        (40, 50, 60, 10**6),
    ]:
        table = (both, source - both, candidate - both, total - source - candidate + both)
        rows, columns = (source, total - source), (candidate, total - candidate)
        expected = 2 * (entropy(*rows) + entropy(*columns) - entropy(*table))
        is_attraction = both * total > source * candidate
        found = top_n.log_likelihood_ratio(float(both), float(source), float(candidate), float(total))
        assert found == pytest.approx(expected if is_attraction else 0.0, abs=1e-6)


def test_the_cap_on_users_goes_with_sessions():
    with pytest.raises(ValueError, match="with group user, max_session_items is the cap"):
        GraphConfig(group="user", max_user_events=5)


def test_jaccard_refuses_event_weights():
    with pytest.raises(ValueError, match="jaccard needs pairs that weigh at most 1; turn use_event_weights off"):
        GraphConfig(score="jaccard", use_event_weights=True)
