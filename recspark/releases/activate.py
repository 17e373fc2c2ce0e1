"""Which release is active: moved by one Delta commit, forward through the gates, back without them.

READY or RETIRED -> ACTIVE, and the one that was ACTIVE -> RETIRED, in the same commit
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from recspark.contracts.manifest import Manifest
from recspark.errors import LakeError, ReleaseError
from recspark.faults import fault_point
from recspark.lake.folders import check_file
from recspark.releases.binding import FOLDER
from recspark.releases.canaries import FILE, Canaries, find_overlap, read_canaries
from recspark.releases.gates import COMPARING, NEIGHBOUR_OVERLAP, Compared, Gate, describe_gates, judge, refused
from recspark.releases.manifest import read_release_manifest
from recspark.releases.registry import (
    ACTIVE,
    READY,
    RETIRED,
    Registry,
    ReleaseRow,
    Rows,
    action_record,
    change_registry,
    now,
    read_registry,
)
from recspark.releases.verify import check_sound


@dataclass(frozen=True)
class Activation:
    """What an activation did: the release, the one it took the place of, and how the gates stood."""

    row: ReleaseRow
    replaced: ReleaseRow | None
    gates: list[Gate]

    def describe(self) -> str:
        """For people."""
        before = f", in place of {self.replaced.release_id}" if self.replaced else ""
        lines = [describe_gates(self.gates)] if self.gates else []
        return "\n".join([*lines, f"release {self.row.release_id} is active{before}"])


def activate(
    lake: str, release_id: str | None = None, *, limits: Mapping[str, Any] | None = None, force: str | None = None
) -> Activation:
    """Makes a release active, the newest READY one by default, once it is sound and has passed the gates.

    ``limits`` are the gates of a config, by default those that the release was published with. ``force`` is the reason
    why refused gates do not count, recorded with them; damage cannot be forced.

    Raises: ReleaseError when the release cannot be active, is damaged, or a gate refuses it, with value and limit.
    """
    if force is not None and not force.strip():
        raise ReleaseError("activate --force: say why; the reason is recorded with the release")
    registry = read_registry(lake)
    row = registry.find(release_id) if release_id else _find_newest_ready(registry)
    if row.state == ACTIVE:
        return Activation(row, None, [])
    _check_movable(row)
    check_sound(lake, row)
    gates = judge_release(registry, row, limits)
    if force is None and refused(gates):
        raise ReleaseError(_say_refused(row, gates))
    reason = f"activated, forced: {force}" if force is not None else "activated"
    return _move(registry, row, reason, "activate", gates, force)


def rollback(lake: str, release_id: str | None = None, *, reason: str | None = None) -> Activation:
    """Makes the release active that was so before the active one, or the one named; no gates, one commit.

    All is checked but the contents of tables: the way back must not wait until they are read.

    Raises: ReleaseError when there is none to go back to, or it is damaged.
    """
    registry = read_registry(lake)
    if registry.active is None:
        raise ReleaseError("rollback: no release is active; activate one first")
    wanted = release_id or registry.active.previous_id
    if wanted is None:
        raise ReleaseError(
            f"rollback: {registry.active.release_id} was the first to be active, nothing was before it; name the "
            f"release to go to"
        )
    row = registry.find(wanted)
    if row.state == ACTIVE:
        raise ReleaseError(f"rollback: {row.release_id} is active already")
    _check_movable(row)
    check_sound(lake, row, with_contents=False)
    return _move(registry, row, reason or f"rolled back from {registry.active.release_id}", "rollback", [], None)


def judge_release(registry: Registry, row: ReleaseRow, limits: Mapping[str, Any] | None = None) -> list[Gate]:
    """How the gates stand for a published release against the active one; where that one is damaged, gates that compare
    with it refuse.

    Raises: ReleaseError when the release's own manifest is damaged.
    """
    manifest = read_release_manifest(registry.lake, row)
    limits = limits if limits is not None else manifest.config["gates"]
    measured, active = manifest.facts["measured"], registry.active
    if active is None or active.release_id == row.release_id:
        return judge(Compared(measured), limits)
    try:
        before = read_release_manifest(registry.lake, active)
    except ReleaseError as error:
        return judge(Compared(measured, None, active.release_id, flaws=dict.fromkeys(COMPARING, str(error))), limits)
    compared = Compared(measured, before.facts["measured"], active.release_id)
    try:
        overlap, num_common = find_overlap(_read_own(registry.lake, manifest), _read_own(registry.lake, before))
    except LakeError as error:
        return judge(replace(compared, flaws={NEIGHBOUR_OVERLAP: str(error)}), limits)
    return judge(replace(compared, overlap=overlap, num_common=num_common), limits)


def _read_own(lake: str, manifest: Manifest) -> Canaries:
    """A release's canaries.

    Raises: LakeError when they are lost, or not as they were published.
    """
    (entry,) = (entry for entry in manifest.files if entry.path == FILE)
    return read_canaries(check_file(lake, FOLDER, manifest.id, entry))


def _find_newest_ready(registry: Registry) -> ReleaseRow:
    ready = [row for row in registry.rows.values() if row.state == READY]
    if not ready:
        raise ReleaseError(
            f"activate: no release of {registry.lake} is READY; run `recspark release publish CONF` first"
        )
    return ready[-1]


def _check_movable(row: ReleaseRow) -> None:
    if row.state not in (READY, RETIRED):
        raise ReleaseError(
            f"release {row.release_id} is {row.state} ({row.reason}); only a READY or RETIRED one can be active; "
            f"publish it again"
        )


def _say_refused(row: ReleaseRow, gates: list[Gate]) -> str:
    lines = "\n".join(f"  {gate.describe()}" for gate in gates)
    count = len(refused(gates))
    return (
        f"release {row.release_id} is refused by {count} gate{'s' if count > 1 else ''}: "
        f"{', '.join(gate.name for gate in refused(gates))}\n{lines}\n"
        f"mend what the figures say, change release.gates, or give --force with the reason"
    )


def _move(
    registry: Registry, row: ReleaseRow, reason: str, action: str, gates: list[Gate], force: str | None
) -> Activation:
    """The one commit; decided again on the newest rows where another writer came in between.

    Raises: ReleaseError where another release has become active meanwhile.
    """
    before = registry.active
    said = {"reason": reason, "forced": force, "replaced": before.release_id if before else None}
    record = action_record(action, row.release_id, **said, gates=[asdict(gate) for gate in gates])
    fault_point("release.before_activation")
    moved = change_registry(registry.lake, lambda newest: _swap(newest, before, row.release_id, reason, action), record)
    fault_point("release.activated")
    return Activation(moved.rows[row.release_id], before, gates)


def _swap(newest: Registry, before: ReleaseRow | None, release_id: str, reason: str, action: str) -> Rows:
    """The rows with another one active.

    Raises: ReleaseError where what was active ``before`` is not so any more, or the other cannot be.
    """
    active, row = newest.active, newest.find(release_id)
    if (active and active.release_id) != (before and before.release_id):
        found = active.release_id if active else "none"
        raise ReleaseError(f"{action} {release_id}: meanwhile {found} became active; look at it and try again")
    _check_movable(row)
    retired = {active.release_id: active.moved(RETIRED, _say_replaced(action, row, reason))} if active else {}
    return newest.rows | retired | {release_id: _activated(row, active, reason, action)}


def _activated(row: ReleaseRow, replaced: ReleaseRow | None, reason: str, action: str) -> ReleaseRow:
    """A release that a rollback returns to keeps what was before it, so that rollbacks go further and further back."""
    more: dict[str, Any] = {"activated_at": now()}
    if action == "activate":
        more["previous_id"] = replaced.release_id if replaced else None
    return row.moved(ACTIVE, reason, **more)


def _say_replaced(action: str, row: ReleaseRow, reason: str) -> str:
    return f"replaced by {row.release_id}" if action == "activate" else f"taken back for {row.release_id}: {reason}"
