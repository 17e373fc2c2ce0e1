"""`recspark recommend CONF`: lists for all or listed users, streamed to `recommendations` in one commit.

pinned items, users, user_histories, item_embeddings (index)  ->  recommendations, purpose serve, one row a user

From the newest finished run of a config, or from the active release (`recommend.release`). ``jobs/recommend.py`` does
the same under spark-submit.
"""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.commits import CommitRecord
from recspark.contracts.hidden_ids import hide_id
from recspark.contracts.stages import INDEX_BUILD, RECOMMEND, TRAIN, PlannedStage, stage_key
from recspark.contracts.tables import RECOMMENDATIONS
from recspark.errors import LakeError, QueryError
from recspark.faults import fault_point
from recspark.lake.arrow import find_table, list_records, read_table
from recspark.lake.folders import rebuild_command
from recspark.lake.parts import PartFile, PartWriter, commit_parts
from recspark.logs import Progress, log, timed
from recspark.pipeline.open_run import open_finished_run
from recspark.releases.leases import Lease, drop_lease
from recspark.releases.pinned import pin_active
from recspark.retrieval.moments import find_moment
from recspark.retrieval.query import find_exact_reason
from recspark.retrieval.rules import ListRules, plan_rules
from recspark.retrieval.serving import PURPOSE, RANGE_USERS, Pinned, open_once, read_blocks

_SHOWN = 3


@dataclass(frozen=True)
class Batch:
    """One batch of lists, planned: what from, for whom, by which rules; its run holds the stage `recommend`."""

    run: Run
    pinned: Pinned
    rules: ListRules
    listed: pa.Array | None
    """The user_ids asked for that are known; None for all users."""
    counts: dict[str, Any]
    lease: Lease | None = None
    """On the release that the lists come from."""

    def close(self) -> None:
        """Gives the lease back: the lists are committed, or will not be."""
        if self.lease:
            drop_lease(self.lease)

    @property
    def key(self) -> str:
        """Hangs on all that decides the lists."""
        return self.run.stages[RECOMMEND.name].key

    @property
    def slice(self) -> dict[str, str]:
        """The slice of `recommendations` that the lists replace."""
        return {c.PURPOSE: PURPOSE, c.MODEL_ID: self.pinned.model_id}

    def record(self, counts: dict[str, Any]) -> CommitRecord:
        """Of the commit of the lists."""
        facts = {c.MODEL_ID: self.pinned.model_id, "k": self.rules.k, "purpose": PURPOSE}
        facts |= {} if self.rules.until_us is None else {"until_us": self.rules.until_us}
        return self.run.record(
            RECOMMEND.name, is_marker=True, inputs=self.pinned.versions, counts=self.counts | counts, facts=facts
        )


def recommend_users(conf: str, overrides: Sequence[str]) -> tuple[int, str]:
    """Writes the lists of a config; (version of `recommendations` that holds them, model_id of their slice).

    Raises: ConfigError, LakeError, QueryError, ReleaseError as `open_finished_run` and `plan_batch`.
    """
    with closing(plan_batch(open_finished_run(conf, overrides, TRAIN.name))) as batch:
        done = find_lists(batch)
        if done is not None:
            log(RECOMMEND.name, f"already done at version {done}")
        return write_batch(batch) if done is None else done, batch.pinned.model_id


def plan_batch(run: Run) -> Batch:
    """The batch that a run's section `recommend` asks for; to be closed when its lists are written.

    Raises: ConfigError for rules that leave nothing; LakeError when a table is missing, or the index where it is asked
    for; ReleaseError without an active release; QueryError for a source without users, or when no listed user is known.
    """
    pinned, lease = _pin_release(run) if run.config.recommend.release else (_pin_run(run), None)
    try:
        rules = replace(plan_rules(pinned.items, run.config.recommend), until_us=_find_moment(run, pinned))
        listed, counts = _find_listed(run, pinned)
        return Batch(_with_stage(run, pinned, listed, rules.until_us), pinned, rules, listed, counts, lease)
    except BaseException:
        if lease:
            drop_lease(lease)
        raise


def write_batch(batch: Batch) -> int:
    """Lists all users of a batch and commits; the version of `recommendations`."""
    with timed(RECOMMEND.name, "listed") as shown:
        parts, counts = _write_parts(batch)
        shown.update(counts)
    fault_point("recommend.before_commit")
    return commit_parts(batch.run.lake, RECOMMENDATIONS, batch.slice, parts, batch.record(counts))


def find_lists(batch: Batch) -> int | None:
    """The version that holds these very lists, None where the newest ones of the model are others."""
    for version, record in list_records(batch.run.lake, RECOMMENDATIONS.name):
        if record.stage == RECOMMEND.name and record.facts.get(c.MODEL_ID) == batch.pinned.model_id:
            return version if record.key == batch.key else None
    return None


