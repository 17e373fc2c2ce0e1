"""What a run would do: which stages are done, which have to run, and why. The text of ``--dry-run``."""

from collections.abc import Sequence
from dataclasses import dataclass

from recspark.config import Run
from recspark.config.plan import FILES
from recspark.contracts.commits import CommitRecord, find_stale_input
from recspark.contracts.stages import RELEASE, STAGE_NAMES, PlannedStage
from recspark.errors import ConfigError
from recspark.lake.arrow import TableAt, find_commit, find_done, find_newest_marker, has_table
from recspark.lake.folders import find_flaw, has_files
from recspark.lake.lineage import Ancestor, find_ingest_ancestor, find_renumbering, find_sessions_ancestor
from recspark.pipeline.differences import find_differences

_ID_KEY = "source.privacy.key_fingerprint "
"""How the difference between two id keys begins."""


@dataclass(frozen=True)
class StageState:
    """A stage of a run: done at a version, or to be run for a reason.

    ``flaw`` is what its own result lacks where it had been built: tables or files lost, or made from vectors replaced
    since.
    """

    stage: PlannedStage
    version: int | None
    record: CommitRecord | None
    reason: str
    flaw: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return self.version is not None


def select_stages(run: Run, first: str | None, last: str | None) -> list[str]:
    """Names of the run's stages from ``first`` to ``last``, both included, in order.

    Raises: ConfigError for a name that is no stage of this run.
    """
    for name in (first, last):
        if name is not None and name not in run.stages:
            known = "this config has none" if name in STAGE_NAMES else "no such stage"
            raise ConfigError(f"stage {name}: {known}; it has {', '.join(run.stages)}")
    names = list(run.stages)
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise ConfigError(f"--from {first} comes after --to {last}; the order is {', '.join(names)}")
    return names[start:end]


def find_states(run: Run, names: Sequence[str]) -> list[StageState]:
    """The state of each stage: done under its key, or to be run and why."""
    states: list[StageState] = []
    todo: set[str] = set()
    for name in names:
        stage = run.stages[name]
        done = find_done(run.lake, stage)
        flaw = _find_flaw(run, stage, done[1] if done else None)
        if done and flaw is None:
            states.append(StageState(stage, *done, reason=""))
            continue
        waits_for = [upstream for upstream in stage.upstream if upstream in todo]
        todo.add(name)
        states.append(StageState(stage, None, None, flaw or _find_reason(run, stage, waits_for), flaw))
    return states


def find_state(run: Run, name: str) -> StageState:
    """The state of one stage as it is now."""
    return find_states(run, [name])[0]


def describe_states(run: Run, states: Sequence[StageState]) -> str:
    """One block a stage: what it writes, its inputs with versions, done or why not."""
    lines = [f"run of {run.config.run.name!r} on lake {run.lake}", f"source: {_describe_source(run)}", ""]
    for state in states:
        where = f"done at version {state.version}" if state.is_done else f"to build: {state.reason}"
        lines.append(f"{state.stage.name:<15} {state.stage.id}  {where}")
        if not state.is_done:
            lines += [f"{'':<15} built  {ancestor.describe()}" for ancestor in _find_ancestors(run, state.stage.name)]
        lines.append(f"{'':<15} reads  {_describe_inputs(run, state)}")
        lines.append(f"{'':<15} writes {', '.join(state.stage.spec.tables) or state.stage.spec.folder}")
    return "\n".join(lines)


def _find_ancestors(run: Run, name: str) -> list[Ancestor]:
    """What a stage to be built would go on from, or why from nothing; empty where there is nothing to say."""
    ancestor = None
    if name == "ingest" and run.config.source.kind != "edges":
        ancestor = find_ingest_ancestor(run)
    elif name == "sessions":
        done = find_done(run.lake, run.stages["ingest"])
        ancestor = find_sessions_ancestor(run, TableAt(run.lake, "events", *done) if done else None)
    return [ancestor] if ancestor and ancestor.is_telling else []


