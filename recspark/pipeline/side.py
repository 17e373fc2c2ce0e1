"""One side's process: runs its stages in order, skipping what is done. Started by `recspark run` and by ``jobs/``.

python -m recspark.pipeline.side ingest,sessions,graph conf/quickstart.yaml walks.p=0.5
torchrun --standalone --nproc-per-node 2 -m recspark.pipeline.side train conf/quickstart.yaml
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from recspark.config import Run
from recspark.contracts.stages import SPARK, TRAIN
from recspark.ending import calm_ending
from recspark.errors import ConfigError, LakeError, RankLost, RecsparkError
from recspark.lake.arrow import find_table
from recspark.lake.failures import explaining_failures
from recspark.lake.folders import find_flaw, has_files
from recspark.lake.locks import stage_lock
from recspark.logs import log
from recspark.pipeline.hints import filled_in
from recspark.pipeline.open_run import open_job_run
from recspark.pipeline.plan import find_state
from recspark.releases.binding import INDEXES, MODELS
from recspark.releases.holders import find_holder
from recspark.training.stopping import EXIT_CHECKPOINTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

USER_ERROR = 2
DRY_RUN = "--dry-run"
PARENT = "RECSPARK_PARENT"
"""Process id of the `recspark run` that started this side."""
EXIT_FILE = "RECSPARK_EXIT_FILE"
"""Names a file for the code a stage ends with, where that says more than failure: torchrun ends with 1 in any case."""
STAGE_FILE = "RECSPARK_STAGE_FILE"
"""Names a file that says which stage has been started last."""


def main(arguments: Sequence[str]) -> int:
    """Runs ``STAGE[,STAGE] CONF [key=value ...] [--dry-run]``; 0 when done, 2 when the user has to change something,
    1 where held-out data has leaked or a rank was lost, after SIGTERM what training says."""
    is_dry, words = DRY_RUN in arguments, [word for word in arguments if word != DRY_RUN]
    if len(words) < 2:
        usage = f"usage: python -m recspark.pipeline.side STAGE[,STAGE] CONF [key=value ...] [{DRY_RUN}]"
        print(usage, file=sys.stderr)
        return USER_ERROR
    stages, conf, *overrides = words
    watch_parent()
    try:
        names = stages.split(",")
        with filled_in([conf, *overrides]):
            if is_dry:
                _describe(open_job_run(conf, overrides, names[0]), names)
                return 0
            if stages in _OUTSIDE_RUNS:
                _OUTSIDE_RUNS[stages](conf, overrides)
            else:
                run_stages(open_job_run(conf, overrides, names[0]), names)
    except RecsparkError as error:
        if is_first_rank() or _stands_in(error):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return _leave_word(error.exit_code)
    except SystemExit as stopped:  # by SIGTERM
        return _leave_word(int(stopped.code or 0))
    return 0


def run_job(stage: str, description: str | None) -> None:
    """The body of a ``jobs/`` entry: one stage, the config and overrides from the command line; ends the process.

    Asked for help, or called without a config, it prints the usage and the ``description``, the entry's docstring.
    """
    arguments = sys.argv[1:]
    wants_help = bool({"-h", "--help"} & set(arguments))
    if arguments and not wants_help:
        with calm_ending():
            sys.exit(main([stage, *arguments]))
    if is_first_rank():
        usage = f"usage: {sys.argv[0]} CONF [key=value ...]\n\n{(description or '').strip()}"
        print(usage, file=sys.stdout if wants_help else sys.stderr)
    sys.exit(0 if wants_help else USER_ERROR)


def _describe(run: Run, names: Sequence[str]) -> None:
    """Prints what a stage would take.

    Raises: ConfigError for a stage that cannot tell.
    """
    if list(names) != [TRAIN.name]:
        raise ConfigError(
            f"{DRY_RUN}: of single stages only {TRAIN.name} can tell; `recspark run CONF {DRY_RUN}` tells all"
        )
    from recspark.training.estimate import describe_training

    if is_first_rank():
        print(describe_training(run))


def _stands_in(error: RecsparkError) -> bool:
    """Whether this rank has to tell an error because the first one was lost without a word."""
    is_next = isinstance(error, RankLost) and os.environ.get("RANK") == str(error.first_left)
    return is_next and not os.path.exists(os.environ.get(EXIT_FILE, ""))


def _leave_word(code: int) -> int:
    """Notes the code for `recspark run`; that of a rank which only follows another's end does not replace it."""
    path = os.environ.get(EXIT_FILE)
    if path and (code in (USER_ERROR, EXIT_CHECKPOINTED) or not os.path.exists(path)):
        with suppress(OSError):  # a full disk, which the message has told
            Path(path).write_text(str(code))
    return code


def run_stages(run: Run, names: Sequence[str]) -> None:
    """Runs stages of one side in order; those done under the run's keys are skipped.

    Raises: ConfigError when the config has no such stage; LakeError when one that they read is not finished.
    """
    todo = []
    for name in names:
        if name not in run.stages:
            raise ConfigError(f"stage {name}: this config has none; it has {', '.join(run.stages)}")
        state = find_state(run, name)
        if state.version is not None:
            log_done(name, state.version)
            continue
        todo.append(name)
        if state.flaw:
            check_not_served(run, name, state.flaw)
            if is_first_rank():
                log(name, f"has to be built again: {state.flaw}")
    if not todo:
        return
    _check_inputs(run, todo)
    _check_id_key(run, todo)
    if run.stages[todo[0]].spec.side == SPARK:
        _run_spark_stages(run, todo)
    else:
        for name in todo:
            _run_timed(run, name, lambda name=name: _ENGINE_STAGES[name](run))  # type: ignore[misc]


