"""The body of `jobs/build_index.py`: all of a build, the share of a launcher's process, or one step by name."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from recspark.config import Run
from recspark.contracts.stages import INDEX_BUILD
from recspark.ending import calm_ending
from recspark.errors import ConfigError, RecsparkError, SetupError
from recspark.index.steps import WHOLE, Share, read_share, read_step
from recspark.lake.failures import explaining_failures
from recspark.lake.locks import stage_lock
from recspark.pipeline.hints import filled_in
from recspark.pipeline.open_run import open_job_run
from recspark.pipeline.side import run_job

_OPTIONS = ("--step", "--shards")


def run_index_job(description: str | None) -> None:
    """Runs what the command line and the launcher's variables ask for; ends the process."""
    with calm_ending():
        try:
            options, words = take_options(sys.argv[1:])
            step = options.get("--step")
            share = read_step(step, options.get("--shards")) if step else read_share(os.environ)
            if share != WHOLE and words:
                _build(words, share)
                sys.exit(0)
        except RecsparkError as error:  # whatever the rank: each has problems of its own
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)
    run_job(INDEX_BUILD.name, description)


def take_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({option: value}, the other words) of ``--step add --shards 0-3 CONF key=value`` or ``--step=add ...``.

    Raises: SetupError for an option without a value, or --shards alone.
    """
    options: dict[str, str] = {}
    words: list[str] = []
    left = list(arguments)
    while left:
        name, has_value, value = left.pop(0).partition("=")
        if name not in _OPTIONS:
            words.append(f"{name}{has_value}{value}")
            continue
        if not has_value and not left:
            raise SetupError(f"{name}: needs a value, such as --step add --shards 0-3,7")
        options[name] = value if has_value else left.pop(0)
    if "--shards" in options and "--step" not in options:
        raise SetupError("--shards: goes with --step add")
    return options, words


def _build(words: Sequence[str], share: Share) -> None:
    conf, *overrides = words
    with filled_in([conf, *overrides]):
        run = open_job_run(conf, overrides, INDEX_BUILD.name)
        if INDEX_BUILD.name not in run.stages:
            raise ConfigError(f"stage {INDEX_BUILD.name}: this config has none; it has {', '.join(run.stages)}")
        build_share(run, share)


def build_share(run: Run, share: Share) -> None:
    """Does a share of a run's index. Who trains holds the stage's lock: of the others there may be many."""
    from recspark.index.job import build_index

    lock = stage_lock(run.lake, run.stages[INDEX_BUILD.name]) if share.trains else nullcontext()
    with explaining_failures(INDEX_BUILD.name, run.lake), lock:
        build_index(run, share)
