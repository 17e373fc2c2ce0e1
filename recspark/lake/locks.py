"""One process at a time for a stage's key: two trainers would write each other's checkpoints.

On a local lake a lock file, which the system releases when its holder dies, however it dies. Object stores have no
locks: there, tables are safe by Delta's commits, and whoever schedules jobs has to start each once.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recspark.contracts.stages import PlannedStage
from recspark.errors import LakeError
from recspark.lake.storage import join


@contextmanager
def stage_lock(lake: str, stage: PlannedStage, patience_seconds: float = 20.0) -> Iterator[None]:
    """Holds a stage's lock; waits for a dying holder for ``patience_seconds``.

    Raises: LakeError when another process keeps it, or the lake cannot be written.
    """
    if "://" in lake:
        yield
        return
    path = Path(join(lake, "locks", f"{stage.name}-{stage.id}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise LakeError(f"paths.lake {lake}: cannot be written ({error}); choose another folder") from error
    with file:
        _take(file, stage, patience_seconds)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _take(file: IO[str], stage: PlannedStage, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.seek(0)
                raise LakeError(
                    f"{stage.name}: process {file.read() or 'unknown'} is building it under the same key ({stage.id}); "
                    "wait for it or stop it, then run again"
                ) from error
            time.sleep(0.1)
