"""Checkpoints of one training: a folder a step, and LATEST, which names the last whole one.

    <lake>/checkpoints/<train key>/step-0000500/...   what the backend wrote
    <lake>/checkpoints/<train key>/LATEST             {"folder": "step-0000500", "files": {...}, "state": {...}}
    <lake>/checkpoints/<train key>/metrics.jsonl      one line a report

LATEST is written last and at once: by replacing a file locally, by one object on a store. A folder that it does not
name is no checkpoint. What training depends on (`facts`) is recorded and compared before a resume.
"""

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.fs as pafs

from recspark.config import Run
from recspark.errors import TrainingError
from recspark.faults import fault_point
from recspark.lake.storage import join, open_filesystem, read_bytes, readable_copy, writable_folder, write_bytes

if TYPE_CHECKING:  # what `recspark run` asks at its start needs no engine
    from recspark.training.backend import Backend
    from recspark.training.world import World

FORMAT_VERSION = 1
_LATEST, _METRICS = "LATEST", "metrics.jsonl"
_SHOWN_DIFFERENCES, _SHOWN_CHARACTERS = 4, 40
_ELSEWHERE = "its source, or a stage that it reads, is another one"


class Difference(NamedTuple):
    """A fact that a checkpoint was made from and this run has otherwise, such as config.training.window."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"  {self.name}: the checkpoint has {self.old}, this run has {self.new}"

    @property
    def short(self) -> str:
        """The same in a few words."""
        old, new = (text if len(text) <= _SHOWN_CHARACTERS else "..." for text in (str(self.old), str(self.new)))
        return f"{self.name} {old} -> {new}"


class Nearest(NamedTuple):
    """The unfinished training beside this one that differs least, and in what."""

    uri: str
    step: int
    differences: list[Difference]


def checkpoint_uri(run: Run) -> str:
    """Where a run's checkpoints and metrics are."""
    return join(run.lake, "checkpoints", run.stages["train"].key)


def check_resume(run: Run) -> None:
    """Checks that a training which has to be resumed has a checkpoint; its inputs need not be there yet.

    Raises: TrainingError.
    """
    uri = checkpoint_uri(run)
    if run.config.training.resume == "required" and read_bytes(join(uri, _LATEST)) is None:
        found = Checkpoints(uri, 1, {"config": run.stages["train"].sections})
        raise nothing_to_resume(uri, found.find_nearest(only=("config",)))


def nothing_to_resume(uri: str, nearest: Nearest | None) -> TrainingError:
    """What is said where `training.resume` is required and there is no checkpoint."""
    if nearest is None:
        return TrainingError(
            f"training.resume is required, but {uri} has no checkpoint yet, and there is no unfinished training "
            f"beside it; set training.resume to auto, which trains from the start"
        )
    where = f"{uri}: no checkpoint; that of step {nearest.step} in {nearest.uri} is of another training:"
    differences = [str(d) for d in nearest.differences] or [f"  {_ELSEWHERE}"]
    advice = "undo the change to go on from it, or leave training.resume=required out to train from the start"
    return TrainingError("\n".join([where, *differences, advice]))


def describe_anew(nearest: Nearest) -> str:
    """The warning where `training.resume` is auto and only another training has a checkpoint; one line."""
    shown = [d.short for d in nearest.differences[:_SHOWN_DIFFERENCES]] or [_ELSEWHERE]
    num_more = len(nearest.differences) - len(shown)
    more = f", and {num_more} more" if num_more > 0 else ""
    return (
        f"warning: begins anew, though a training stopped at step {nearest.step} ({nearest.uri}), which was made from "
        f"something else: {', '.join(shown)}{more}. Undo the change to go on from it; with training.resume=required "
        f"such a change is refused"
    )


def find_recorded_backend(uri: str) -> str | None:
    """The backend that made the latest checkpoint below a folder or URI, None without a readable record."""
    found = _parse_latest(read_bytes(join(uri, _LATEST)))  # whoever resumes says what is wrong with it
    return None if found is None else found["facts"].get("backend")


def read_progress(uri: str) -> dict[str, Any] | None:
    """The state (`TrainState`) of the latest checkpoint below a folder or URI, None without a readable record."""
    found = _parse_latest(read_bytes(join(uri, _LATEST)))
    return None if found is None else found["state"]


