"""Lakes with runs that are ready to be released: a model, its flat index and its evaluation, without Spark or torch.

python -m tests.helpers.release_lake FOLDER SEED SECTIONS     publishes one, and dies where RECSPARK_FAULT says
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recspark.config import Run
from recspark.evaluate.ranking_head import RankingHeadSpec
from recspark.evaluate.ranking_head_file import FACT as HEAD
from recspark.evaluate.ranking_head_file import FILE as HEAD_FILE
from recspark.evaluate.user_tower import UserTowerSpec
from recspark.evaluate.user_tower_file import FACT as TOWER
from recspark.evaluate.user_tower_file import FILE as TOWER_FILE
from recspark.faults import FAULT_VARIABLE
from recspark.index.job import build_index
from recspark.lake.folders import folder_uri, publish_folder
from recspark.lake.storage import write_bytes
from recspark.pipeline.evaluate_stage import evaluate
from recspark.releases.publish import publish
from recspark.releases.registry import ReleaseRow
from tests.helpers.tiny_lake import plan_tiny, random_vectors, write_embeddings, write_sessions

faiss.omp_set_num_threads(1)

NUM_ITEMS, DIM = 60, 6
_TOWER, _HEAD = UserTowerSpec("mean"), RankingHeadSpec(candidates=20, max_items=6, weights="raw", gain=2.0)


def plan_releasable(folder: Path, seed: int = 1, **sections: Any) -> Run:
    """A run with section release; another ``seed`` is another model on the same events."""
    values: dict[str, Any] = {
        "run": {"seed": seed},
        "model": {"embedding_dim": DIM},
        "index": {"kind": "flat", "num_shards": 2, "num_queries": 10},
        "evaluate": {"ks": [5]},
        "baselines": {"names": ["popularity"]},
        "release": {"num_canaries": 20},
    }
    return plan_tiny(folder, **(values | sections))


def build_releasable(
    run: Run,
    *,
    noise: float = 0.02,
    with_bias: float = 0.0,
    zero: int | None = None,
    has_tower: bool = False,
    **features: list[Any],
) -> Run:
    """All that a release of the run is made of. Models of all seeds know the tastes behind the events, with noise; item
    ``zero`` has no direction. ``has_tower``: users are made by a tower that takes the mean, and ranked by a head.
    """
    random = np.random.default_rng(9)
    tastes = random_vectors(2, NUM_ITEMS, DIM)
    if not Path(run.lake, "tables", "sessions").exists():
        write_sessions(run, list(range(NUM_ITEMS, 0, -1)), [_user(random, tastes) for _ in range(25)], **features)
    own = np.random.default_rng(run.seed)
    vectors = tastes + noise * own.normal(size=tastes.shape)
    if zero is not None:
        vectors[zero] = 0
    bias = {i: with_bias * float(b) for i, b in enumerate(own.normal(size=NUM_ITEMS))}
    facts = {TOWER: _TOWER.to_facts(), HEAD: _HEAD.to_facts()} if has_tower else {}
    write_embeddings(run, {i: v.tolist() for i, v in enumerate(vectors)}, bias=bias, **facts)
    publish_model(run, facts)
    build_index(run)
    if "evaluate" in run.stages:
        evaluate(run)
    return run


def publish_model(run: Run, facts: dict[str, Any] | None = None) -> None:
    """A model folder of one small file, and those of what the ``facts`` name."""
    model_id = run.stages["train"].id
    folder = Path(folder_uri(run.lake, "models", model_id))
    write_bytes(str(folder / "vectors.safetensors"), b"tables")
    files = ["vectors.safetensors"]
    if facts:
        np.savez(folder / TOWER_FILE)
        np.savez(folder / HEAD_FILE, **_make_head())  # type: ignore[arg-type]
        files += [TOWER_FILE, HEAD_FILE]
    publish_folder(run.lake, "models", model_id, files, counts={}, config={}, inputs={}, facts=facts or {},
                   run_id="tests")  # fmt: skip


def _make_head() -> dict[str, np.ndarray]:
    """Random arrays of a ranking head."""
    random = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {"mlp.layers.0.weight": (1, 5), "mlp.maps.0.bias": (5,)}
    shapes |= {f"mlp.maps.{i}.weight": (5, DIM) for i in range(4)}
    shapes |= {f"attention.maps.{i}.weight": (3, DIM) for i in range(3)}
    shapes |= {"attention.maps.0.bias": (3,), "attention.layers.0.weight": (1, 3)}
    slopes = {f"{name}.slopes": np.ones(1, np.float32) for name in ("attention", "mlp")}
    return (
        slopes
        | {"log_scale": np.float32(0)}
        | {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    )


def release(folder: Path, seed: int = 1, **sections: Any) -> ReleaseRow:
    """A published release."""
    return publish(build_releasable(plan_releasable(folder, seed, **sections)))


def publish_and_die(folder: Path, seed: int, fault: str, evaluate: bool = True, num_canaries: int = 20) -> int:
    """The exit code of a publisher that is killed at a fault point; ``evaluate``: of a run with that section."""
    sections: dict[str, Any] = {"release": {"num_canaries": num_canaries}} | ({} if evaluate else {"evaluate": None})
    command = [sys.executable, "-m", "tests.helpers.release_lake", str(folder), str(seed), json.dumps(sections)]
    environment = os.environ | {FAULT_VARIABLE: fault, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False).returncode


def _user(random: np.random.Generator, tastes: np.ndarray) -> tuple[list[int], list[int], list[int], list[int]]:
    """A user who likes what is near one item: 6 train and 3 test items."""
    near = np.argsort(-(tastes @ tastes[random.integers(NUM_ITEMS)]))[:12]
    items = random.permutation(near)[:9].tolist()
    return items[:6], [], [], items[6:]


if __name__ == "__main__":
    publish(plan_releasable(Path(sys.argv[1]), int(sys.argv[2]), **json.loads(sys.argv[3])))
