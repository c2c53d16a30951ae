"""Prefetching: one stage computes its next items while the following stage still works on earlier ones."""

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead(Iterator[T]):
    """Iterate in a background thread: the same items in the same order, up to `depth` of them computed in advance.

    What is raised there is raised here, in its turn. The thread begins at once and ends with the last item, or with `close`,
    which also closes items that were made and not asked for, if they can be closed.
    """

    def __init__(self, items: Iterable[T], depth: int = 2):
        self._made: SimpleQueue = SimpleQueue()  # of (item, error, whether it is over)
        self._room, self._stop, self._over = threading.Semaphore(depth), threading.Event(), False
        self._thread = threading.Thread(target=self._make, args=(items,), daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error, self._over = self._made.get()
        self._room.release()
        if error:
            raise error
        if self._over:
            raise StopIteration
        return item

    def close(self) -> None:
        """Make no more items, and wait for the one that is being made."""
        self._over = True
        self._stop.set()
        self._room.release()
        self._thread.join()
        try:
            while True:
                _drop(self._made.get_nowait()[0])
        except Empty:
            return

    def _make(self, items: Iterable[T]) -> None:
        """Put the items, and at the end what went wrong, if anything."""
        error, source = None, iter(items)
        try:
            while self._room.acquire() and not self._stop.is_set():
                self._made.put((next(source), None, False))
        except StopIteration:
            pass
        except BaseException as raised:
            error = raised
        try:
            _drop(items)  # in the thread that ran it, so that its own helpers end too
        except BaseException as raised:
            error = error or raised
        self._made.put((None, error, True))


def _drop(item: Any) -> None:
    """Close an item that will not be consumed, if it can be closed."""
    if hasattr(item, "close"):
        item.close()