class Checkpoints:
    """The checkpoints below one folder or URI; the newest ``keep`` stay."""

    def __init__(self, uri: str, keep: int, facts: dict[str, Any]) -> None:
        self.uri, self._keep, self._facts = uri, keep, {"format_version": FORMAT_VERSION, **facts}

    def find_latest(self) -> dict[str, Any] | None:
        """What LATEST says (``folder``, ``state``), None where there is no checkpoint.

        Raises: TrainingError when it was made from something else or its files are not whole.
        """
        content = read_bytes(join(self.uri, _LATEST))
        if content is None:
            return None
        found = _parse_latest(content)
        if found is None:
            raise TrainingError(f"{self.uri}/{_LATEST}: not a checkpoint record; {self._advice()}")
        differences = _compare(found["facts"], self._facts)
        if differences:
            where = f"{self.uri}: cannot resume, the checkpoint was made from something else:"
            advice = f"undo the change, or {self._advice()}"
            raise TrainingError("\n".join([where, *map(str, differences), advice]))
        self._check_files(found)
        return found

    def find_nearest(self, only: tuple[str, ...] = ()) -> Nearest | None:
        """None where there is none; ``only`` these facts are compared where not all are known yet."""
        folder, own = self.uri.rsplit("/", 1)
        own_facts = {key: value for key, value in self._facts.items() if not only or key in only}
        others = []
        for name in _list_folders(folder):
            found = _parse_latest(read_bytes(join(folder, name, _LATEST))) if name != own else None
            if found and found["state"]["step"] < found["facts"].get("num_steps", 0):
                known = {key: value for key, value in found["facts"].items() if not only or key in only}
                differences = _compare(known, own_facts, ignored=("key", "num_steps"))
                others.append(
                    (len(differences), name, Nearest(join(folder, name), found["state"]["step"], differences))
                )
        return min(others, key=lambda other: other[:2])[2] if others else None

    def load(self, latest: dict[str, Any], backend: "Backend") -> None:
        """Brings a backend to the state of a checkpoint. Collective."""
        with readable_copy(join(self.uri, latest["folder"])) as folder:
            backend.load(folder)

    def save(self, state: dict[str, Any], step: int, backend: "Backend", world: "World") -> None:
        """Writes a checkpoint and makes it the latest. Collective; ``state`` is plain values."""
        name = f"step-{step:07d}"
        if world.rank == 0:
            _delete(join(self.uri, name))
        world.barrier()
        with writable_folder(join(self.uri, name)) as folder:
            backend.save(folder)
        world.barrier()
        if world.rank == 0:
            fault_point("train.checkpoint.files")
            latest = {"folder": name, "files": _list_files(join(self.uri, name)), "state": state, "facts": self._facts}
            _write_at_once(join(self.uri, _LATEST), json.dumps(latest, indent=1, sort_keys=True).encode())
            self._prune(name)

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Writes all report lines so far."""
        _write_at_once(join(self.uri, _METRICS), "".join(json.dumps(line) + "\n" for line in lines).encode())

    def read_metrics(self, up_to_step: int) -> list[dict[str, Any]]:
        """The report lines of steps that the latest checkpoint has seen."""
        content = read_bytes(join(self.uri, _METRICS)) or b""
        lines: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
        return [line for line in lines if line["step"] <= up_to_step]

    def _check_files(self, latest: dict[str, Any]) -> None:
        folder = join(self.uri, latest["folder"])
        found = _list_files(folder)
        for path, size in latest["files"].items():
            if path not in found:
                raise TrainingError(f"{folder}/{path}: missing, but {_LATEST} lists it; {self._advice()}")
            if found[path] != size:
                raise TrainingError(f"{folder}/{path}: {found[path]} bytes, {_LATEST} says {size}; {self._advice()}")

    def _advice(self) -> str:
        return f"remove {self.uri} to train from the start"

    def _prune(self, newest: str) -> None:
        """Removes old checkpoints, and newer ones that never became whole."""
        names = sorted(name for name in _list_folders(self.uri) if name.startswith("step-"))
        whole = [name for name in names if name <= newest]
        for name in names:
            if name not in whole[-self._keep :]:
                _delete(join(self.uri, name))


def _parse_latest(content: bytes | None) -> dict[str, Any] | None:
    """What LATEST says, None where it is not there or no record of ours."""
    try:
        found: dict[str, Any] = json.loads(content or b"")
        is_record = isinstance(found["facts"], dict) and isinstance(found["files"], dict)
        return found if is_record and found["folder"] and "step" in found["state"] else None
    except (ValueError, KeyError, TypeError):
        return None


def _compare(
    found: dict[str, Any], wanted: dict[str, Any], prefix: str = "", ignored: tuple[str, ...] = ()
) -> list[Difference]:
    """The facts that differ, by name."""
    differences = []
    for name in sorted((set(found) | set(wanted)) - set(ignored)):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += _compare(old, new, f"{prefix}{name}.")
        elif old != new:
            differences.append(Difference(f"{prefix}{name}", old, new))
    return differences


def _write_at_once(uri: str, content: bytes) -> None:
    """Writes a small file so that a reader sees the old one or the new one, never a part."""
    filesystem, path = open_filesystem(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        write_bytes(uri, content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)


def _list_files(uri: str) -> dict[str, int]:
    """Path below a folder -> bytes, of all its files."""
    filesystem, path = open_filesystem(uri)
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(path).lstrip("/"): info.size for info in found if info.is_file}


def _list_folders(uri: str) -> list[str]:
    filesystem, path = open_filesystem(uri)
    found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.type == pafs.FileType.Directory]


def _delete(uri: str) -> None:
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
    elif filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
