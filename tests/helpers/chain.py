"""Runs of the whole chain as real processes, killed on demand, and digests of what they leave behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from recspark.config import Run
from recspark.faults import FAULT_VARIABLE
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.folders import read_manifest
from recspark.lake.java import find_java
from recspark.pipeline.open_run import open_run

TINY = {
    "run": {"name": "tiny", "seed": 3},
    "source": {"kind": "synthetic", "synthetic": {"num_users": 300, "num_items": 150, "num_clusters": 6}},
    "clean": {"max_user_events": 2000},
    "split": {"kind": "time", "cut": "2026-02-16"},
    "walks": {"num_walks": 4, "walk_length": 10},
    "model": {"embedding_dim": 16},
    # One thread repeats exactly; small batches give the run steps to be killed between.
    "training": {"epochs": 2, "num_threads": 1, "batch_sequences": 64, "num_lanes": 16, "checkpoint_steps": 4},
    "index": {"kind": "ivf_flat", "num_shards": 3, "nlist": 4, "num_queries": 50},
    "spark": {"master": "local[2]", "driver_memory": "1g"},
}
_VOLATILE = ("run_id", "source_file")


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its code and all it said."""

    code: int
    text: str


def write_conf(path: Path, lake: Path, **sections: object) -> Path:
    """The tiny chain's config as a file."""
    path.write_text(yaml.safe_dump(TINY | {"paths": {"lake": str(lake)}} | sections))
    return path


def kill_group(group: int) -> None:
    """SIGKILL for a whole process group, as when a machine is lost."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def kill_alone(process: int) -> None:
    """SIGKILL for one process; what it started lives on."""
    os.kill(process, signal.SIGKILL)


def terminate_alone(process: int) -> None:
    """SIGTERM for one process, as a scheduler sends it."""
    os.kill(process, signal.SIGTERM)


def run_command(
    command: list[str],
    fault: str | None = None,
    kill_when: Callable[[], bool] | None = None,
    kill: Callable[[int], None] = kill_group,
    timeout_s: float = 300,
) -> Finished:
    """Runs a command in a process group of its own, which is killed when told to, and what is left of it at the end.

    ``kill`` takes the command's process id. Returns when the last process that the command started has ended.
    """
    environment = os.environ | {"RECSPARK_LOG_FORMAT": "json", FAULT_VARIABLE: fault or ""}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # an activated environment
    environment.setdefault("JAVA_HOME", find_java().home)  # for spark-submit, where Java is a pip package
    environment.pop("RECSPARK_RUN", None)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    deadline = time.monotonic() + timeout_s
    try:
        while kill_when is not None and process.poll() is None and time.monotonic() < deadline:
            if kill_when():
                kill(process.pid)
                break
            time.sleep(0.005)
        text, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    finally:
        kill_group(process.pid)
    return Finished(process.returncode, text)


def run_chain(conf: Path, *arguments: str, **how: object) -> Finished:
    """`recspark run CONF ...` as a user starts it."""
    return run_command([sys.executable, "-m", "recspark.cli", "run", str(conf), *arguments], **how)  # type: ignore[arg-type]


def after_seconds(seconds: float) -> Callable[[], bool]:
    """True from so many seconds after this call on."""
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


def between_files_and_commit(lake: Path, table: str) -> Callable[[], bool]:
    """True while a table has data files of a version that its log does not have yet."""
    folder = lake / "tables" / table
    before = _data_files(folder), _commits(folder)
    return lambda: _data_files(folder) > before[0] and _commits(folder) == before[1]


def digests(conf: Path, *overrides: str) -> dict[str, str]:
    """stage.table -> SHA-256 of its rows, sorted, without run ids; index -> the hashes in its manifest."""
    run = open_run(conf, overrides)
    found = {}
    for stage in run.stages.values():
        assert find_done(run.lake, stage), f"{stage.name} is not done"
        if stage.spec.folder:
            found[stage.name] = _digest_folder(run, stage.spec.folder, stage.id)
        for name in stage.spec.tables:
            found[f"{stage.name}.{name}"] = _digest_table(run, stage.name, name)
    return found


def stages_said(text: str, message: str) -> list[str]:
    """Stages whose JSON log lines hold a message."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line["stage"] for line in lines if message in line["message"]]


def _digest_table(run: Run, stage: str, name: str) -> str:
    planned = run.stages[stage]
    rows = read_table(find_table(run.lake, planned, name)).to_pylist()
    if name in ("recommendations", "metrics", "item_embeddings", "user_embeddings"):
        rows = [
            r for r in rows if planned.id in json.dumps(r) or planned.key in json.dumps(r) or name == "recommendations"
        ]
    if name == "quarantine":
        rows = [r for r in rows if r["stage_key"] == planned.key]
    texts = sorted(
        json.dumps({k: v for k, v in r.items() if k not in _VOLATILE}, default=str, sort_keys=True) for r in rows
    )
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _digest_folder(run: Run, kind: str, folder_id: str) -> str:
    manifest = read_manifest(run.lake, kind, folder_id)
    assert manifest
    return hashlib.sha256(json.dumps([[f.path, f.sha256] for f in manifest.files]).encode()).hexdigest()


def _data_files(folder: Path) -> int:
    return sum(1 for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts)


def _commits(folder: Path) -> int:
    return len(list((folder / "_delta_log").glob("*.json")))


def read_all(conf: Path, stage: str, table: str, *overrides: str) -> pa.Table:
    """A stage's table at the version of this config."""
    run = open_run(conf, overrides)
    return read_table(find_table(run.lake, run.stages[stage], table))
