"""From a config file to the run it describes: with the source as it is now, or as the newest finished run read it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from recspark.config import Run, RunConfig, load_config, plan_run
from recspark.config.learning import AUTO
from recspark.config.plan import inherited_source
from recspark.errors import ConfigError, LakeError
from recspark.lake.arrow import find_done, list_markers
from recspark.lake.id_keys import check_ids
from recspark.lake.source_state import find_source_state
from recspark.lake.storage import check_lake
from recspark.pipeline.choice import Choice, find_shape, list_choices
from recspark.sources.look import look_at_source

_ANY_SOURCE = {"fingerprint": ""}


@dataclass(frozen=True)
class _Asked:
    """A checked config, and what it was loaded from."""

    conf: str | Path
    overrides: Sequence[str]
    config: RunConfig

    def plan(self, source: dict[str, Any]) -> Run:
        """The run on a state of the source; with ``model.kind: auto`` its first stages alone until those are done.

        Raises: ConfigError when the config allows no kind that fits the data.
        """
        run = plan_run(self.config, source)
        found = self._choose(run) if self.config.model.kind == AUTO else None
        return replace(plan_run(found[1], source), run_id=run.run_id) if found else run

    def find_choice(self, run: Run) -> Choice | None:
        """What stands for `auto` in a run of this config; None without it, or where the data are not seen yet."""
        found = self._choose(run) if self.config.model.kind == AUTO else None
        return found[0] if found else None

    def _choose(self, run: Run) -> tuple[Choice, RunConfig] | None:
        """The first kind that the rest of the config allows, and the config with it."""
        shape, refused = find_shape(run), None
        for choice in list_choices(shape) if shape else ():
            try:
                return choice, load_config(self.conf, [*self.overrides, *choice.settings])
            except ConfigError as error:
                refused = refused or error
        if refused:
            raise refused
        return None


def open_run(conf: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run of a config; inside `recspark run` with the run id and source state of the parent.

    Raises: ConfigError for a wrong config; SourceError when the source is not there or not what the config says;
    LakeError where the lake hides other ids than the config.
    """
    asked = _load(conf, overrides)
    run = asked.plan(inherited_source() or _find_source(asked.config))
    check_ids(run)
    return run


def settle_run(run: Run, conf: str | Path, overrides: Sequence[str]) -> tuple[Run, Choice | None]:
    """The same run with what stands for ``model.kind: auto`` now, and the choice; None without one.

    Raises: ConfigError as `open_run`.
    """
    asked = _load(conf, overrides)
    return replace(asked.plan(run.source), run_id=run.run_id), asked.find_choice(run)


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
    asked = _load(conf, overrides)
    for run in chain([asked.plan(_ANY_SOURCE)], _list_runs(asked)):
        kind = run.config.model.kind
        if stage not in run.stages and kind != AUTO:
            raise ConfigError(
                f"{conf}: no stage {stage}: model.kind {kind} ranks lists without vectors, in table "
                f"recommendations; take a kind with vectors, such as skip_gram"
            )
        if stage in run.stages and _is_done(run, [stage]):
            return run
    raise LakeError(
        f"{asked.config.paths.lake}: no finished {stage} for this config; "
        f"run `recspark run {shlex.join([str(conf), *overrides])} --to {stage}` first"
    )


def open_newest_run(conf: str | Path, overrides: Sequence[str], stages: Sequence[str]) -> Run:
    """The newest run of a config that has finished the first of some stages that any run has finished.

    Raises: ConfigError for a wrong config; LakeError when none has finished any of them.
    """
    asked = _load(conf, overrides)
    for stage in stages:
        for run in _list_runs(asked):
            if stage in run.stages and _is_done(run, [stage]):
                return run
    raise LakeError(
        f"{asked.config.paths.lake}: nothing to look at is built for this config; "
        f"run `recspark run {shlex.join([str(conf), *overrides])}` first"
    )


def _load(conf: str | Path, overrides: Sequence[str]) -> _Asked:
    config = load_config(conf, overrides)
    check_lake(config.paths.lake)
    return _Asked(conf, overrides, config)


def _list_runs(asked: _Asked) -> Iterator[Run]:
    """One run for each source state that this config's ingest has read, newest first."""
    ingest = plan_run(asked.config, _ANY_SOURCE).stages["ingest"]
    assert ingest.spec.marker
    for record in list_markers(asked.config.paths.lake, ingest.spec.marker, "ingest"):
        if record.config == ingest.sections:
            yield asked.plan(record.inputs["source"])


def _is_done(run: Run, names: Sequence[str]) -> bool:
    return all(find_done(run.lake, run.stages[name]) for name in names)


def _find_source(config: RunConfig) -> dict[str, object]:
    """The state of the source, once a look at it has found nothing wrong."""
    look_at_source(config)
    features = [(f.name, f.path, f.format) for f in config.features if f.path != "synthetic"]
    return find_source_state(config.source.kind, config.source.path, config.source.version, features)
