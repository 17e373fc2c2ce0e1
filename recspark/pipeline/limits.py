"""What a later stage of a run would be refused for, as far as it can be known: told before anything is started."""

import math
from collections.abc import Sequence

import pyarrow.compute as pc

from recspark.config import Run
from recspark.config.baselines import CLOSED_FORM_KINDS
from recspark.config.checks import ease_too_large
from recspark.contracts import columns as c
from recspark.errors import ConfigError, TrainingError
from recspark.lake.arrow import TableAt, find_done, read_table
from recspark.lake.folders import find_flaw
from recspark.pipeline.plan import StageState
from recspark.training.nearest import check_resume
from recspark.training.starting_model import MODELS, check_start
from recspark.training.trackers import check_trackers


def check_catalogue(run: Run) -> None:
    """Checks the number of items, where `sessions` is done already, against what the run's baselines take.

    Raises: ConfigError above ``baselines.ease.max_items``; DataError below what item vectors of their length need.
    """
    ease, kinds = run.config.baselines.ease, run.config.scored_kinds
    num_items = _count_items(run) if kinds & {"ease", *CLOSED_FORM_KINDS} else None
    if num_items is None:
        return
    if "ease" in kinds and num_items > ease.max_items:
        raise ConfigError(ease_too_large(num_items, ease.max_items))
    if kinds & {*CLOSED_FORM_KINDS}:
        from recspark.baselines.registry import check_dimensions  # with numba and scipy: only where they are wanted

        check_dimensions(run.config, num_items)


def _count_items(run: Run) -> int | None:
    """Items with train events; None where `sessions` is not done yet."""
    stage = run.stages.get("sessions")
    done = find_done(run.lake, stage) if stage else None
    if done is None:
        return None
    items = TableAt(run.lake, "items", done[1].tables["items"], done[1])
    return pc.sum(pc.greater(read_table(items, [c.NUM_EVENTS])[c.NUM_EVENTS], 0)).as_py() or 0


def check_training(run: Run, states: Sequence[StageState]) -> None:
    """Checks what training, where it is not done, needs beside its inputs: packages, a model or checkpoint to go on
    from; and of a model that is done what it would be scored on.

    Raises: SetupError for a package that is not installed; TrainingError; LakeError for a damaged manifest.
    """
    waiting = {state.stage.name for state in states if not state.is_done}
    if "train" in waiting and run.config.model.has_corpus and find_flaw(run.lake, MODELS, run.stages["train"].id):
        check_trackers(run.config.training.trackers)
        _check_warmup(run)
        check_start(run)
        check_resume(run)
    elif "evaluate" in waiting:
        check_scored_slice(run)


def _check_warmup(run: Run) -> None:
    """Checks that warming up ends before a training on walks, whose number hangs on that of items alone.

    Raises: TrainingError.
    """
    config, walks, source = run.config.training, run.config.walks, run.config.source
    if not config.warmup_steps or walks is None or set(config.corpus) != {"walks"}:
        return
    num_items = _count_items(run)
    if num_items is None and source.kind == "synthetic":
        num_items = source.synthetic.num_items
    if num_items is None:
        return
    most = config.epochs * math.ceil(num_items * walks.num_walks / config.batch_sequences)
    if config.warmup_steps >= most:
        raise TrainingError(
            f"training.warmup_steps: {config.warmup_steps:,}, but the whole training has at most {most:,} steps "
            f"({num_items:,} items x {walks.num_walks} walks, {config.epochs} epochs, training.batch_sequences "
            f"{config.batch_sequences:,}); lower it"
        )


def check_scored_slice(run: Run) -> None:
    """Checks that a model which is scored on the validation slice did not start from one that has learned from it: of
    a training that was done before, nobody has asked.

    Raises: TrainingError.
    """
    evaluate = run.config.evaluate
    if evaluate and evaluate.split == "valid" and run.config.model.has_corpus:
        check_start(run)
