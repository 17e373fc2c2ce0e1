"""Every member of the skip-gram family learns on two ranks what it learns on one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.training.objective import Place, build_objective
from recspark.training.sequence_files import MARK
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World, find_launch, open_world
from tests.helpers.family_oracle import ragged
from tests.helpers.ranks import check_ranks
from tests.helpers.training_lake import topic_sequences

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

NUM_ITEMS, BATCH, NUM_STEPS = 40, 32, 50
GROUPS = np.arange(NUM_ITEMS, dtype=np.int32) % 3 - 1
CASES: list[tuple[str, str, dict[str, Any], Any]] = [
    ("skip_gram", "hierarchical_softmax", {"position_decay": 0.8, "window": 2}, None),
    ("skip_gram", "negative_sampling", {"window": "session"}, GROUPS),
    ("cbow", "negative_sampling", {"subsample": 0.01}, GROUPS),
    ("cbow", "hierarchical_softmax", {"window": "session"}, None),
]


def read_batch(step: int, is_session: bool) -> list[list[int]]:
    """Sequences of a global batch; where windows are narrow, every seventh item is bought."""
    rows = topic_sequences(BATCH, NUM_ITEMS, seed=step)
    return [[int(i) | (MARK if i % 7 == 0 and not is_session else 0) for i in row] for row in rows]


def train_case(case: int, world: World) -> dict[str, np.ndarray]:
    """50 steps of a case: loss sums and tables, in item order."""
    kind, name, knobs, groups = CASES[case]
    config = TrainingConfig(shared_negatives=8, **knobs)
    objective = build_objective(ModelConfig(kind=kind, objective=name), config, np.arange(NUM_ITEMS) + 1, 5, groups)
    backend, losses = TorchBackend(8, objective, world, 1), []
    own = BATCH // world.world_size
    for step in range(NUM_STEPS):
        rows = read_batch(step, config.window == "session")[world.rank * own : (world.rank + 1) * own]
        prepared = backend.prepare(ragged(rows), Place(0, step, step, world.rank * own))
        backend.step(prepared, 0.2)
        losses.append(world.sum_over_ranks(backend.take_loss()))
    tables = backend.part(range(NUM_ITEMS))
    return {"losses": np.array(losses), "input": tables.input, "output": tables.output}


def train_cases(folder: str) -> None:
    with open_world(find_launch(), "cpu", 60) as world:
        for case in range(len(CASES)):
            found = train_case(case, world)
            if world.rank == 0:
                np.savez(Path(folder) / f"{case}.npz", **found)


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    check_ranks(train_cases, 2, {"folder": str(tmp_path)}, timeout_s=150)
    for case in range(len(CASES)):
        alone, together = train_case(case, World()), np.load(tmp_path / f"{case}.npz")
        assert (alone["losses"][:, 1] > 0).all()
        for name, expected in alone.items():
            np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-5, err_msg=f"{CASES[case]} {name}")
