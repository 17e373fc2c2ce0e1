"""Which earlier version of a table a stage may go on from, and what came in since. No JVM: dry runs ask too.

    ingest     files a, b at version 3, files a, b, c now   ->  from version 3: 1 new file (c)
    ingest     file a has changed                           ->  in full: file a has changed
    sessions   made of events 3, events 4 now               ->  from version 3: events 3 to 4

An earlier version counts where its key differs by the source's state alone: same config, same table formats. Where
anything that was read before has changed or vanished, a stage is built in full: better slow than wrong.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recspark.config import Run
from recspark.config.plan import FILES
from recspark.contracts.commits import CommitRecord
from recspark.contracts.stages import PlannedStage, stage_key
from recspark.errors import LakeError
from recspark.lake.arrow import TableAt, find_done, has_table, list_marked, open_table, read_record
from recspark.lake.history import read_actions
from recspark.lake.source_state import split_glob
from recspark.lake.storage import join

NEVER_BUILT = "no earlier version with these settings"
OFF = "source.incremental is off"
_PLAIN_NAME = re.compile(r"[\w.=-]+")
_SHOWN = 3
_NUM_CANDIDATES = 20


@dataclass(frozen=True)
class Ancestor:
    """A version to go on from, or (``at`` None) the ``reason`` why there is none.

    ``new`` are the names of the source's files that came in since; of `sessions` there are none.
    """

    at: TableAt | None
    reason: str
    new: tuple[str, ...] = ()

    @property
    def is_telling(self) -> bool:
        """Whether there is something to say: of a first build there is not."""
        return self.at is not None or self.reason != NEVER_BUILT

    def describe(self) -> str:
        """``incremental from version 3: 1 new file (c)``, or ``in full: file a has changed``."""
        return f"incremental from version {self.at.version}: {self.reason}" if self.at else f"in full: {self.reason}"


def find_ingest_ancestor(run: Run) -> Ancestor:
    """The newest earlier `events` of this config whose source had only grown since."""
    stage, source = run.stages["ingest"], run.config.source
    if reason := _refuse(run):
        return Ancestor(None, reason)
    reasons = []
    for at in _list_candidates(run, stage, "events"):
        state = at.record.inputs.get("source", {})
        found = _find_new_files(state, run.source) if source.kind == "files" else _find_appended(state, run.source, run)
        if not isinstance(found, str):
            return Ancestor(at, _count_files(found), found)
        reasons.append(found)
    return Ancestor(None, reasons[0] if reasons else NEVER_BUILT)


def find_sessions_ancestor(run: Run, events: TableAt | None) -> Ancestor:
    """The newest earlier `sessions` of this config, best made of events that only grew until ``events``.

    Without ``events`` (they are to be built) it is the newest one whose events had this source config.
    """
    if run.config.source.incremental == "off":
        return Ancestor(None, OFF)
    candidates = list(_list_candidates(run, run.stages["sessions"], "sessions"))
    if not candidates:
        return Ancestor(None, NEVER_BUILT)
    if events is None:
        return Ancestor(candidates[0], "where few users are touched by what comes in")
    for at in candidates:
        if list_new_files(events, at.record.inputs["events"]) is not None:
            return Ancestor(at, f"{_name_events(at, events)}, which has only grown")
    return Ancestor(candidates[0], f"{_name_events(candidates[0], events)}, compared row by row")


def _name_events(sessions: TableAt, events: TableAt) -> str:
    return f"events {sessions.record.inputs['events']} to {events.version}"


def list_new_files(table: TableAt, earlier_version: int) -> list[str] | None:
    """Names of the data files that a version has beyond an earlier one; None where it lacks one of the earlier's.

    Our tables have no deletion vectors: a version that holds all files of another holds all of its rows.
    """
    earlier = _data_files(table, earlier_version)
    now = _data_files(table, table.version)
    return sorted(now - earlier) if earlier <= now else None


def _data_files(table: TableAt, version: int) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in open_table(table.lake, table.name, version).file_uris()}


def find_renumbering(run: Run, record: CommitRecord) -> str | None:
    """Why a finished stage does not count: ids it was made of belong to another version of `items`; None where it does.

    A full build repeats to the row, whenever it is made again. Ids of an increment hang on what it was built from.
    """
    if "sessions" not in run.stages or "items" not in record.inputs:
        return None
    used, done = int(record.inputs["items"]), find_done(run.lake, run.stages["sessions"])
    if done is None or used == done[1].tables["items"]:
        return None
    before = _read_record(run.lake, "items", used)
    if before and "built_from" not in before.facts and "built_from" not in done[1].facts:
        return None
    return f"made of items at version {used}, whose ids may differ from those of version {done[1].tables['items']}"


def _refuse(run: Run) -> str | None:
    """Why a source is always read in full."""
    source = run.config.source
    if source.kind not in ("files", "delta"):
        return NEVER_BUILT  # a generator has no parts
    if source.incremental == "off":
        return OFF
    names = [rule.name for rule in source.rules if rule.duplicates]
    if names and names != [source.rules[-1].name]:
        return f"source.rules: {names[0]} (duplicates) stands before other rules; repeats are told when it comes last"
    if source.kind == "delta":
        return None
    if list_source_files(run) is None:
        return "too many files to list in each commit, or folders such as day=1 below a glob"
    return None


def list_source_files(run: Run) -> tuple[str, ...] | None:
    """The files that the source held when the run was planned, None where they cannot be read one by one.

    Below a glob, Spark would make other columns of folders such as day=1 than it makes of the whole.
    """
    if FILES not in run.source:
        return None
    assert run.config.source.path
    in_folders = any("=" in name.rpartition("/")[0] for name in run.source[FILES])
    return None if in_folders and split_glob(run.config.source.path)[1] else tuple(sorted(run.source[FILES]))


def _list_candidates(run: Run, stage: PlannedStage, name: str) -> Iterator[TableAt]:
    """Finished versions with this stage's config under another key, newest first, all of whose tables are there."""
    found = 0
    for version, record in list_marked(run.lake, name, stage.name):
        if record.config != stage.sections or record.key == stage.key or not _is_of_lineage(run, stage, record):
            continue
        if all(has_table(run.lake, table) for table in record.tables):
            yield TableAt(run.lake, name, version, record)
            found += 1
        if found == _NUM_CANDIDATES:
            return


