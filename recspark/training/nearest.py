"""What is said where a training has no checkpoint of its own: which unfinished one is nearest, and how it differs."""

from typing import Any, NamedTuple

from recspark.config import Run
from recspark.errors import TrainingError
from recspark.lake.storage import join, read_bytes
from recspark.training.checkpoint_record import (
    FORMAT_VERSION,
    LATEST,
    Difference,
    checkpoint_uri,
    compare_facts,
    find_record,
    list_folders,
    parse_record,
)  # fmt: skip

_SHOWN_DIFFERENCES, _SHOWN_CHARACTERS = 4, 40
_ELSEWHERE = "its source, or a stage that it reads, is another one"


class Nearest(NamedTuple):
    """The unfinished training beside this one that differs least, and in what."""

    uri: str
    step: int
    differences: list[Difference]


def check_resume(run: Run) -> None:
    """Checks that a training which has to be resumed has a checkpoint; its inputs need not be there yet.

    Raises: TrainingError.
    """
    uri = checkpoint_uri(run)
    if run.config.training.resume == "required" and find_record(uri) is None:
        raise nothing_to_resume(uri, find_nearest(uri, {"config": run.stages["train"].sections}, only=("config",)))


def find_nearest(uri: str, facts: dict[str, Any], only: tuple[str, ...] = ()) -> Nearest | None:
    """None where there is none; ``only`` these facts are compared where not all are known yet."""
    folder, own = uri.rsplit("/", 1)
    own_facts = _choose({"format_version": FORMAT_VERSION, **facts}, only)
    others = []
    for name in list_folders(folder):
        found = parse_record(read_bytes(join(folder, name, LATEST))) if name != own else None
        if found and found.step < found.facts.get("num_steps", 0):
            differences = compare_facts(_choose(found.facts, only), own_facts, ignored=("key", "num_steps"))
            others.append((len(differences), name, Nearest(join(folder, name), found.step, differences)))
    return min(others, key=lambda other: other[:2])[2] if others else None


def nothing_to_resume(uri: str, nearest: Nearest | None) -> TrainingError:
    """What is said where `training.resume` is required and there is no checkpoint."""
    if nearest is None:
        return TrainingError(
            f"training.resume is required, but {uri} has no checkpoint yet, and no unfinished training is beside it; "
            f"set training.resume to auto, which trains from the start"
        )
    where = f"{uri}: no checkpoint; that of step {nearest.step} in {nearest.uri} is of another training:"
    differences = [str(d) for d in nearest.differences] or [f"  {_ELSEWHERE}"]
    advice = "undo the change to go on from it, or leave training.resume=required out to train from the start"
    return TrainingError("\n".join([where, *differences, advice]))


def describe_anew(nearest: Nearest) -> str:
    """The warning where `training.resume` is auto and only another training has a checkpoint; one line."""
    shown = [_shorten(d) for d in nearest.differences[:_SHOWN_DIFFERENCES]] or [_ELSEWHERE]
    num_more = len(nearest.differences) - len(shown)
    more = f", and {num_more} more" if num_more > 0 else ""
    return (
        f"warning: begins anew, though a training stopped at step {nearest.step} ({nearest.uri}), which was made from "
        f"something else: {', '.join(shown)}{more}. Undo the change to go on from it; with training.resume=required "
        f"such a change is refused"
    )


def _shorten(difference: Difference) -> str:
    old, new = (
        text if len(text) <= _SHOWN_CHARACTERS else "..." for text in (str(difference.old), str(difference.new))
    )
    return f"{difference.name} {old} -> {new}"


def _choose(facts: dict[str, Any], only: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if not only or key in only}