def check_not_served(run: Run, name: str, flaw: str) -> None:
    """Checks that a stage, built again, does not write over a folder that a release refers to: the active one, one that
    can become active again, or one that a reader has leased. A folder that has lost something itself may be mended.

    Raises: LakeError where it would.
    """
    folder, folder_id = run.stages[name].spec.folder or run.stages[name].spec.side_folder, run.stages[name].id
    if folder not in (INDEXES, MODELS) or not has_files(run.lake, folder, folder_id):
        return
    own = find_flaw(run.lake, folder, folder_id)
    if own == flaw or (folder == MODELS and own is None):  # a whole model is taken up as it is
        return
    if row := find_holder(run.lake, folder, folder_id):
        raise LakeError(
            f"{name}: has to be built again ({flaw}), over {folder}/{folder_id}, which release {row.release_id} "
            f"({row.state}) refers to; change run.seed: what is built then has an id of its own. Or, where nobody "
            f"needs that release, activate another one and let `recspark lake gc --keep 0` remove it first"
        )


def _check_inputs(run: Run, todo: Sequence[str]) -> None:
    """Checks that the tables which come from other stages are there: before a JVM or an engine is started for nothing.

    What an index folder lacks is told by its reader.
    """
    for upstream in {name: None for stage in todo for name in run.stages[stage].upstream if name in run.stages}:
        marker = run.stages[upstream].spec.marker
        if upstream not in todo and marker:
            find_table(run.lake, run.stages[upstream], marker)


def _check_id_key(run: Run, todo: Sequence[str]) -> None:
    """Checks, before a JVM is started for nothing, that stages which hide ids have the key; `load_config` does so where
    the config does not pin its fingerprint.
    """
    privacy, features = run.config.source.privacy, run.config.features
    if privacy and ("ingest" in todo or ("sessions" in todo and any(privacy.hides(f.of) for f in features))):
        privacy.read_key()


def watch_parent() -> None:
    """Ends this process, as by SIGTERM, when the `recspark run` that started it is gone: nobody would wait for it."""
    parent = int(os.environ.get(PARENT, "0"))
    if parent:
        threading.Thread(target=_end_with, args=(parent, os.getppid()), daemon=True).start()


def _end_with(parent: int, own_parent: int) -> None:
    while _is_alive(parent) and os.getppid() == own_parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def log_done(stage: str, version: int) -> None:
    """Says that a stage has nothing to do."""
    log(stage, f"already done at version {version}")


def is_first_rank() -> bool:
    """Whether this process speaks for its group (always, outside torchrun)."""
    return os.environ.get("RANK", "0") == "0"


def _run_timed(run: Run, name: str, work: Callable[[], None]) -> None:
    started = time.monotonic()
    if is_first_rank():
        log(name, "started")
        if word := os.environ.get(STAGE_FILE):
            Path(word).write_text(name)
    lock = stage_lock(run.lake, run.stages[name]) if is_first_rank() else nullcontext()
    with explaining_failures(name, run.lake), lock:
        # While waiting for the lock its holder may have finished; the ranks of a group decide this once, before.
        if "RANK" in os.environ or not find_state(run, name).is_done:
            work()
    if is_first_rank():
        log(name, "finished", seconds=round(time.monotonic() - started, 1))


def _run_spark_stages(run: Run, names: Sequence[str]) -> None:
    with _spark_of(run) as spark:
        for name in names:
            _run_timed(run, name, lambda name=name: _run_spark_stage(spark, run, name))  # type: ignore[misc]


@contextmanager
def _spark_of(run: Run) -> "Iterator[SparkSession]":
    from recspark.lake.spark import build_spark
    from recspark.lake.spark_progress import SparkProgress

    spark = build_spark(run)
    with SparkProgress(spark):
        yield spark
    spark.stop()


def _run_spark_stage(spark: "SparkSession", run: Run, name: str) -> None:
    if name == "ingest":
        from recspark.sources.job import ingest

        ingest(spark, run)
    elif name == "sessions":
        from recspark.sessions.job import build_sessions

        build_sessions(spark, run)
    elif name in ("graph", "item_knn_graph"):
        from recspark.graph.job import build_graph

        build_graph(spark, run, name)
    elif name == "negatives":
        from recspark.sessions.negatives import build_negatives

        build_negatives(spark, run)
    elif name == "als":
        from recspark.baselines.als_job import build_als_factors

        build_als_factors(spark, run)
    elif name == "graph_edges":
        from recspark.graph.edges import build_graph_edges

        build_graph_edges(spark, run)
    else:
        from recspark.walks.job import build_walks

        build_walks(spark, run)


def _train(run: Run) -> None:
    from recspark.training.job import train

    train(run)


def _build_index(run: Run) -> None:
    from recspark.index.job import build_index

    build_index(run)


def _evaluate(run: Run) -> None:
    from recspark.pipeline.evaluate_stage import evaluate
    from recspark.pipeline.verify import audit_facts

    evaluate(run, audit_facts(run))


def _release(run: Run) -> None:
    from recspark.releases.publish import publish

    publish(run)


_ENGINE_STAGES: dict[str, Callable[[Run], None]] = {
    "train": _train, "index": _build_index, "evaluate": _evaluate, "release": _release,
}  # fmt: skip


def _recommend(conf: str, overrides: Sequence[str]) -> None:
    from recspark.pipeline.recommend_spark import recommend_by_spark

    recommend_by_spark(conf, overrides)


_OUTSIDE_RUNS: dict[str, Callable[[str, Sequence[str]], None]] = {"recommend": _recommend}
"""What jobs do beside the stages of a run."""


if __name__ == "__main__":
    with calm_ending():
        sys.exit(main(sys.argv[1:]))
