"""Towers on 1, 2 and 4 ranks: the same losses, vectors and files, sampled across ranks or whole.

Each number of ranks is started once and trains all models: a gloo process costs seconds to start.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from recspark.config import Run
from recspark.evaluate.ranking_head_file import read_ranking_head
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.models.mlp import RankedBatchNorm
from recspark.training.job import train
from recspark.training.world import find_launch, open_world
from tests.helpers.ranks import check_ranks
from tests.helpers.tower_lake import SKIPS, plan_towers, write_skips
from tests.helpers.training_lake import vectors_of, write_topic_sessions

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

_NO_DROPOUT = {"pooling": "decay", "dropout": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "light_gcn": ("light_gcn", {}),
    "whole": (
        "two_tower",
        {
            "user": {"id": True, "time_features": ["hour_of_day", "time_since_last"], "history": _NO_DROPOUT},
            "learn_temperature": True,
        },
    ),
    "sampled": (
        "two_tower",
        {
            "negatives": {
                "kind": "sampled", "uniform": 20, "popularity": 10, "queue": 100, "queue_after_steps": 5,
                "hard_graph": 2, "hard_model": 2, "hard_first_rank": 5, "hard_last_rank": 20, "hard_refresh_steps": 10,
                "hard_full_epoch": 1,
            },
            "user": {"history": _NO_DROPOUT, "mlp": {"hidden": [16], "norm": "batch"}},
        },
    ),
    "skips": (
        "two_tower",
        {
            "negatives": {"explicit": SKIPS | {"num": 2, "weight": 3.0}, "hard_graph": 2, "hard_full_epoch": 0},
            "user": {"history": _NO_DROPOUT | {"event_weights": True}},
        },
    ),
    "rest_skips": (
        "two_tower",
        {
            "negatives": {"kind": "sampled", "uniform": 20, "explicit": SKIPS | {"num": 2}},
            "targets": "rest", "user": {"history": {"pooling": "mean", "dropout": 0.0, "event_weights": True}},
        },
    ),
    "neighbours": (
        "two_tower",
        # So few walks that many a neighbour is known through one user alone, who may be another rank's.
        {"item": {"neighbours": {"count": 30, "num_walks": 20}}, "user": {"history": _NO_DROPOUT}},
    ),
    "rest": (
        "two_tower",
        {"loss": "bpr", "targets": "rest", "user": {"history": {"pooling": "mean", "shared": False, "dropout": 0.0}}},
    ),
    "ranked": (
        "two_tower",
        {
            "user": {"history": _NO_DROPOUT},
            "ranking": {
                "kind": "target_attention", "candidates": 12, "num_negatives": 6, "dropout": 0.0, "joint": 0.5,
            },
        },
    ),
}  # fmt: skip


def plan(folder: Path, name: str) -> Run:
    kind, towers = MODELS[name]
    return plan_towers(folder / name, kind, towers, training={"epochs": 1, "batch_sequences": 128})


def work(folder: str) -> None:
    """What every rank does: batch norm of its part of nine rows, then all trainings."""
    launch = find_launch()
    with open_world(launch, "cpu", 60) as world:
        np.save(f"{folder}/norm-{launch.rank}.npy", normalise_part(world.rank, world.world_size))
    for name in MODELS:
        train(plan(Path(folder), name))


def normalise_part(rank: int, world_size: int) -> np.ndarray[Any, Any]:
    """(output, gradient) of this rank's rows under a loss that weighs them differently."""
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    own = rows.chunk(world_size)[rank].clone().requires_grad_()
    weights = torch.arange(24.0).view(8, 3).chunk(world_size)[rank]
    out = RankedBatchNorm(3)(own)
    (gradient,) = torch.autograd.grad((out * weights).sum(), own)
    return torch.stack([out.detach(), gradient]).numpy()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of ranks, where their lakes are; one rank is this process."""
    found = {}
    for num_ranks in (1, 2, 4):
        found[num_ranks] = tmp_path_factory.mktemp(f"ranks-{num_ranks}")
        for name in MODELS:
            run = plan(found[num_ranks], name)
            write_topic_sessions(run)
            if "negatives" in run.stages:
                write_skips(run)
        if num_ranks == 1:
            for name in MODELS:
                train(plan(found[1], name))
        else:
            check_ranks(work, num_ranks, {"folder": str(found[num_ranks])}, timeout_s=120)
    return found


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_ranks_learns_the_same(folders: dict[int, Path], name: str, num_ranks: int) -> None:
    one, many = plan(folders[1], name), plan(folders[num_ranks], name)
    for table in ("item_embeddings", "user_embeddings"):
        expected, found = (read_rows(run, table) for run in (one, many))
        assert found["idx"].to_pylist() == expected["idx"].to_pylist()
        np.testing.assert_allclose(vectors_of(found), vectors_of(expected), rtol=2e-3, atol=2e-4)
    losses = [find_done(run.lake, run.stages["train"])[1].counts["final_loss"] for run in (one, many)]  # type: ignore[index]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def read_rows(run: Run, table: str) -> Any:
    found = read_table(find_table(run.lake, run.stages["train"], table))
    return found.filter(pc.equal(found["model_id"], run.stages["train"].id)).sort_by("idx")


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_any_number_of_ranks_learns_the_same_ranking_head(folders: dict[int, Path], num_ranks: int) -> None:
    runs = plan(folders[1], "ranked"), plan(folders[num_ranks], "ranked")
    expected, found = (read_ranking_head(run.lake, run.stages["train"].id).arrays for run in runs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_batch_norm_is_over_the_rows_of_all_ranks(folders: dict[int, Path], num_ranks: int) -> None:
    parts = [np.load(folders[num_ranks] / f"norm-{rank}.npy") for rank in range(num_ranks)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), normalise_part(0, 1), rtol=1e-4, atol=1e-5)


def test_the_manifest_lists_every_ranks_vectors_and_one_user_tower(folders: dict[int, Path]) -> None:
    run = plan(folders[2], "whole")
    manifest = json.loads(Path(run.lake, "models", run.stages["train"].id, "manifest.json").read_text())
    names = sorted(file["path"] for file in manifest["files"])
    vectors = ["vectors-00000-of-00002.safetensors", "vectors-00001-of-00002.safetensors"]
    assert names == ["features.json", "item_tower.npz", "user_tower.npz", *vectors]
