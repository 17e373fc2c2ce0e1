"""Reading ahead: the next batches are made by a thread while the current one is learned from."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(make: Callable[[], Iterator[T]], depth: int) -> Iterator[T]:
    """The same items, read ahead by a thread that holds at most ``depth`` of them; errors come through.

    The thread ends when the iterator is closed or dropped.
    """
    if depth == 0:
        yield from make()
        return
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(make, ready, stopped), name="recspark-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, found = ready.get()
            if is_item:
                yield found  # type: ignore[misc]
            elif isinstance(found, BaseException):
                raise found
            else:
                return
    finally:
        stopped.set()
        thread.join()


def _fill(make: Callable[[], Iterator[T]], ready: "queue.Queue[tuple[bool, T | BaseException | None]]",
          stopped: threading.Event) -> None:  # fmt: skip
    end: BaseException | None = None
    try:
        for item in make():
            if not _put(ready, (True, item), stopped):
                return
    except BaseException as error:
        end = error
    _put(ready, (False, end), stopped)


def _put(ready: "queue.Queue[tuple[bool, T | BaseException | None]]", item: tuple[bool, T | BaseException | None],
         stopped: threading.Event) -> bool:  # fmt: skip
    """Whether the item went in before the reader stopped."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.05)
            return True
        except queue.Full:
            continue
    return False