def _is_of_lineage(run: Run, stage: PlannedStage, record: CommitRecord) -> bool:
    """Whether a record's key is this stage's over another state of the source: its tables have today's formats too."""
    if stage.name == "ingest":
        state = record.inputs.get("source", {})
        return record.key == stage_key(stage.spec, stage.sections, {"source": state.get("fingerprint")})
    version = record.inputs.get("events")
    events = None if version is None else _read_record(run.lake, "events", version)
    if events is None or events.config != run.stages["ingest"].sections:
        return False
    is_key = record.key == stage_key(stage.spec, stage.sections, {"ingest": events.key})
    return is_key and _is_of_lineage(run, run.stages["ingest"], events)


def _read_record(lake: str, name: str, version: int) -> CommitRecord | None:
    """A version's record, None also where its commit is gone."""
    try:
        return read_record(lake, name, version)
    except LakeError:
        return None


def _find_new_files(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...] | str:
    """The files that came in, or why the source had not only grown."""
    if FILES not in before:
        return "the earlier version lists no files"
    if before["files_told_apart_by"] != now["files_told_apart_by"]:
        return f"files are told apart by {now['files_told_apart_by']} now, were by {before['files_told_apart_by']}"
    old, new = before[FILES], now[FILES]
    if gone := sorted(old.keys() - new.keys()):
        return f"{_name_files(gone)} gone"
    if changed := sorted(name for name in old if old[name] != new[name]):
        return f"{_name_files(changed)} changed"
    return tuple(sorted(new.keys() - old.keys()))


def _name_files(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"file {shown} has" if len(names) == 1 else f"{len(names)} files ({shown}) have"


def _count_files(names: tuple[str, ...]) -> str:
    return f"{len(names)} new file{'' if len(names) == 1 else 's'}"


def _find_appended(before: dict[str, Any], now: dict[str, Any], run: Run) -> tuple[str, ...] | str:
    """The files appended to a Delta source between two versions, or why its rows have not only been added to."""
    if before.get("table_id") != now["table_id"]:
        return "the source is another table now"
    if before["version"] > now["version"]:
        return f"the source was read at version {before['version']}, which is later"
    assert run.config.source.path
    uri = join(run.config.source.path)
    added: set[str] = set()
    for version in range(before["version"] + 1, now["version"] + 1):
        actions = read_actions(uri, version)
        if actions is None:
            return f"the source's log has lost version {version}"
        if flaw := _find_change(actions, added):
            return f"version {version} of the source {flaw}"
        added |= {a["add"]["path"] for a in actions if "add" in a and a["add"].get("dataChange", True)}
    names = tuple(sorted(path.rsplit("/", 1)[-1] for path in added))
    if len(set(names)) < len(added) or not all(map(_PLAIN_NAME.fullmatch, names)):
        return "files of the source have names that do not tell them apart"
    return names


def _find_change(actions: list[dict[str, Any]], added: set[str]) -> str | None:
    """What a commit did beside adding rows; compaction of files read before is no change."""
    if any("metaData" in action or "protocol" in action for action in actions):
        return "changes its columns or settings"
    removed = [action["remove"] for action in actions if "remove" in action]
    if any(remove.get("dataChange", True) for remove in removed):
        return "deletes or replaces rows"
    if any(remove["path"] in added for remove in removed):
        return "compacts files that came in since"
    return None