def _pin_run(run: Run) -> Pinned:
    names = ("items", "users", "user_histories", "item_embeddings")
    try:
        tables = {name: find_table(run.lake, run.producer(name), name) for name in names}
    except KeyError as error:
        raise QueryError(f"recommend: source.kind {run.config.source.kind} has no users to list items for") from error
    index = run.stages.get(INDEX_BUILD.name)
    search = run.config.recommend.search
    reason = find_exact_reason(run.lake, index.id, tables["item_embeddings"]) if index else "this config has none"
    if search == "index" and reason:
        raise LakeError(f"recommend: recommend.search is index, but {reason}; {rebuild_command('indexes')}")
    if search == "auto" and reason:
        log(RECOMMEND.name, f"by exact search: {reason}")
    return Pinned(run.lake, **tables, index_id=None if index is None or reason or search == "exact" else index.id)


def _pin_release(run: Run) -> tuple[Pinned, Lease]:
    pinned, lease = pin_active(run.lake)
    return replace(pinned, index_id=None) if run.config.recommend.search == "exact" else pinned, lease


def _find_moment(run: Run, pinned: Pinned) -> int | None:
    """When users are asked for; None where that makes no difference."""
    at = run.config.recommend.at
    return find_moment(at, "recommend.at") if at or c.TS in pinned.event_columns else None


def _find_listed(run: Run, pinned: Pinned) -> tuple[pa.Array | None, dict[str, Any]]:
    """(the ids of `recommend.users` that are known, counts); (None, {}) where all users are meant.

    Raises: QueryError when the file is missing, or none of its ids is known.
    """
    path = run.config.recommend.users
    if path is None:
        return None, {}
    asked = pa.array(_hidden(run, _read_lines(path)), pa.string())
    user_ids = read_table(pinned.users, [c.USER_ID])[c.USER_ID].combine_chunks()
    listed = asked.filter(pc.is_in(asked, value_set=user_ids))
    num_unknown = len(asked) - len(listed)
    if not len(listed):
        shown = ", ".join(user_ids.slice(0, _SHOWN).to_pylist())
        raise QueryError(
            f"recommend.users {path}: none of its {len(asked):,} ids is a user of this run; users look like {shown}"
        )
    if num_unknown:
        log(RECOMMEND.name, f"{path}: ids without a user are left out", num_unknown=num_unknown)
    return listed, {"users_asked": len(asked), "users_unknown": num_unknown}


def _read_lines(path: str) -> list[str]:
    """The distinct lines of a text file that are not blank."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"recommend.users {path}: no text file with a user_id a line ({error})") from error
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def _hidden(run: Run, asked: list[str]) -> list[str]:
    """User ids as the tables hold them; where they are hidden, those given are the source's."""
    privacy = run.config.source.privacy
    if privacy is None or not privacy.hides("user"):
        return asked
    key = privacy.read_key()
    return [hide_id(key, user_id.encode()) for user_id in asked]


def _with_stage(run: Run, pinned: Pinned, listed: pa.Array | None, until_us: int | None) -> Run:
    """The run with the stage that its lists are recorded under; what they hang on is its key."""
    sections: dict[str, Any] = {"recommend": run.config.section("recommend") | {"at": until_us}}
    if listed is not None:
        said = "\n".join(listed.to_pylist()).encode()
        sections["recommend"]["users"] = hashlib.sha256(said).hexdigest()
    upstream = {name: str(version) for name, version in pinned.versions.items()}
    upstream[c.MODEL_ID] = pinned.model_id
    stage = PlannedStage(RECOMMEND, stage_key(RECOMMEND, sections, upstream), sections, upstream)
    return replace(run, stages=run.stages | {RECOMMEND.name: stage})


def _write_parts(batch: Batch) -> tuple[list[PartFile], dict[str, Any]]:
    """Files of all lists, each of the users of some blocks; nothing is in the table yet."""
    recommender = open_once(batch.key, batch.pinned, batch.rules)
    total = len(batch.listed) if batch.listed is not None else _count_users(batch.pinned)
    progress, parts = Progress(RECOMMEND.name, total, "users"), []
    num_users = num_short = 0
    writer, limit = _new_writer(batch, 0), RANGE_USERS
    for block in read_blocks(batch.pinned, batch.listed):
        rows = recommender.list_users(block[c.USER_ID], block)
        num_users += len(rows)
        num_short += pc.sum(pc.less(pc.list_value_length(rows[c.ITEM_IDS]), batch.rules.k)).as_py() or 0
        writer.write(rows.drop_columns(list(batch.slice)))
        progress.update(num_users)
        if num_users >= limit:
            parts.append(writer.close())
            writer, limit = _new_writer(batch, len(parts)), num_users + RANGE_USERS
    parts.append(writer.close())
    counts = {"users": num_users, "users_without_events": total - num_users, "short_lists": num_short}
    return [part for part in parts if part], counts


def _new_writer(batch: Batch, part: int) -> PartWriter:
    return PartWriter(batch.run.lake, RECOMMENDATIONS, batch.slice, part, repeated=("item_ids.list.element",))


def _count_users(pinned: Pinned) -> int:
    return int(read_table(pinned.users, [c.USER_IDX]).num_rows)
