"""SIGTERM as a request: finish the step, write a checkpoint, end with an exit code of its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_TERMINATED = 143
"""Exit code after SIGTERM: a checkpoint was written, the next start goes on from it."""


class StopRequest:
    """Whether this process was told to end while it listened."""

    def __init__(self) -> None:
        self.is_made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM as a request inside the block; outside the main thread, which gets no signals, does nothing."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self.is_made = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