def _find_flaw(run: Run, stage: PlannedStage, record: CommitRecord | None) -> str | None:
    """What a stage's result lacks; None where it lacks nothing, or was never begun."""
    folder = stage.spec.folder or (stage.spec.side_folder if record else None)
    if folder and (flaw := find_flaw(run.lake, folder, stage.id)):
        return flaw if record or has_files(run.lake, folder, stage.id) else None
    if record is None:
        return _find_lost_table(run, stage)
    if flaw := find_renumbering(run, record):
        return flaw
    if stage.name == RELEASE.name and (flaw := find_flaw(run.lake, "releases", record.facts["release_id"])):
        return flaw
    trained = find_done(run.lake, run.stages["train"]) if "train" in run.stages else None
    return find_stale_input(record.inputs, "item_embeddings", trained[0]) if trained else None


def _find_lost_table(run: Run, stage: PlannedStage) -> str | None:
    """What is said of a stage that is not done because a table of it is gone; None where none is known to be."""
    marker = stage.spec.marker
    if marker is None:
        return None
    if has_table(run.lake, marker):
        found = find_commit(run.lake, marker, stage.key)
        tables = found[1].tables if found and found[1].is_marker else {}
        gone = [name for name in tables if not has_table(run.lake, name)]
        return _say_gone(gone) if gone else None
    writers = [other.name for other in run.stages.values() if other.spec.marker == marker]
    if any(find_done(run.lake, later) for writer in writers for later in _list_later(run, writer)):
        return _say_gone([marker])
    begun = [name for name in stage.spec.tables if name != marker and find_commit(run.lake, name, stage.key)]
    return f"it has written {', '.join(begun)}, not {marker}: it was stopped, or that table is gone" if begun else None


def _say_gone(tables: Sequence[str]) -> str:
    return f"its table {tables[0]} is gone" if len(tables) == 1 else f"its tables {', '.join(tables)} are gone"


def _list_later(run: Run, name: str) -> list[PlannedStage]:
    """The stages whose keys hang on a stage's, through others too: one that is finished says that this one was."""
    names = {name}
    for stage in run.stages.values():  # in order
        if names & set(stage.upstream):
            names.add(stage.name)
    return [run.stages[later] for later in run.stages if later in names - {name}]


def _find_reason(run: Run, stage: PlannedStage, waits_for: list[str]) -> str:
    if waits_for:
        return f"{', '.join(waits_for)} has to run first"
    if stage.spec.marker is None:
        return f"no {stage.spec.folder}/{stage.id}"
    newest = find_newest_marker(run.lake, stage.spec.marker, stage.name)
    if newest is None:
        return "never built in this lake"
    changes = find_differences(newest.config, stage.sections)
    changes = [f"another id key ({change})" if change.startswith(_ID_KEY) else change for change in changes]
    if changes:
        return f"config differs from the newest version: {'; '.join(changes[:4])}"
    return "its source or an earlier stage differs from the newest version's"


def _describe_source(run: Run) -> str:
    facts = {k: v for k, v in run.source.items() if k not in ("fingerprint", "table_id", FILES)}
    return ", ".join(f"{k} {v}" for k, v in facts.items())


def _describe_inputs(run: Run, state: StageState) -> str:
    """The versions a finished stage has read, or a stage to be built would read."""
    if state.record and state.record.inputs:
        return ", ".join(f"{k} at {v}" for k, v in state.record.inputs.items() if k != "source") or "the source"
    return ", ".join(_describe_input(run, name) for name in state.stage.upstream)


def _describe_input(run: Run, name: str) -> str:
    if name not in run.stages:
        return "the source"
    done = find_done(run.lake, run.stages[name])
    what = run.stages[name].spec.marker or f"{run.stages[name].spec.folder}/{run.stages[name].id}"
    return f"{what} at {done[0]}" if done else f"{what} (to be built)"
