"""CBOW on a mixture of corpora, from a skip-gram of two ranks, read out by the validation slice: 1, 2 and 4 ranks learn
and choose the same, and a cut-off training goes on.
"""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from recspark.config import Run
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.training.job import train
from recspark.training.readout import ReadoutSpec
from tests.helpers.ranks import check_ranks, run_ranks
from tests.helpers.training_lake import plan_training, topic_purity, vectors_of, write_topic_sessions

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

NUM_STEPS = 40
VALID = {"kind": "user_share"}
MODEL = {
    "kind": "cbow", "readout": "auto", "popularity_term": "auto",
    "readout_search": {"metric": "recall@5", "popularity_terms": [0, 0.1]},
}  # fmt: skip


def plan_mixed(folder: str, earlier_lake: str, model_id: str) -> Run:
    start = {"model_id": model_id, "lake": earlier_lake, "neighbours": False}
    corpus = {"sessions": 1.0, "histories": 0.4}
    training = {"warm_start": start, "corpus": corpus, "schedule": "cosine", "warmup_steps": 3, "min_count": 5}
    return plan_training(Path(folder), model=MODEL, valid=VALID, **training)


def train_mixed(folder: str, earlier_lake: str, model_id: str) -> None:
    train(plan_mixed(folder, earlier_lake, model_id))


def plan_earlier(folder: str) -> Run:
    return plan_training(Path(folder), valid=VALID, epochs=1)


def train_earlier(folder: str) -> None:
    train(plan_earlier(folder))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Arguments that name an earlier model of 40 of the 58 items, in two parts."""
    folder = str(tmp_path_factory.mktemp("earlier"))
    run = plan_earlier(folder)
    write_topic_sessions(run, num_sessions=300, num_items=42, seed=3)
    check_ranks(train_earlier, 2, {"folder": folder}, timeout_s=120)
    assert len(list(Path(run.lake, "models", run.stages["train"].id).glob("vectors-*-of-00002.safetensors"))) == 2
    return {"earlier_lake": run.lake, "model_id": run.stages["train"].id}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, start: dict[str, str]) -> dict[int, Run]:
    """Number of ranks -> the finished run; one rank is this process."""
    runs = {}
    for num_ranks in (1, 2, 4):
        folder = str(tmp_path_factory.mktemp(f"ranks{num_ranks}"))
        runs[num_ranks] = plan_mixed(folder, **start)
        write_topic_sessions(runs[num_ranks])
        if num_ranks == 1:
            train_mixed(folder, **start)
        else:
            check_ranks(train_mixed, num_ranks, {"folder": folder, **start}, timeout_s=120)
    return runs


def vectors(run: Run) -> np.ndarray:
    return vectors_of(read_table(find_table(run.lake, run.stages["train"], "item_embeddings")).sort_by("idx"))


def lines(run: Run) -> list[dict[str, float]]:
    path = Path(run.lake, "checkpoints", run.stages["train"].key, "metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_learn_what_one_learns(results: dict[int, Run], num_ranks: int) -> None:
    one, many = results[1], results[num_ranks]
    # 640 sessions and 641 histories: 160 rows of each in every one of 4 lanes, 16 a lane and batch, two epochs.
    assert len(lines(one)) == len(lines(many)) == NUM_STEPS
    np.testing.assert_allclose([m["loss"] for m in lines(many)], [o["loss"] for o in lines(one)], rtol=1e-5)
    assert [m["learning_rate"] for m in lines(many)] == [o["learning_rate"] for o in lines(one)]
    np.testing.assert_allclose(vectors(many), vectors(one), rtol=1e-5, atol=1e-5)
    assert topic_purity(vectors(many)) > 0.95
    records = [find_done(run.lake, run.stages["train"])[1] for run in (one, many)]  # type: ignore[index]
    assert records[0].facts["warm_start"] == records[1].facts["warm_start"]
    assert records[0].facts["warm_start"]["known"] == 40
    assert ReadoutSpec.from_facts(records[0].facts) == ReadoutSpec.from_facts(records[1].facts)
    searches = [r.facts["readout_search"] for r in records]
    assert [s["candidates"] for s in searches] == [8, 8]
    assert searches[0]["value"] == pytest.approx(searches[1]["value"], abs=0.01)
    assert searches[0]["value"] > 0.3  # by chance .1: 5 of 58 items
    assert [r.counts["tokens"] for r in records] == [records[0].counts["tokens"]] * 2


def test_two_ranks_resume_to_the_bit(results: dict[int, Run], start: dict[str, str], tmp_path: Path) -> None:
    run = plan_mixed(str(tmp_path), **start)
    write_topic_sessions(run)
    given = {"folder": str(tmp_path), **start}
    ended = run_ranks(train_mixed, 2, given, timeout_s=120, fault="train.step:23")
    assert ended[0].returncode == -signal.SIGKILL, ended[0].stderr
    check_ranks(train_mixed, 2, given, timeout_s=120)
    np.testing.assert_array_equal(vectors(run), vectors(results[2]))
    assert [m["loss"] for m in lines(run)] == [m["loss"] for m in lines(results[2])]
