"""Checkpoints of one training: a folder a step, and LATEST, which names the last whole one.

    <lake>/checkpoints/<train key>/step-0000500/...   what the backend wrote, and RECORD, written last
    <lake>/checkpoints/<train key>/LATEST             the same record
    <lake>/checkpoints/<train key>/metrics.jsonl      one line a report

A resume checks every file's SHA-256 and, where one is lost or damaged, goes on from the newest checkpoint that is
whole. What training depends on (`facts`) is recorded and compared first.
"""

import json
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from recspark.contracts.manifest import FileEntry
from recspark.errors import TrainingError
from recspark.faults import fault_point
from recspark.lake.folders import hash_file
from recspark.lake.storage import join, open_filesystem, read_bytes, readable_copy, writable_folder
from recspark.logs import log
from recspark.training.checkpoint_record import (
    FORMAT_VERSION,
    LATEST,
    RECORD,
    Record,
    compare_facts,
    list_folders,
    parse_record,
    read_records,
    write_at_once,
)  # fmt: skip

if TYPE_CHECKING:
    from recspark.training.backend import Backend
    from recspark.training.world import World

_METRICS = "metrics.jsonl"


class Checkpoints:
    """The checkpoints below one folder or URI; the newest ``keep`` stay."""

    def __init__(self, uri: str, keep: int, facts: dict[str, Any]) -> None:
        self.uri, self.facts = uri, {"format_version": FORMAT_VERSION, **facts}
        self._keep = keep

    def find_latest(self, world: "World") -> Record | None:
        """The newest checkpoint whose files are whole, None where there is none at all. Collective.

        Raises: TrainingError when it was made from something else, or none is whole.
        """
        latest, records = read_bytes(join(self.uri, LATEST)), read_records(self.uri)
        if latest is None and not records:
            return None
        if records:
            self._check_facts(records[0])
        flaws = [] if parse_record(latest) else [f"{self.uri}/{LATEST}: {'not a record' if latest else 'missing'}"]
        for record in records:
            flaw = self._find_flaw(record, world)
            if flaw is None:
                if flaws and world.rank == 0:
                    log(
                        "train", f"warning: {'; '.join(flaws)}. Goes on from the whole checkpoint of step {record.step}"
                    )
                return record
            flaws.append(flaw)
        raise TrainingError("\n".join([*flaws, f"no whole checkpoint is left; {self._advice()}"]))

    def load(self, record: Record, backend: "Backend") -> None:
        """Brings a backend to the state of a checkpoint. Collective."""
        with readable_copy(join(self.uri, record.folder)) as folder:
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
            files = _hash_files(folder, world)
        world.barrier()
        if world.rank == 0:
            fault_point("train.checkpoint.files")
            record = Record(name, files, state, self.facts).to_json()
            write_at_once(join(self.uri, name, RECORD), record)
            write_at_once(join(self.uri, LATEST), record)
            self._prune(name)

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Writes all report lines so far."""
        write_at_once(join(self.uri, _METRICS), "".join(json.dumps(line) + "\n" for line in lines).encode())

    def read_metrics(self, up_to_step: int) -> list[dict[str, Any]]:
        """The report lines of steps that the checkpoint has seen; of a damaged file those that can be read."""
        content = read_bytes(join(self.uri, _METRICS)) or b""
        lines = [line for line in map(_parse_line, content.splitlines()) if line is not None]
        return [line for line in lines if line["step"] <= up_to_step]

    def _check_facts(self, record: Record) -> None:
        if differences := compare_facts(record.facts, self.facts):
            where = f"{self.uri}: cannot resume, the checkpoint was made from something else:"
            advice = f"undo the change, or {self._advice()}"
            raise TrainingError("\n".join([where, *map(str, differences), advice]))

    def _find_flaw(self, record: Record, world: "World") -> str | None:
        """What is wrong with a checkpoint's files; each rank hashes its share of them. Collective."""
        folder = join(self.uri, record.folder)
        share = record.files[world.rank :: world.world_size]
        own = _find_lost(folder, record.files) or _find_damaged(folder, share)
        return next((flaw for flaw in world.gather_objects(own) if flaw), None)

    def _advice(self) -> str:
        return f"remove {self.uri} to train from the start"

    def _prune(self, newest: str) -> None:
        """Removes old checkpoints, and newer ones that never became whole."""
        names = sorted(name for name in list_folders(self.uri) if name.startswith("step-"))
        whole = [name for name in names if name <= newest]
        for name in names:
            if name not in whole[-self._keep :]:
                _delete(join(self.uri, name))


def _hash_files(folder: str, world: "World") -> tuple[FileEntry, ...]:
    """All ranks' files of a checkpoint; ranks that hold the same one (on a shared disk) take turns. Collective."""
    listed = world.gather_objects(sorted(_list_files(folder)))
    own = []
    for place, path in enumerate(sorted({path for paths in listed for path in paths})):
        holders = [rank for rank, paths in enumerate(listed) if path in paths]
        if holders[place % len(holders)] == world.rank:
            own.append(hash_file(folder, path))
    return tuple(sorted((entry for entries in world.gather_objects(own) for entry in entries), key=lambda e: e.path))


def _find_lost(folder: str, files: tuple[FileEntry, ...]) -> str | None:
    """The first file that is not there, or has another size."""
    sizes = _list_files(folder)
    for file in files:
        if file.path not in sizes:
            return f"{folder}/{file.path}: missing, but its record lists it"
        if sizes[file.path] != file.bytes:
            return f"{folder}/{file.path}: {sizes[file.path]} bytes, its record says {file.bytes}"
    return None


def _find_damaged(folder: str, files: tuple[FileEntry, ...]) -> str | None:
    """The first file whose content is not what was written."""
    for file in files:
        if hash_file(folder, file.path).sha256 != file.sha256:
            return f"{folder}/{file.path}: damaged, its SHA-256 is not the one in its record"
    return None


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        return found if isinstance(found["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def _list_files(uri: str) -> dict[str, int]:
    """Path below a folder -> bytes, of all its files."""
    filesystem, path = open_filesystem(uri)
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(path).lstrip("/"): info.size for info in found if info.is_file}


def _delete(uri: str) -> None:
    filesystem, path = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
    elif filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
