"""From a config file to the run it describes: with the source as it is now, or as the newest finished run read it."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from recspark.config import Run, RunConfig, load_config, plan_run
from recspark.config.plan import inherited_source
from recspark.errors import ConfigError, LakeError
from recspark.lake.arrow import find_done, list_markers
from recspark.lake.id_keys import check_ids
from recspark.lake.source_state import find_source_state
from recspark.lake.storage import check_lake
from recspark.sources.look import look_at_source

_ANY_SOURCE = {"fingerprint": ""}


def open_run(conf: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run of a config; inside `recspark run` with the run id and source state of the parent.

    Raises: ConfigError for a wrong config; SourceError when the source is not there or not what the config says;
    LakeError where the lake hides other ids than the config.
    """
    config = _load(conf, overrides)
    run = plan_run(config, inherited_source() or _find_source(config))
    check_ids(run)
    return run


def open_job_run(conf: str | Path, overrides: Sequence[str], stage: str) -> Run:
    """The run that a single job goes on with: the newest whose stages before it are finished.

    A file that came since ingest changes nothing for later jobs, nor does a host without the source.

    Raises: ConfigError, and SourceError as `open_run`, which stands in where no run is that far.
    """
    if stage != "ingest" and inherited_source() is None:
        for run in _list_runs(_load(conf, overrides)):
            if stage in run.stages and _is_done(run, list(run.stages[stage].upstream)):
                return run
    return open_run(conf, overrides)


def open_finished_run(conf: str | Path, overrides: Sequence[str], stage: str) -> Run:
    """The newest run of a config that has finished a stage.

    Raises: ConfigError for a wrong config, or one whose model has no such stage; LakeError when there is no such run.
    """
    config = _load(conf, overrides)
    if stage not in plan_run(config, _ANY_SOURCE).stages:
        raise ConfigError(
            f"{conf}: no stage {stage}: model.kind {config.model.kind} ranks lists without vectors, in table "
            f"recommendations; take a kind with vectors, such as skip_gram"
        )
    for run in _list_runs(config):
        if stage in run.stages and _is_done(run, [stage]):
            return run
    raise LakeError(
        f"{config.paths.lake}: no finished {stage} for this config; "
        f"run `recspark run {shlex.join([str(conf), *overrides])} --to {stage}` first"
    )


def open_newest_run(conf: str | Path, overrides: Sequence[str], stages: Sequence[str]) -> Run:
    """The newest run of a config that has finished the first of some stages that any run has finished.

    Raises: ConfigError for a wrong config; LakeError when none has finished any of them.
    """
    config = _load(conf, overrides)
    for stage in stages:
        for run in _list_runs(config):
            if stage in run.stages and _is_done(run, [stage]):
                return run
    raise LakeError(
        f"{config.paths.lake}: nothing to look at is built for this config; "
        f"run `recspark run {shlex.join([str(conf), *overrides])}` first"
    )


def _load(conf: str | Path, overrides: Sequence[str]) -> RunConfig:
    config = load_config(conf, overrides)
    check_lake(config.paths.lake)
    return config


def _list_runs(config: RunConfig) -> Iterator[Run]:
    """One run for each source state that this config's ingest has read, newest first."""
    ingest = plan_run(config, _ANY_SOURCE).stages["ingest"]
    assert ingest.spec.marker
    for record in list_markers(config.paths.lake, ingest.spec.marker, "ingest"):
        if record.config == ingest.sections:
            yield plan_run(config, record.inputs["source"])


def _is_done(run: Run, names: Sequence[str]) -> bool:
    return all(find_done(run.lake, run.stages[name]) for name in names)


def _find_source(config: RunConfig) -> dict[str, object]:
    """The state of the source, once a look at it has found nothing wrong."""
    look_at_source(config)
    features = [(f.name, f.path, f.format) for f in config.features if f.path != "synthetic"]
    return find_source_state(config.source.kind, config.source.path, config.source.version, features)
