"""Any number of ranks learns what one learns: the sharded table, whole trainings, resumes, restarts, time-outs.

Each number of ranks is started once and does several things: a gloo process costs seconds to start.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from recspark.config import Run
from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.lake.arrow import find_done, find_table, open_table, read_table
from recspark.models.sharded_embedding import RowLayout, ShardedEmbedding, find_route, plan_route
from recspark.pipeline.evaluate_stage import evaluate
from recspark.training import export, torch_backend
from recspark.training.job import train
from recspark.training.objective import build_objective
from recspark.training.optim import RowwiseAdagrad
from recspark.training.slow_momentum import SlowMomentum
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World, find_launch, open_world
from tests.helpers.ranks import ROOT, check_ranks, run_ranks, start_ranks, stop, wait_for_all
from tests.helpers.training_lake import MEASURED, plan_training, topic_purity, vectors_of, write_topic_sessions

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

NUM_ROWS, DIM, NUM_STEPS = 37, 5, 50
TRAINING = {"epochs": 5}  # of 10 steps each


def requests_of(step: int, world_size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(distinct ids, how often asked, gradient) of each rank: 8 fixed requests a step, dealt to the ranks."""
    random = np.random.default_rng(step)
    slots = [(random.integers(0, NUM_ROWS, 9), random.normal(size=(9, DIM))) for _ in range(8)]
    dealt = []
    for rank in range(world_size):
        own = slots[rank * 8 // world_size : (rank + 1) * 8 // world_size]
        asked = np.concatenate([i for i, _ in own])
        ids, inverse, times = np.unique(asked, return_inverse=True, return_counts=True)
        gradient = np.zeros((len(ids), DIM))
        np.add.at(gradient, inverse, np.concatenate([g for _, g in own]))
        dealt.append((ids, times.astype(np.float32), gradient.astype(np.float32)))
    return dealt


def initial_rows(ids: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(NUM_ROWS, DIM)).astype(np.float32)[ids]


def update_a_table(world: World) -> np.ndarray:
    """50 steps on a table spread over the world; all its rows in id order."""
    layout = RowLayout(NUM_ROWS, world.world_size)
    table = ShardedEmbedding(layout, DIM, world, initial_rows)
    for step in range(NUM_STEPS):
        ids, times, gradient = requests_of(step, world.world_size)[world.rank]
        route = find_route(layout, plan_route(layout, ids), world)
        # The gradient depends on what was looked up, so a wrong row shows.
        pull = 0.1 * table.lookup(route) * torch.from_numpy(times)[:, None]
        table.apply_gradient(route, torch.from_numpy(gradient) + pull, RowwiseAdagrad(0.1).update)
    return table.lookup(find_route(layout, plan_route(layout, np.arange(NUM_ROWS)), world)).numpy()


def update_a_dense_table() -> np.ndarray:
    """The same on one dense table, by plain numpy."""
    weight, squares = initial_rows(np.arange(NUM_ROWS)).astype(np.float64), np.zeros(NUM_ROWS)
    for step in range(NUM_STEPS):
        ids, times, gradient = requests_of(step, 1)[0]
        total = gradient + 0.1 * weight[ids] * times[:, None]
        squares[ids] += np.square(total).mean(1)
        weight[ids] -= 0.1 * total / np.sqrt(squares[ids])[:, None]
    return weight


def work(folder: str, checkpoint: str) -> None:
    """What every rank of one start does: a table, a tower, the hand-over of a checkpoint, a training of 50 steps."""
    launch = find_launch()
    with open_world(launch, "cpu", 60) as world:
        np.save(f"{folder}/table-{launch.rank}.npy", update_a_table(world))
        np.save(f"{folder}/tower-{launch.rank}.npy", train_a_tower(world))
        pass_on_checkpoint(world, checkpoint, f"{folder}/checkpoint")
    train_only(folder)


def pass_on_checkpoint(world: World, source: str, target: str) -> None:
    """Reads a checkpoint that any number of ranks wrote, where there is one, and writes it with this number."""
    backend = open_backend(world)
    if source:
        backend.load(source)
    if world.rank == 0:
        os.makedirs(target)
    world.barrier()
    backend.save(target)


def train_a_tower(world: World) -> np.ndarray:
    """Six steps of plain SGD on a parameter all ranks hold, each with its own gradients; SlowMo after every third."""
    x = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = SlowMomentum(torch.optim.SGD([x], 0.1), 3, 0.5, 0.8, world)
    for step in range(6):
        x.grad = torch.tensor([step + 1.0, world.rank], dtype=torch.float64)
        optimizer.step()
    return x.detach().numpy()


def tower_by_formula(num_ranks: int) -> np.ndarray:
    """The same by algorithm 1 of Wang et al. 2020, all ranks in one array."""
    start, momentum = np.ones(2), np.zeros(2)
    for first in (0, 3):
        x = np.tile(start, (num_ranks, 1))
        for step in range(first, first + 3):
            x -= 0.1 * np.stack([np.full(num_ranks, step + 1.0), np.arange(num_ranks)], axis=1)
        momentum = 0.5 * momentum + (start - x.mean(0)) / 0.1
        start = start - 0.8 * 0.1 * momentum
    return start


def open_backend(world: World) -> TorchBackend:
    """37 items with random vectors and, as counts of gradients, numbers that tell the rows apart."""
    counts, config = np.arange(1, NUM_ROWS + 1), TrainingConfig(init_scale=1.0)
    return TorchBackend(DIM, build_objective(ModelConfig(), config, counts, world.world_size), world, num_threads=1)


def train_only(folder: str, **training: int) -> None:
    export._USERS_AT_ONCE = 100  # of 641: every rank has some
    train(plan_training(Path(folder), **TRAINING | training))


def start_lake(folder: Path) -> Run:
    run = plan_training(folder, **TRAINING)
    write_topic_sessions(run)
    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks -> folder with what they made; one rank is this process."""
    folders: dict[int, Path] = {}
    checkpoint = ""
    for num_ranks in (1, 2, 4):
        folder = folders[num_ranks] = tmp_path_factory.mktemp(f"ranks{num_ranks}")
        start_lake(folder)
        arguments = {"folder": str(folder), "checkpoint": checkpoint}
        if num_ranks == 1:
            work(**arguments)
        else:
            check_ranks(work, num_ranks, arguments, timeout_s=120)
        checkpoint = f"{folder}/checkpoint"
    return folders


def vectors(folder: Path, table: str = "item_embeddings") -> np.ndarray:
    run = plan_training(folder, **TRAINING)
    return vectors_of(read_table(find_table(run.lake, run.stages["train"], table)).sort_by("idx"))


def losses(folder: Path) -> list[float]:
    run = plan_training(folder, **TRAINING)
    path = Path(run.lake, "checkpoints", run.stages["train"].key, "metrics.jsonl")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_spread_table_holds_what_a_dense_one_would(results: dict[int, Path], num_ranks: int) -> None:
    for rank in range(num_ranks):
        found = np.load(results[num_ranks] / f"table-{rank}.npy")
        np.testing.assert_allclose(found, update_a_dense_table(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_slow_momentum_averages_what_ranks_learned_apart(results: dict[int, Path], num_ranks: int) -> None:
    for rank in range(num_ranks):
        np.testing.assert_allclose(np.load(results[num_ranks] / f"tower-{rank}.npy"), tower_by_formula(num_ranks))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_learn_what_one_learns(results: dict[int, Path], num_ranks: int) -> None:
    one, many = results[1], results[num_ranks]
    assert len(losses(one)) == NUM_STEPS
    np.testing.assert_allclose(losses(many), losses(one), rtol=1e-5)
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_allclose(vectors(many, table), vectors(one, table), rtol=1e-5, atol=1e-5)
    assert topic_purity(vectors(many)) > 0.95
    counts = []
    for folder in (one, many):
        run = plan_training(folder, **TRAINING)
        found = find_done(run.lake, run.stages["train"])
        assert found is not None
        counts.append({k: v for k, v in found[1].counts.items() if k not in (*MEASURED, "final_loss")})
        assert set(MEASURED) <= set(found[1].counts)
    assert counts[0] == counts[1]


def test_a_checkpoint_goes_from_1_to_2_to_4_to_1_ranks_unchanged(results: dict[int, Path]) -> None:
    first, last = open_backend(World()), open_backend(World())
    first.load(str(results[1] / "checkpoint"))
    for tensor in last._model.state().values():
        tensor.zero_()
    last.load(str(results[4] / "checkpoint"))
    assert len(list((results[4] / "checkpoint").glob("*.distcp"))) == 4
    for name, tensor in first._model.state().items():
        assert tensor.any() or name != "vectors"
        torch.testing.assert_close(last._model.state()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_rank_writes_its_rows_and_one_commits(results: dict[int, Path], num_ranks: int) -> None:
    run = plan_training(results[num_ranks], **TRAINING)
    for name in ("item_embeddings", "user_embeddings"):
        table = open_table(run.lake, name)
        assert len(table.history()) == 1
        assert len(table.file_uris()) == num_ranks
    files = sorted(Path(run.lake, "models", run.stages["train"].id).glob("*.safetensors"))
    assert len(files) == num_ranks
    parts = [load_file(file) for file in files]
    assert [len(part["input"]) for part in parts] == [60 // num_ranks] * num_ranks
    whole = np.concatenate([part["input"] for part in parts])
    np.testing.assert_array_equal(whole[:58], vectors(results[num_ranks]))


def test_a_model_published_by_two_ranks_is_written_out_by_one(results: dict[int, Path], tmp_path: Path) -> None:
    start_lake(tmp_path)
    ended = run_ranks(train_only, 2, {"folder": str(tmp_path)}, timeout_s=120, fault="train.model")
    assert ended[0].returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "lake" / "checkpoints")
    train_only(str(tmp_path))
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_allclose(vectors(tmp_path, table), vectors(results[2], table), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_are_evaluated_alike(results: dict[int, Path], num_ranks: int) -> None:
    tables = []
    for folder in (results[1], results[num_ranks]):
        run = plan_training(folder, evaluate={"ks": [5, 10]}, **TRAINING)
        if find_done(run.lake, run.stages["evaluate"]) is None:
            evaluate(run)
        found = read_table(find_table(run.lake, run.stages["evaluate"], "metrics"))
        tables.append(found.sort_by([(name, "ascending") for name in ("model_id", "name", "k", "segment")]).to_pydict())
    assert tables[0]["name"] == tables[1]["name"]
    np.testing.assert_allclose(tables[1]["value"], tables[0]["value"], rtol=1e-5, atol=1e-6)
    assert max(tables[0]["value"]) > 0.3


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on two ranks of which rank 0 was killed after step 13 of 50; the last checkpoint is of step 10."""
    folder = tmp_path_factory.mktemp("killed")
    start_lake(folder)
    ended = run_ranks(train_only, 2, {"folder": str(folder)}, timeout_s=120, fault="train.step:13")
    assert ended[0].returncode == -signal.SIGKILL, ended[0].stderr
    assert "RankLost: rank 0 of 2 has ended: " in ended[1].stderr
    assert "timeout_seconds" not in ended[1].stderr
    return folder


def copy_lake(folder: Path, to: Path) -> None:
    shutil.copytree(folder / "lake", to / "lake")


def test_two_ranks_resume_to_the_bit(results: dict[int, Path], killed: Path, tmp_path: Path) -> None:
    copy_lake(killed, tmp_path)
    ended = run_ranks(train_only, 2, {"folder": str(tmp_path)}, timeout_s=120)
    assert [done.returncode for done in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert "resumed at step 10" in ended[0].stderr
    np.testing.assert_array_equal(vectors(tmp_path), vectors(results[2]))
    assert losses(tmp_path) == losses(results[2])


def test_one_rank_goes_on_where_two_stopped(
    results: dict[int, Path], killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_lake(killed, tmp_path)
    train_only(str(tmp_path))
    assert "resumed at step 10" in capsys.readouterr().err
    np.testing.assert_allclose(vectors(tmp_path), vectors(results[1]), rtol=1e-5, atol=1e-5)


def test_two_ranks_go_on_where_one_stopped(results: dict[int, Path], tmp_path: Path) -> None:
    start_lake(tmp_path)
    (ended,) = run_ranks(train_only, 1, {"folder": str(tmp_path)}, timeout_s=120, fault="train.step:13")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    both = run_ranks(train_only, 2, {"folder": str(tmp_path)}, timeout_s=120)
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    assert "resumed at step 10" in both[0].stderr
    np.testing.assert_allclose(losses(tmp_path), losses(results[1]), rtol=1e-5)
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_allclose(vectors(tmp_path, table), vectors(results[1], table), rtol=1e-5, atol=1e-5)


def lose_the_numbers(folder: str) -> None:
    """What rank 1 finds in its eighth step is no number."""
    plain, calls = torch_backend.find_gradients, itertools.count(1)

    def find(*args: Any) -> Any:
        is_lost = os.environ["RANK"] == "1" and next(calls) == 8
        return tuple(found * (float("nan") if is_lost else 1.0) for found in plain(*args))

    torch_backend.find_gradients = find  # type: ignore[assignment]
    train_only(folder)


def test_a_loss_that_is_no_number_names_its_rank_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = start_lake(tmp_path)
    ended = run_ranks(lose_the_numbers, 2, {"folder": str(tmp_path)}, timeout_s=120)
    told = "training diverged at step 8 of 50 (rank 1 of 2, epoch 0, lanes 2..3, batch 7 of each): loss nan a pair"
    for done in ended:
        assert done.returncode == 1, done.stderr
        assert told in done.stderr
        assert "the checkpoint of step 5 stays" in done.stderr
    assert latest_step(run) == 5
    assert find_done(run.lake, run.stages["train"]) is None


def hang(folder: str) -> None:
    """Rank 1 stops at step 3."""
    plain = World.arrive

    def arrive(self: World, step: int) -> None:
        if self.rank == 1 and step == 3:
            time.sleep(600)
        plain(self, step)

    World.arrive = arrive  # type: ignore[method-assign]
    train_only(folder, timeout_seconds=6)


def test_a_hanging_rank_is_named(tmp_path: Path) -> None:
    start_lake(tmp_path)
    processes = start_ranks(hang, 2, {"folder": str(tmp_path)})
    try:
        _, stderr = processes[0].communicate(timeout=100)
    finally:
        stop(processes)
    assert processes[0].returncode == 1
    assert "(training.timeout_seconds 6): rank 1 is at step 2, this one is at step 3." in stderr


def ask_one_rank_to_stop(folder: str) -> None:
    """Rank 1 gets SIGTERM before its fourth step."""
    plain = World.arrive

    def arrive(self: World, step: int) -> None:
        if self.rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, step)

    World.arrive = arrive  # type: ignore[method-assign]
    train_only(folder)


def latest_step(run: Run) -> int:
    (latest,) = Path(run.lake, "checkpoints").glob("*/LATEST")
    step: int = json.loads(latest.read_text())["state"]["step"]
    return step


def test_sigterm_to_one_rank_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    run = start_lake(tmp_path)
    ended = run_ranks(ask_one_rank_to_stop, 2, {"folder": str(tmp_path)}, timeout_s=120)
    assert [done.returncode for done in ended] == [75, 75], ended[0].stderr + ended[1].stderr
    assert latest_step(run) == 4


def start_long_run(folder: Path, *overrides: str, **environment: str) -> tuple[Run, "subprocess.Popen[str]"]:
    """`recspark run` of a training on two processes that takes minutes, begun so far that it has a checkpoint."""
    settings = {"epochs": 1000, "checkpoint_steps": 20}
    run = plan_training(folder, **settings)
    write_topic_sessions(run)
    command = [sys.executable, "-m", "recspark.cli", "run", str(write_conf(folder, **settings))]
    command += ["training.num_processes=2", *overrides, "--from", "train"]
    environment = os.environ | run.to_environment() | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)
    deadline = time.monotonic() + 120
    while not list(Path(run.lake).glob("checkpoints/*/LATEST")) and time.monotonic() < deadline:
        time.sleep(0.2)
    return run, process


def test_sigterm_to_a_run_with_several_processes_ends_with_75_and_says_how_to_go_on(tmp_path: Path) -> None:
    """torchrun's own code would be 1, and its last words a traceback."""
    run, process = start_long_run(tmp_path)
    process.terminate()
    (done,) = wait_for_all([process], 60)
    step = latest_step(run)
    assert done.returncode == 75, done.stderr
    assert f"stopped by SIGTERM at step {step}" in done.stderr
    assert "Traceback" not in done.stderr
    said = f"stopped: train: checkpoint of step {step}; run the same command again to go on"
    assert done.stderr.splitlines()[-1].startswith(said)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_of_a_run_is_named_by_another_and_no_user_error(tmp_path: Path, rank: int) -> None:
    _, process = start_long_run(tmp_path)
    os.kill(find_rank(process.pid, rank), signal.SIGKILL)
    (done,) = wait_for_all([process], 100)
    assert done.returncode == 1, done.stderr
    assert f"error: rank {rank} of 2 has ended: " in done.stderr, done.stderr
    assert "stopped: train: the process ended with code 1" in done.stderr


def find_rank(run_pid: int, rank: int) -> int:
    """The process id of a rank below a `recspark run`."""
    (torchrun,) = Path(f"/proc/{run_pid}/task/{run_pid}/children").read_text().split()
    for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text():
            return int(pid)
    raise AssertionError(f"torchrun has no rank {rank}")


def write_conf(folder: Path, **training: int) -> Path:
    """The config of `plan_training` as a file."""
    run = plan_training(folder, **TRAINING | training)
    conf = folder / "run.yaml"
    conf.write_text(yaml.safe_dump(run.config.model_dump(mode="json")))
    return conf


ONCE = """
import os, runpy, sys

# The fault of the first attempt would strike each further one.
if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
    del os.environ["RECSPARK_FAULT"]
sys.argv = ["jobs/train.py", *sys.argv[1:]]
runpy.run_path("jobs/train.py", run_name="__main__")
"""


@pytest.mark.parametrize("fault", ["train.step:13", "train.step:13:rank1"])
def test_torchrun_restarts_after_the_loss_of_a_rank(results: dict[int, Path], tmp_path: Path, fault: str) -> None:
    """`kill -9` of one rank under ``torchrun --max-restarts`` ends with the undisturbed result."""
    conf = write_conf(tmp_path)
    run = start_lake(tmp_path)
    script = tmp_path / "train_once_faulty.py"
    script.write_text(ONCE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", str(script), str(conf)]
    environment = os.environ | run.to_environment() | {"RECSPARK_FAULT": fault, "GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)
    (done,) = wait_for_all([process], 200)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 10" in done.stderr
    np.testing.assert_array_equal(vectors(tmp_path), vectors(results[2]))
