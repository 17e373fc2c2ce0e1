"""Hard negatives: near a target, never in the user's history, more of them epoch by epoch."""

import numpy as np
import scipy.sparse as sp
import torch

from recspark.config.towers import NegativesConfig, TowersConfig
from recspark.evaluate.ragged import Ragged
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.towers.examples import NEXT, ExampleMaker, Examples
from recspark.training.towers.hard_negatives import HardNegatives
from recspark.training.towers.losses import ABSENT

NUM_ITEMS = 30
HISTORIES = [[i % 10, (i + 1) % 10, 10 + i % 5] for i in range(40)] + [[20, 21, 22], [22, 23, 24]]


def users_UN() -> sp.csr_array:
    rows = Ragged.from_rows(HISTORIES)
    return sp.csr_array((np.ones(len(rows.values)), rows.values, rows.offsets), shape=(len(HISTORIES), NUM_ITEMS))


def examples() -> Examples:
    rows = Ragged.from_rows(HISTORIES)
    batch = Sequences(rows.values, rows.offsets, np.arange(len(HISTORIES), dtype=np.int32))
    return ExampleMaker(TowersConfig(), NEXT, np.ones(NUM_ITEMS, np.bool_), 1).make(batch, Place(0, 0, 0, 0))


def draw(config: NegativesConfig, epoch: int = 9, step: int = 3) -> np.ndarray | None:
    hard = HardNegatives(config, users_UN(), seed=2)
    if config.hard_model:
        hard.mine(torch.nn.functional.normalize(torch.arange(60.0).view(30, 2) + 1), np.arange(NUM_ITEMS))
    return hard.draw(examples(), Place(epoch, step, step, 0))


def test_graph_negatives_are_two_steps_away_and_not_in_the_history() -> None:
    found, made = draw(NegativesConfig(hard_graph=6)), examples()
    assert found is not None
    assert found.shape == (made.num_rows, 6)
    together = (users_UN().T @ users_UN()).toarray()
    is_near = together @ together > 0
    for row, negatives in enumerate(found):
        user = int(made.users[made.row_user[row]])
        there = negatives[negatives != ABSENT]
        assert not set(there) & set(HISTORIES[user])
        assert is_near[HISTORIES[user][1:]].any(axis=0)[there].all()  # of one of his targets
    assert (found != ABSENT).mean() > 0.3


def test_items_that_a_long_history_has_left_behind_are_no_negatives_either() -> None:
    config = TowersConfig.model_validate({"user": {"history": {"max_items": 2}}})
    random = np.random.default_rng(5)
    histories = [random.choice(NUM_ITEMS, 12, replace=False).tolist() for _ in range(20)]
    rows = Ragged.from_rows(histories)
    whole = sp.csr_array((np.ones(len(rows.values)), rows.values, rows.offsets), shape=(20, NUM_ITEMS))
    batch = Sequences(rows.values, rows.offsets, np.arange(20, dtype=np.int32))
    made = ExampleMaker(config, NEXT, np.ones(NUM_ITEMS, np.bool_), 1).make(batch, Place(0, 0, 0, 0))
    found = HardNegatives(NegativesConfig(hard_graph=6), whole, seed=2).draw(made, Place(9, 3, 3, 0))
    assert found is not None
    assert (found != ABSENT).any()
    for row, negatives in enumerate(found):
        assert not set(negatives) & set(histories[int(made.users[made.row_user[row]])])


def test_mined_negatives_are_of_the_ranks_asked_for() -> None:
    config = NegativesConfig(hard_model=4, hard_first_rank=3, hard_last_rank=8)
    hard = HardNegatives(config, users_UN(), seed=2)
    vectors = torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 5, generator=torch.Generator().manual_seed(0)))
    hard.mine(vectors, np.arange(NUM_ITEMS))
    near = hard.state_dict()["near"].numpy()
    order = np.argsort(-(vectors @ vectors.T).numpy(), axis=1, kind="stable")
    assert [sorted(row) for row in near.tolist()] == [sorted(row) for row in order[:, 3:8].tolist()]
    other = HardNegatives(config, users_UN(), seed=2)
    other.load_state_dict(hard.state_dict())
    made, place = examples(), Place(9, 1, 1, 0)
    np.testing.assert_array_equal(hard.draw(made, place), other.draw(made, place))


def test_their_number_grows_evenly_up_to_the_epoch_asked_for() -> None:
    config = NegativesConfig(hard_graph=10, hard_full_epoch=5)
    counts = [0 if (found := draw(config, epoch)) is None else found.shape[1] for epoch in range(8)]
    assert counts == [0, 2, 4, 6, 8, 10, 10, 10]


def test_a_draw_hangs_on_the_step_alone() -> None:
    config = NegativesConfig(hard_graph=4, hard_full_epoch=0)
    np.testing.assert_array_equal(draw(config), draw(config))
    assert not np.array_equal(draw(config), draw(config, step=4))  # type: ignore[arg-type]


def test_a_catalogue_of_one_item_has_nothing_but_itself_to_mine() -> None:
    hard = HardNegatives(NegativesConfig(hard_model=2), users_UN(), seed=2)
    hard.mine(torch.ones(NUM_ITEMS, 3), np.array([7]))
    assert hard.state_dict()["near"].tolist() == [[7]] * NUM_ITEMS
