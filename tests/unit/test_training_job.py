"""The stage `train` on small lakes: quality, exact resume, export, refusals."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from safetensors.numpy import load_file

from recspark.config import Run
from recspark.errors import DataError, LakeError, RankLost, TrainingError
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.folders import find_flaw, read_manifest
from recspark.training import job
from recspark.training.cpu_backend import CpuBackend
from recspark.training.job import train
from recspark.training.stopping import EXIT_CHECKPOINTED, EXIT_TERMINATED
from recspark.training.trainer import Trainer
from tests.helpers.ranks import ROOT
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage
from tests.helpers.training_lake import (
    MEASURED,
    TRAINING,
    plan_training,
    topic_purity,
    topic_sequences,
    vectors_of,
    write_topic_sessions,
)

BACKENDS = ("cpu", "torch")


def rows(run: Run, table: str) -> pa.Table:
    """The run's own slice of an embedding table, by idx."""
    stage = run.stages["train"]
    found = read_table(find_table(run.lake, stage, table))
    return found.filter(pc.equal(found["model_id"], stage.id)).sort_by("idx")


def checkpoint_folder(run: Run) -> Path:
    return Path(run.lake, "checkpoints", run.stages["train"].key)


@pytest.mark.parametrize("name", ["my läke", "a+b", "a#b"])
def test_a_lake_may_be_called_as_folders_are(tmp_path: Path, name: str) -> None:
    run = plan_training(tmp_path / name, epochs=2, batch_sequences=8)
    write_topic_sessions(run, num_sessions=64)
    train(run)
    assert rows(run, "item_embeddings").num_rows > 50


