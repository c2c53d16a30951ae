"""Work that is done ahead: what one stage makes while the next is still busy with what came before."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, made in a thread of their own, up to `depth` of them before they are asked for.

    What is raised there is raised here, in its turn. The thread ends with the last item, or when the generator is closed.
    """
    made: queue.Queue = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_make, args=(items, made, stop), daemon=True)
    thread.start()
    try:
        while True:
            item, error, over = made.get()
            if error:
                raise error
            if over:
                return
            yield item
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for room in the queue
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.02)


def _make(items: Iterable[T], made: queue.Queue, stop: threading.Event) -> None:
    """Put (item, error, whether it is over) for each item and, at the end, for the end."""
    error = None
    try:
        for item in items:
            made.put((item, None, False))
            if stop.is_set():
                break
        if isinstance(items, Generator):
            items.close()  # in the thread that ran it, so that its own helpers end too
    except BaseException as raised:
        error = raised
    made.put((None, error, True))
