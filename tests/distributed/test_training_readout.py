"""The readout chosen from the same tables is the same, to the last bit, on 1, 2 and 4 ranks, which share the work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recspark.config.schema import ModelConfig
from recspark.errors import DataError
from recspark.lake.arrow import TableAt, find_table
from recspark.training import readout_cases, readout_scores
from recspark.training.readout_search import choose_readout
from recspark.training.tables import SkipGramTables
from recspark.training.world import World, find_launch, open_world
from tests.helpers.ranks import check_ranks
from tests.helpers.tiny_lake import build_histories, plan_tiny, write_stage

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

NUM_ITEMS, NUM_USERS, DIM = 50, 90, 6
AUTOS = dict.fromkeys(("readout", "metric", "centred", "popularity_term"), "auto")
SEARCH = {"metric": "ndcg@5", "popularity_terms": [0.0, 0.1, 0.5]}
CUT = {"max_scores": NUM_ITEMS * 48 * 30}


def tables() -> SkipGramTables:
    random = np.random.default_rng(1)
    both = random.normal(0.3, 1, (2, NUM_ITEMS, DIM)).astype(np.float32)
    return SkipGramTables(both[0], both[1], np.arange(NUM_ITEMS) != 7)


def find_histories(folder: str | Path) -> TableAt:
    run = plan_tiny(Path(folder))
    return find_table(run.lake, run.stages["sessions"], "user_histories")


def write_histories(folder: Path) -> TableAt:
    """Users of whom the first 20, and so a whole piece of the table, hold nothing to choose by."""
    random = np.random.default_rng(0)
    parts = [
        [random.integers(0, NUM_ITEMS, random.integers(1, 6)).tolist() for _ in range(2)] for _ in range(NUM_USERS)
    ]
    run = plan_tiny(folder)
    users = [(train, [] if u < 20 else valid, [], []) for u, (train, valid) in enumerate(parts)]
    write_stage(run, "sessions", {"user_histories": build_histories(users)})
    return find_histories(folder)


def search(histories: TableAt, world: World, **knobs: Any) -> dict[str, Any]:
    """What is chosen, and how many users this rank scored in all."""
    readout_cases._USERS_AT_ONCE, readout_scores._BLOCK_USERS = 16, 5
    scored, plain = [], readout_scores.mask_scores

    def mask(scores: Any, *args: Any) -> None:
        scored.append(len(scores))
        plain(scores, *args)

    readout_scores.mask_scores = mask
    try:
        config = ModelConfig.model_validate(AUTOS | {"readout_search": SEARCH | knobs})
        choice = choose_readout(tables(), histories, np.arange(NUM_ITEMS, 0, -1), config, world)
    finally:
        readout_scores.mask_scores = plain
    return {"facts": choice.to_facts(), "spec": choice.spec.to_facts(), "scored": sum(scored)}


def search_twice(folder: str) -> None:
    histories = find_histories(folder)
    with open_world(find_launch(), "cpu", 60) as world:
        found = [search(histories, world), search(histories, world, **CUT)]
        Path(folder, f"{world.rank}-of-{world.world_size}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_choose_what_one_chooses_and_share_the_work(tmp_path: Path, num_ranks: int) -> None:
    histories = write_histories(tmp_path)
    alone = [search(histories, World()), search(histories, World(), **CUT)]
    assert [len(one["facts"]["rounds"]) for one in alone] == [1, 2]
    assert len({r["value"] for r in alone[0]["facts"]["results"]}) > 10
    check_ranks(search_twice, num_ranks, {"folder": str(tmp_path)}, timeout_s=200)
    ranks = [json.loads((tmp_path / f"{r}-of-{num_ranks}.json").read_text()) for r in range(num_ranks)]
    for place, one in enumerate(alone):
        shares = [found[place].pop("scored") for found in ranks]
        assert sum(shares) == one.pop("scored")
        assert max(shares) - min(shares) <= 5 * 16 * len(one["facts"]["rounds"])  # a block in each of 16 spaces
        for found in ranks:
            assert found[place] == one


def search_nobody(folder: str) -> None:
    histories = find_histories(folder)
    with open_world(find_launch(), "cpu", 60) as world, pytest.raises(DataError, match="of 1 users 1 have no valid ev"):
        search(histories, world)


def test_every_rank_says_why_there_is_nobody_to_choose_by(tmp_path: Path) -> None:
    write_stage(plan_tiny(tmp_path), "sessions", {"user_histories": build_histories([([1, 2], [], [], [])])})
    check_ranks(search_nobody, 2, {"folder": str(tmp_path)}, timeout_s=200)
