"""Whether a run hides the ids that its lake hides: versions stay readable, one of the other kind gives all away.

a lake with ids as found, a config with source.privacy   ->   refused: hidden ids need a lake of their own
"""

from typing import Any

from recspark.config import Run
from recspark.errors import LakeError
from recspark.lake.arrow import find_newest_marker


def check_ids(run: Run) -> None:
    """Compares what the run would hide with the newest version that ingest has written, so with all of them.

    Another key is no mistake: under it, all is built anew.

    Raises: LakeError where one of them holds ids as found that are hidden in the other.
    """
    stage = run.stages["ingest"]
    assert stage.spec.marker
    newest = find_newest_marker(run.lake, stage.spec.marker, stage.name)
    if newest is None:
        return
    own, there = (_hidden_in(sections) for sections in (stage.sections, newest.config))
    where = f"{run.lake}: table {stage.spec.marker}"
    if open_ids := sorted(own - there):
        raise LakeError(
            f"{where} holds {' and '.join(open_ids)} as found, by an earlier config without source.privacy or with "
            f"less of it, and its old versions stay readable; hidden ids need a lake of their own: set paths.lake to "
            f"another"
        )
    if open_ids := sorted(there - own):
        raise LakeError(
            f"{where} holds {' and '.join(open_ids)} hidden, and this config would add them as found; give it the "
            f"source.privacy of that lake, or set paths.lake to another"
        )


def _hidden_in(sections: dict[str, Any]) -> set[str]:
    """The kinds of ids that a config of `source` hides, as records hold it."""
    privacy = (sections.get("source") or {}).get("privacy") or {}
    return {name for name in ("user_ids", "item_ids") if privacy.get(name) == "hmac"}
