"""RP3beta by hand, against explicit matrix products, and against the published task."""

import numpy as np
import pytest
import scipy.sparse as sp

from recspark.baselines import pairs
from recspark.baselines.rp3beta import build_rp3beta
from recspark.config.baselines import Rp3BetaConfig
from recspark.errors import SetupError


def random_users(seed=0, shape=(60, 25), density=0.2):
    """Users x items of 0/1 with an item that nobody has and a user who has nothing."""
    dense = (np.random.default_rng(seed).random(shape) < density).astype(float)
    dense[:, 7], dense[3] = 0, 0
    return dense


def explicit(dense, config):
    """The formula of the module by dense matrices."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_user = np.nan_to_num(dense.T / dense.sum(axis=0)[:, None]) ** config.item_alpha * (dense.T > 0)
        to_item = np.nan_to_num(dense / dense.sum(axis=1)[:, None]) ** config.user_alpha * (dense > 0)
        scores = to_user @ to_item / np.maximum(dense.sum(axis=0), 1) ** config.beta
    np.fill_diagonal(scores, 0)
    return scores


def test_scores_by_hand():
    users = sp.csr_array(np.array([[1.0, 1, 0], [1, 1, 1]]))
    scores = build_rp3beta(users, Rp3BetaConfig(item_alpha=1, user_alpha=1, beta=0)).toarray()
    # from item 0: half to user 0 and there half to item 1, half to user 1 and there a third to each
    assert scores[0] == pytest.approx([0, 1 / 4 + 1 / 6, 1 / 6])
    assert scores[2] == pytest.approx([1 / 3, 1 / 3, 0])
    halved = build_rp3beta(users, Rp3BetaConfig(item_alpha=1, user_alpha=1, beta=1)).toarray()
    assert halved[0] == pytest.approx([0, (1 / 4 + 1 / 6) / 2, 1 / 6])  # two users have item 1, one has item 2


@pytest.mark.parametrize("knobs", [{}, {"item_alpha": 1.0, "user_alpha": 0.5, "beta": 0.6}, {"user_alpha": 0.0}])
def test_scores_equal_explicit_matrix_products(knobs, monkeypatch):
    config, dense = Rp3BetaConfig(**knobs), random_users()
    whole = build_rp3beta(sp.csr_array(dense), config)
    np.testing.assert_allclose(whole.toarray(), explicit(dense, config), rtol=1e-5)
    assert whole.dtype == np.float32
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 1)  # one row a block
    np.testing.assert_array_equal(build_rp3beta(sp.csr_array(dense), config).toarray(), whole.toarray())


def test_pruned_scores_are_the_best_of_each_row():
    dense = random_users(1)
    whole = build_rp3beta(sp.csr_array(dense), Rp3BetaConfig()).toarray()
    pruned = build_rp3beta(sp.csr_array(dense), Rp3BetaConfig(num_neighbours=4)).toarray()
    for full, kept in zip(whole, pruned, strict=True):
        best = sorted(range(25), key=lambda i: (-full[i], i))[:4]
        assert np.flatnonzero(kept).tolist() == sorted(i for i in best if full[i] > 0)
        assert kept[best].tolist() == full[best].tolist()


def test_pairs_that_memory_cannot_hold_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(pairs, "free_memory_bytes", lambda: pairs.BLOCK_BYTES + 1000)
    users = sp.csr_array(random_users())
    message = r"baselines.rp3beta: \d+ pairs of items may need 256.0 MiB, 256.0 MiB are free; set .*num_neighbours"
    with pytest.raises(SetupError, match=message):
        build_rp3beta(users, Rp3BetaConfig())
    build_rp3beta(users, Rp3BetaConfig(num_neighbours=1))
