"""Work that is done ahead: what one stage makes while the next is still busy with what came before."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead(Iterator[T]):
    """The same items in the same order, made in a thread of their own, up to `depth` of them before they are asked for.

    What is raised there is raised here, in its turn. The thread begins at once and ends with the last item, or with `close`,
    which also closes items that were made and not asked for, if they can be closed.
    """

    def __init__(self, items: Iterable[T], depth: int = 2):
        self._made: queue.Queue = queue.Queue(depth)
        self._stop, self._over = threading.Event(), False
        self._thread = threading.Thread(target=_make, args=(items, self._made, self._stop), daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error, self._over = self._made.get()
        if error:
            raise error
        if self._over:
            raise StopIteration
        return item

    def close(self) -> None:
        """Make no more items, and wait for the one that is being made."""
        self._over = True
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            with contextlib.suppress(queue.Empty):
                _drop(self._made.get(timeout=0.02)[0])
        while not self._made.empty():
            _drop(self._made.get()[0])


def _drop(item: Any) -> None:
    """Nobody wants it any more."""
    if hasattr(item, "close"):
        item.close()


def _make(items: Iterable, made: queue.Queue, stop: threading.Event) -> None:
    """Put (item, error, whether it is over) for each item and, at the end, for the end."""
    error = None
    try:
        for item in items:
            made.put((item, None, False))
            if stop.is_set():
                break
        if hasattr(items, "close"):
            items.close()  # in the thread that ran it, so that its own helpers end too
    except BaseException as raised:
        error = raised
    made.put((None, error, True))