def train_in_child(folder: Path, fault: str = "", **training: Any) -> subprocess.CompletedProcess[str]:
    """Trains `plan_training(folder, **training)` in a process of its own, where a fault may kill it."""
    code = (
        "import json, sys; from pathlib import Path; from tests.helpers.training_lake import plan_training; "
        "from recspark.training.job import train; train(plan_training(Path(sys.argv[1]), **json.loads(sys.argv[2])))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(training)],
        cwd=ROOT, env=os.environ | {"RECSPARK_FAULT": fault}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One finished run a backend: 2 epochs of 10 steps."""
    runs = {}
    for backend in BACKENDS:
        run = plan_training(tmp_path_factory.mktemp(backend), backend=backend)
        write_topic_sessions(run)
        train(run)
        runs[backend] = run
    return runs


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_are_of_the_planted_topic(trained: dict[str, Run], backend: str) -> None:
    items = rows(trained[backend], "item_embeddings")
    assert items["idx"].to_pylist() == list(range(58))
    assert topic_purity(vectors_of(items)) > 0.95  # chance is 0.2


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_marker_says_what_was_learned_from_what(trained: dict[str, Run], backend: str) -> None:
    run = trained[backend]
    version, record = find_done(run.lake, run.stages["train"]) or (None, None)
    assert version == 0
    assert record is not None
    tokens = sum(map(len, topic_sequences(640, 58, 0)))
    expected = {
        "steps": 20, "epochs": 2, "tokens": 2 * tokens, "items": 58, "items_trained": 58, "items_untrained": 1,
        "items_without_train_events": 1, "users": 640, "users_without_history": 1, "rows_left_out": 0,
    }  # fmt: skip
    assert {name: record.counts[name] for name in expected} == expected
    assert record.counts["tokens_per_second"] > 0
    assert 0 <= record.counts["loader_share"] < 1
    assert 50 < record.counts["peak_memory_mb"] < 50_000
    assert 0 < record.counts["final_loss"] < 6 * np.log(2)  # below that of vectors that know nothing
    assert record.facts == {
        "metric": "cosine", "embedding_dim": 8, "model_id": run.stages["train"].id, "model_kind": "skip_gram",
        "readout": "input", "centred": False, "popularity_term": 0.0, "backend": backend,
        "history_decay": 1.0, "history_items": None,
    }  # fmt: skip
    assert set(record.inputs) == {"sessions", "items", "users", "user_histories"}
    assert record.tables == {"user_embeddings": 0}


def test_both_backends_see_the_same_tokens_and_pairs(trained: dict[str, Run]) -> None:
    counts = [find_done(run.lake, run.stages["train"])[1].counts for run in trained.values()]  # type: ignore[index]
    assert counts[0]["pairs"] == counts[1]["pairs"] > 0
    assert counts[0]["tokens"] == counts[1]["tokens"]


def test_embeddings_are_the_readout_of_the_published_tables(trained: dict[str, Run]) -> None:
    run = trained["torch"]
    model_id = run.stages["train"].id
    manifest = read_manifest(run.lake, "models", model_id)
    assert manifest is not None
    assert manifest.counts["steps"] == 20
    tables = load_file(Path(run.lake, "models", model_id, "vectors.safetensors"))
    items = rows(run, "item_embeddings")
    np.testing.assert_array_equal(vectors_of(items), tables["input"][:58])
    assert items["id"].to_pylist() == [f"i{i}" for i in range(58)]
    assert items["query_vector"].null_count == 58
    assert set(items["bias"].to_pylist()) == {0.0}
    assert set(items["model_id"].to_pylist()) == {model_id}
    unit = tables["input"] / np.linalg.norm(tables["input"], axis=1, keepdims=True)
    users = rows(run, "user_embeddings")
    assert users["id"].to_pylist() == [f"u{u}" for u in range(640)]
    first = topic_sequences(640, 58, 0)[0]
    np.testing.assert_allclose(vectors_of(users)[0], unit[first].mean(0), atol=1e-6)


def test_input_output_writes_query_vectors_and_bias(tmp_path: Path) -> None:
    model = {"readout": "input_output", "popularity_term": 0.1}
    run = plan_training(tmp_path, model=model, backend="cpu", epochs=1)
    write_topic_sessions(run)
    train(run)
    tables = load_file(Path(run.lake, "models", run.stages["train"].id, "vectors.safetensors"))
    items = rows(run, "item_embeddings")
    np.testing.assert_array_equal(vectors_of(items), tables["output"][:58])
    np.testing.assert_array_equal(np.array(items["query_vector"].to_pylist(), np.float32), tables["input"][:58])
    assert np.std(items["bias"].to_pylist()) > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_and_resumed_equals_undisturbed_to_the_bit(
    trained: dict[str, Run], tmp_path: Path, backend: str
) -> None:
    run = plan_training(tmp_path, backend=backend)
    write_topic_sessions(run)
    killed = train_in_child(tmp_path, "train.step:13", backend=backend)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert find_done(run.lake, run.stages["train"]) is None
    resumed = train_in_child(tmp_path, backend=backend)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step 10" in resumed.stderr
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_array_equal(vectors_of(rows(run, table)), vectors_of(rows(trained[backend], table)))
    counts = [find_done(r.lake, r.stages["train"])[1].counts for r in (run, trained[backend])]  # type: ignore[index]
    for found in counts:
        for name in MEASURED:
            del found[name]
    assert counts[0] == counts[1]
    lines = [json.loads(line) for line in (checkpoint_folder(run) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[0]["learning_rate"] == 0.5


@pytest.mark.parametrize("fault", ["train.checkpoint.files", "train.model", "train.user_embeddings"])
def test_a_crash_between_commits_is_mended_by_the_next_run(trained: dict[str, Run], tmp_path: Path, fault: str) -> None:
    run = plan_training(tmp_path, backend="cpu")
    write_topic_sessions(run)
    assert train_in_child(tmp_path, fault, backend="cpu").returncode == -signal.SIGKILL
    assert find_done(run.lake, run.stages["train"]) is None
    train(run)
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_array_equal(vectors_of(rows(run, table)), vectors_of(rows(trained["cpu"], table)))


def test_one_rank_uses_no_collectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a collective")

    names = "all_to_all_single all_to_all all_reduce all_gather all_gather_object all_gather_into_tensor broadcast"
    names += " broadcast_object_list gather gather_object scatter scatter_object_list reduce reduce_scatter barrier"
    for name in [*names.split(), "init_process_group"]:
        monkeypatch.setattr(dist, name, refuse)
    run = plan_training(tmp_path, backend="torch", epochs=1)
    write_topic_sessions(run)
    train(run)
    assert find_done(run.lake, run.stages["train"]) is not None


def test_a_second_call_writes_nothing(trained: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    train(trained["cpu"])
    assert "already done at version 0" in capsys.readouterr().err


def test_a_second_model_leaves_the_first_one_alone(tmp_path: Path) -> None:
    runs = [plan_training(tmp_path, backend="cpu", epochs=1, window=window) for window in (1, 2)]
    write_topic_sessions(runs[0])
    before = []
    for run in runs:
        train(run)
        before.append(vectors_of(rows(run, "item_embeddings")))
    both = read_table(find_table(runs[1].lake, runs[1].stages["train"], "item_embeddings"))
    assert len(both) == 2 * 58
    for run, vectors in zip(runs, before, strict=True):
        own = both.filter(pc.equal(both["model_id"], run.stages["train"].id)).sort_by("idx")
        np.testing.assert_array_equal(vectors_of(own), vectors)


def test_walks_over_an_edge_list_carry_every_node(tmp_path: Path) -> None:
    run = plan_tiny(
        tmp_path,
        source={"kind": "edges", "path": "edges.csv", "format": "csv", "directed": False},
        model={"embedding_dim": 8},
        training=TRAINING | {"corpus": "walks", "backend": "cpu"},
        evaluate=None,
        run={"seed": 7},
    )
    walks = topic_sequences(300, 20, 0)
    nodes = [{"item_idx": i, "item_id": f"n{i}", "num_events": int(i < 20)} for i in range(21)]
    write_stage(run, "ingest", {"items": rows_of("items", nodes)})
    walk_rows = [{"epoch": 0, "shard": 0, "start_idx": int(w[0]), "walk": w.tolist()} for w in walks]
    write_stage(run, "walks", {"walks": rows_of("walks", walk_rows)})
    train(run)
    items = rows(run, "item_embeddings")
    assert items["id"].to_pylist() == [f"n{i}" for i in range(21)]
    assert not vectors_of(items)[20].any()  # isolated
    assert topic_purity(vectors_of(items)[:20], k=3) > 0.9
    _, record = find_done(run.lake, run.stages["train"]) or (None, None)
    assert record is not None
    assert record.tables == {}
    assert record.counts["items_trained"] == 20


def test_sigterm_leaves_a_checkpoint_and_its_own_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_training(tmp_path, backend="cpu", checkpoint_steps=1000)
    write_topic_sessions(run)
    steps = []
    plain_step = CpuBackend.step

    def step(self: CpuBackend, *args: Any) -> None:
        plain_step(self, *args)
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CpuBackend, "step", step)
    with pytest.raises(SystemExit) as stopped:
        train(run)
    assert stopped.value.code == EXIT_CHECKPOINTED == 75
    assert json.loads((checkpoint_folder(run) / "LATEST").read_text())["state"]["step"] == 7
    train(run)
    assert find_done(run.lake, run.stages["train"]) is not None
    assert len(steps) == 20


def terminate_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """The process gets SIGTERM at the first call of a function, which is not under way any more when it returns."""
    plain, calls = getattr(owner, name), itertools.count()

    def call(*args: Any, **named: Any) -> Any:
        if next(calls) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args, **named)

    monkeypatch.setattr(owner, name, call)


def test_sigterm_before_the_first_step_says_that_there_is_nothing_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = plan_training(tmp_path, backend="cpu"), signal.getsignal(signal.SIGTERM)
    write_topic_sessions(run)
    terminate_in(monkeypatch, job, "find_inputs")
    with pytest.raises(SystemExit) as stopped:
        train(run)
    assert stopped.value.code == EXIT_TERMINATED == 143
    assert "stopped by SIGTERM before there was anything to save" in capsys.readouterr().err
    assert not checkpoint_folder(run).exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_is_told_though_sigterm_comes_on_its_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_a_rank(run: Run) -> None:
        try:
            raise RankLost("rank 1 of 2 has ended")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(job, "_train", lose_a_rank)
    with pytest.raises(RankLost, match="rank 1 of 2 has ended"):
        train(plan_training(tmp_path))


@pytest.mark.parametrize(
    ("owner", "name"), [(Trainer, "_resume"), (Trainer, "_warn_of_nothing_learned"), (job, "publish_model")]
)
def test_sigterm_around_the_steps_names_the_checkpoint_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: Any, name: str
) -> None:
    run = plan_training(tmp_path, backend="cpu", checkpoint_steps=6)
    write_topic_sessions(run)
    train_in_child(tmp_path, "train.step:13", backend="cpu", checkpoint_steps=6)
    step = 12 if name == "_resume" else 20
    terminate_in(monkeypatch, owner, name)
    with pytest.raises(SystemExit) as stopped:
        train(run)
    assert stopped.value.code == EXIT_CHECKPOINTED
    assert f"the next start goes on from the checkpoint of step {step}" in capsys.readouterr().err
    train(run)
    assert find_done(run.lake, run.stages["train"]) is not None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_no_number_stops_with_its_place(tmp_path: Path, backend: str) -> None:
    run = plan_training(tmp_path, backend=backend, learning_rate=3e38, max_loss_ratio=1e30)
    write_topic_sessions(run)
    with pytest.raises(TrainingError, match=r"diverged at step \d+ of 20 \(rank 0 of 1, epoch 0, lanes 0..3, batch"):
        train(run)
    assert find_done(run.lake, run.stages["train"]) is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [3, "session"])
def test_a_rate_that_ruins_the_model_is_stopped_though_its_loss_falls(
    tmp_path: Path, backend: str, window: int | str
) -> None:
    run = plan_training(tmp_path, backend=backend, learning_rate=1000.0, window=window)
    write_topic_sessions(run)
    with pytest.raises(
        TrainingError, match=r"diverged at step \d+ of 20 .* is above 1000 .* x [\d.]+ untrained; .* Lower"
    ):
        train(run)
    assert find_done(run.lake, run.stages["train"]) is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [0.05, 2.0])
def test_a_sane_rate_is_never_stopped(tmp_path: Path, backend: str, rate: float) -> None:
    run = plan_training(tmp_path, backend=backend, learning_rate=rate, dim=256, epochs=4)
    write_topic_sessions(run)
    train(run)
    assert find_done(run.lake, run.stages["train"]) is not None


def test_a_runaway_loss_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = plan_training(tmp_path, backend="torch", learning_rate=50.0, max_loss_ratio=1.5, checkpoint_steps=1)
    write_topic_sessions(run)
    with pytest.raises(
        TrainingError, match=r"is above .* the checkpoint of step \d+ stays. Lower training.learning_ra"
    ):
        train(run)
    assert (checkpoint_folder(run) / "LATEST").exists()


def test_a_gradient_that_is_no_number_never_becomes_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan_training(tmp_path, backend="cpu")
    write_topic_sessions(run)
    monkeypatch.setattr(CpuBackend, "is_finite", lambda self: False)
    with pytest.raises(
        TrainingError, match=r"diverged at step 5 of 20 .*a gradient is not a number; no checkpoint yet"
    ):
        train(run)
    assert not (checkpoint_folder(run) / "LATEST").exists()


def test_auto_goes_on_with_the_backend_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_training(tmp_path, backend="auto")
    write_topic_sessions(run)
    monkeypatch.setattr("recspark.training.backend._count_gpus", lambda: 0)
    monkeypatch.setattr(CpuBackend, "is_finite", _fails_at_the_second_checkpoint())
    with pytest.raises(TrainingError, match="the checkpoint of step 5 stays"):
        train(run)
    monkeypatch.undo()
    monkeypatch.setattr("recspark.training.backend._count_gpus", lambda: 1)  # a fresh start would take torch
    train(run)
    _, record = find_done(run.lake, run.stages["train"]) or (None, None)
    assert record is not None
    assert record.facts["backend"] == "cpu"


def _fails_at_the_second_checkpoint() -> Any:
    answers = iter((True, False))
    return lambda self: next(answers)


def test_another_backend_is_refused_with_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_training(tmp_path, backend="auto", epochs=4)
    write_topic_sessions(run)
    killed = train_in_child(tmp_path, "train.step:7", backend="auto", epochs=4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.setattr(job, "choose_backend", lambda *_: ("torch", "cpu", "test"))
    with pytest.raises(TrainingError, match="backend: the checkpoint has cpu, this run has torch"):
        train(run)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a training that was killed behind its first checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    write_topic_sessions(plan_training(folder, backend="cpu"))
    killed = train_in_child(folder, "train.step:7", backend="cpu")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return folder


def test_a_changed_config_begins_anew_with_a_warning(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped / "lake", tmp_path / "lake")
    train(plan_training(tmp_path, backend="cpu", window=2))
    said = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    (warning,) = [
        line for line in said if line.startswith("warning: begins anew, though a training stopped at step 5 ")
    ]
    assert "made from something else: config.training.window 3 -> 2. Undo the change to go on" in warning
    assert "training.resume=required" in warning


@pytest.mark.parametrize(
    ("num_items", "differences"),
    [
        (60, []),
        (59, ["vocabulary: the checkpoint has [0-9a-f]{12}, this run has [0-9a-f]{12}", "num_items: the .* 60, .* 59"]),
    ],
)
def test_another_table_version_or_vocabulary_is_refused_where_a_resume_is_required(
    stopped: Path, tmp_path: Path, num_items: int, differences: list[str]
) -> None:
    """The sessions stage is built again under the same key, alike or with an item less."""
    shutil.copytree(stopped / "lake", tmp_path / "lake")
    run = plan_training(tmp_path, backend="cpu", resume="required")
    write_topic_sessions(run, num_items=num_items)
    with pytest.raises(TrainingError, match="cannot resume, the checkpoint was made from something else") as caught:
        train(run)
    lines = str(caught.value).splitlines()
    versions = [f"tables.{t}: the checkpoint has 0, this run has 1" for t in ("items", "sessions", "user_histories")]
    for expected in [*versions, *differences]:
        assert any(re.fullmatch(f"  {expected}", line) for line in lines), (expected, lines)
    assert any("  vocabulary" in line for line in lines) == bool(differences)
    assert find_done(run.lake, run.stages["train"]) is None


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="run `recspark run CONF --to sessions` first"):
        train(plan_training(tmp_path))


def write_sessions_of(run: Run, sessions: list[list[int]], item_idx: list[int]) -> None:
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": 2} for i in item_idx]
    split = [{"session_id": f"s{s}", "item_idx": values, "split": "train"} for s, values in enumerate(sessions)]
    write_stage(run, "sessions", {"items": rows_of("items", items), "sessions": rows_of("sessions", split)})


@pytest.mark.parametrize(
    ("sessions", "item_idx", "error", "message"),
    [
        ([[0, 0]], [0], DataError, "1 items; a model needs at least 2"),
        ([], [0, 1], DataError, "no sequences|no train"),
        ([[0], [1]], [0, 1], DataError, "no pairs: every sequence holds fewer than two items"),
        ([[0, 1], [1, 2]], [0, 1], DataError, "item_idx 2, but `items` has rows 0..1"),
        ([[0, 1]], [0, 2], LakeError, r"item_idx is not 0\.\.1; build it again"),
    ],
)
def test_a_corpus_that_teaches_nothing_is_refused(
    tmp_path: Path, sessions: list[list[int]], item_idx: list[int], error: type[Exception], message: str
) -> None:
    run = plan_training(tmp_path, backend="cpu", batch_sequences=4)
    write_sessions_of(run, sessions, item_idx)
    with pytest.raises(error, match=message):
        train(run)
    assert find_done(run.lake, run.stages["train"]) is None


@pytest.mark.parametrize("is_manifest_lost", [False, True])
def test_a_model_folder_that_lost_a_file_is_made_again(
    trained: dict[str, Run], tmp_path: Path, is_manifest_lost: bool
) -> None:
    """From the last checkpoint; the embeddings stay where the new file is the one that the manifest knows."""
    shutil.copytree(Path(trained["cpu"].lake), tmp_path / "lake")
    run = plan_training(tmp_path, backend="cpu")
    folder = Path(run.lake, "models", run.stages["train"].id)
    before = (folder / "vectors.safetensors").read_bytes()
    (folder / ("manifest.json" if is_manifest_lost else "vectors.safetensors")).unlink()
    train(run)
    assert (folder / "vectors.safetensors").read_bytes() == before
    assert find_flaw(run.lake, "models", folder.name) is None
    assert find_done(run.lake, run.stages["train"])[0] == int(is_manifest_lost)  # type: ignore[index]
    np.testing.assert_array_equal(
        vectors_of(rows(run, "item_embeddings")), vectors_of(rows(trained["cpu"], "item_embeddings"))
    )


def test_a_model_trained_anew_brings_its_own_embeddings(trained: dict[str, Run], tmp_path: Path) -> None:
    """Without a checkpoint, and with a manifest that knows another file, as after a training on many threads."""
    shutil.copytree(Path(trained["cpu"].lake), tmp_path / "lake")
    run = plan_training(tmp_path, backend="cpu")
    shutil.rmtree(Path(run.lake, "checkpoints"))
    folder = Path(run.lake, "models", run.stages["train"].id)
    (folder / "vectors.safetensors").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    train(run)
    assert find_done(run.lake, run.stages["train"])[0] == 1  # type: ignore[index]


def test_the_hint_of_a_flipped_model_file_mends_it(trained: dict[str, Run], tmp_path: Path) -> None:
    """Its vectors are wanted again where the embeddings are lost."""
    shutil.copytree(Path(trained["cpu"].lake), tmp_path / "lake")
    run = plan_training(tmp_path, backend="cpu")
    shutil.rmtree(Path(run.lake, "tables", "item_embeddings"))
    vectors = Path(run.lake, "models", run.stages["train"].id, "vectors.safetensors")
    content = bytearray(vectors.read_bytes())
    content[-9] ^= 1
    vectors.write_bytes(content)
    with pytest.raises(LakeError, match=r"SHA-256 differs.*remove this file and run `recspark run CONF --to train`"):
        train(run)
    vectors.unlink()
    train(run)
    np.testing.assert_array_equal(
        vectors_of(rows(run, "item_embeddings")), vectors_of(rows(trained["cpu"], "item_embeddings"))
    )
