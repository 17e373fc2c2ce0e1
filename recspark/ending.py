"""The end of a process whose work is done: its exit code says how the work went, not how its libraries fell apart.

Before Python 3.14 a thread of a C++ library that asks for the interpreter while that is being torn down is killed on
the spot, and C++ answers with an abort: "terminate called without an active exception", exit code 134, after all is
written. Arrow's and gloo's threads do so now and then; which one, and when, is a matter of microseconds.
"""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def calm_ending() -> Iterator[None]:
    """Around all that a process does: it then ends with the code it was given, without the interpreter's tear-down.

    Threads are joined, exit handlers registered inside have run and output is flushed before; whoever dies of an
    exception ends as ever.
    """
    ending = _Ending()
    atexit.register(ending.leave)
    try:
        yield
        ending.code = 0
    except SystemExit as done:
        ending.code = done.code if isinstance(done.code, int) else int(done.code is not None)
        raise


class _Ending:
    code: int | None = None

    def leave(self) -> None:
        """Exit handlers run in reverse order: this one after those of everything that was loaded since."""
        if self.code is None:
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # closed, or its reader is gone: the interpreter would say 120
                self.code = self.code or 1
        os._exit(self.code)
