"""Starts each side as its own process, as a cluster would: one JVM for all Spark stages, torchrun for training."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from recspark.config import Run, RunConfig
from recspark.contracts.stages import TORCH, TRAIN
from recspark.errors import RecsparkError
from recspark.logs import LOG_FORMAT_VARIABLE, is_terminal, log
from recspark.pipeline.plan import StageState, find_state, find_states
from recspark.pipeline.side import DRY_RUN, EXIT_FILE, PARENT, STAGE_FILE, USER_ERROR, log_done
from recspark.training.checkpoint_record import checkpoint_uri, find_record
from recspark.training.stopping import EXIT_CHECKPOINTED, EXIT_TERMINATED

_TERMINATED = (EXIT_TERMINATED, -signal.SIGTERM)


class StageFailed(Exception):
    """A side's process ended badly; it has said why itself.

    ``stages`` are those that the run had still to do, from the one on in which the process ended; ``step`` is that of
    the checkpoint it has left.
    """

    def __init__(self, stages: Sequence[str], code: int, has_begun: bool, step: int | None = None) -> None:
        ended = f"the process ended with code {code}"
        if code == EXIT_CHECKPOINTED:
            ended = f"checkpoint of step {step}; run the same command again to go on"
        stopped, waiting = (f"{stages[0]}: {ended}", stages[1:]) if has_begun else (f"{ended} in its start", stages)
        super().__init__("; not started: ".join([stopped, *([", ".join(waiting)] if waiting else [])]))
        is_told = code in (USER_ERROR, EXIT_CHECKPOINTED)
        self.exit_code = EXIT_TERMINATED if code in _TERMINATED else code if is_told else 1


def run_all(run: Run, states: Sequence[StageState], arguments: Sequence[str]) -> None:
    """Runs what is to be run, side by side in order; says of the rest that it is done.

    ``arguments`` are the config's path and its overrides.

    Raises: StageFailed when a process fails; RecsparkError when one ended well without finishing its stage.
    """
    for name, reason in _left_out(run.config).items():
        log(name, reason)
    names = [state.stage.name for state in states]
    for side, group in groupby(names, key=lambda name: run.stages[name].spec.side):
        todo = []
        for state in find_states(run, list(group)):  # as it is now: a model trained again unsettles what was made of it
            if state.version is not None:
                log_done(state.stage.name, state.version)
            else:
                todo.append(state.stage.name)
        if todo:
            later = [state.stage.name for state in states[names.index(todo[-1]) + 1 :] if not state.is_done]
            _run_side(run, side, todo, later, arguments)
            _check_done(run, todo)


def _left_out(config: RunConfig) -> dict[str, str]:
    """Stages that the source or the model has no use for, each with the reason."""
    model = config.model
    reasons: dict[str, str] = {}
    if config.source.kind == "edges":
        reasons |= dict.fromkeys(
            ("sessions", "evaluate"), "not applicable: an edge list has no users and no events to split"
        )
    elif config.graph and not model.has_corpus:
        reasons["graph"] = f"not needed: {model.kind} learns from users' histories"
    if config.graph and model.has_towers:
        reasons["graph"] = f"not needed: {model.kind} learns from users' histories"
    if config.walks and (model.has_towers or not model.has_corpus):
        reasons["walks"] = f"not needed: {model.kind} learns from no walks"
    if not model.has_vectors:
        reasons |= dict.fromkeys(("train", "index"), f"not applicable: {model.kind} ranks lists without vectors")
    return reasons


def describe_training(run: Run, states: Sequence[StageState], arguments: Sequence[str]) -> str:
    """What the training of a dry run would take, by a process of its own; empty where it is done or cannot tell yet.

    Raises: RecsparkError when the training would be refused.
    """
    waiting = {state.stage.name: state.stage for state in states if not state.is_done}
    train = waiting.get(TRAIN.name)
    if train is None or any(not find_state(run, name).is_done for name in train.upstream if name in run.stages):
        return ""
    command = [sys.executable, "-m", "recspark.pipeline.side", TRAIN.name, *arguments, DRY_RUN]
    done = subprocess.run(command, env=os.environ | run.to_environment(), capture_output=True, text=True, check=False)
    said = done.stderr.strip()
    if done.returncode == USER_ERROR:
        raise RecsparkError(f"train: {said.partition('error: ')[2] or said}")
    return f"\n{done.stdout}" if done.returncode == 0 else f"\ntrain: {said}\n"


def _run_side(run: Run, side: str, stages: list[str], later: list[str], arguments: Sequence[str]) -> None:
    command, training = [sys.executable, "-m"], run.config.training
    is_group = side == TORCH and training.num_processes > 1 and run.config.model.has_corpus
    if is_group:
        command += ["recspark.pipeline.torchrun", "--standalone", "--nproc-per-node", str(training.num_processes)]
        command += ["--max-restarts", str(training.max_restarts), "-m"]
    command += ["recspark.pipeline.side", ",".join(stages), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | run.to_environment(Path(folder)) | {PARENT: str(os.getpid())}
        environment.setdefault(LOG_FORMAT_VARIABLE, "text" if is_terminal() else "json")
        # torchrun ends with 1 whatever its ranks end with; here they leave word of what they ended with.
        words, place = Path(folder, "exit-code"), Path(folder, "stage")
        environment |= {EXIT_FILE: str(words), STAGE_FILE: str(place)}
        code = _wait(subprocess.Popen(command, env=environment))
        if code != 0:
            begun = place.read_text() if place.exists() else None
            left = stages[stages.index(begun) if begun else 0 :] + later
            word = int(words.read_text()) if words.exists() else None
            is_stopped = side == TORCH and not {code, word}.isdisjoint((EXIT_CHECKPOINTED, *_TERMINATED))
            record = find_record(checkpoint_uri(run)) if is_stopped else None
            step = record.step if record else None
            raise StageFailed(left, find_code(code, word, is_group, step), has_begun=begun is not None, step=step)


def find_code(code: int, word: int | None, is_group: bool, step: int | None) -> int:
    """What a side ended with: ``code`` is its process's own, ``word`` what its stage left, ``step`` its checkpoint's.

    A rank that says it was terminated may have been so by torchrun, because another one was lost; torchrun itself says
    it only where it was told from outside.
    """
    ended = code if word is None else word
    if not is_group or ended in (USER_ERROR, EXIT_CHECKPOINTED):
        return ended
    if code in _TERMINATED:
        return EXIT_TERMINATED if word is None or step is None else EXIT_CHECKPOINTED
    return 1 if ended in _TERMINATED else ended


def _wait(child: "subprocess.Popen[bytes]") -> int:
    """The child's exit code; signals that end us are passed on, so that it can write its checkpoint."""

    def pass_on(number: int, _frame: object) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_done(run: Run, stages: Sequence[str]) -> None:
    for name in stages:
        if not find_state(run, name).is_done:
            raise RecsparkError(f"{name}: its process ended without an error but its result is not in {run.lake}")
