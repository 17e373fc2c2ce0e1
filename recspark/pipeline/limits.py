"""What a run would be refused for once its first stages are known to be done: told before anything is started."""

import pyarrow.compute as pc

from recspark.config import Run
from recspark.config.checks import ease_too_large
from recspark.contracts import columns as c
from recspark.errors import ConfigError
from recspark.lake.arrow import TableAt, find_done, read_table


def check_catalogue(run: Run) -> None:
    """Checks the number of items, where `sessions` is done already, against what the run's baselines take.

    Raises: ConfigError above ``baselines.ease.max_items``.
    """
    stage, ease = run.stages.get("sessions"), run.config.baselines.ease
    if stage is None or "ease" not in run.config.scored_kinds:
        return
    done = find_done(run.lake, stage)
    if done is None:
        return
    items = TableAt(run.lake, "items", done[1].tables["items"], done[1])
    num_items = pc.sum(pc.greater(read_table(items, [c.NUM_EVENTS])[c.NUM_EVENTS], 0)).as_py() or 0
    if num_items > ease.max_items:
        raise ConfigError(ease_too_large(num_items, ease.max_items))
