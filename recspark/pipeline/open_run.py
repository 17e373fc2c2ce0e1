"""From a config file to the run it describes, with the state of its source."""

from collections.abc import Sequence
from pathlib import Path

from recspark.config import Run, RunConfig, load_config, plan_run
from recspark.config.plan import inherited_source
from recspark.lake.source_state import find_source_state
from recspark.lake.storage import check_uri


def open_run(conf: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run of a config; inside `recspark run` with the run id and source state of the parent.

    Raises: ConfigError for a wrong config; SourceError when the source is not there.
    """
    config = load_config(conf, overrides)
    check_uri(config.paths.lake)
    return plan_run(config, inherited_source() or _find_source(config))


def _find_source(config: RunConfig) -> dict[str, object]:
    features = [(f.name, f.path, f.format) for f in config.features if f.path != "synthetic"]
    return find_source_state(config.source.kind, config.source.path, config.source.version, features)
