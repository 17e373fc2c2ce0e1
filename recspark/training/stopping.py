"""SIGTERM: between two checkpoints a request to write one and end, at any other time of a training its end at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

EXIT_CHECKPOINTED = os.EX_TEMPFAIL
"""Exit code after SIGTERM where a checkpoint is there: the same command, run again, goes on from it."""
EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM where there is none; what shells say of any process that SIGTERM has killed."""


class Terminated(BaseException):
    """SIGTERM came when no step was under way."""


class StopRequest:
    """Whether this process was told to end while it listened."""

    def __init__(self) -> None:
        self.is_made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM as a request inside the block; one that the block has not acted on is delivered behind it."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self.is_made = True

        with _handling(ask):
            yield
        if self.is_made:
            signal.raise_signal(signal.SIGTERM)


def ending_at_once() -> AbstractContextManager[None]:
    """SIGTERM inside the block raises `Terminated`."""

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send it to a whole tree, whose parents pass it on
        raise Terminated

    return _handling(end)


def dying() -> AbstractContextManager[None]:
    """SIGTERM inside the block kills: for calls of C++ that wait long, in which Python cannot answer a signal."""
    return _handling(signal.SIG_DFL)


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Handles SIGTERM so inside the block; outside the main thread, which gets no signals, does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
