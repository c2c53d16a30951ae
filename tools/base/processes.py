"""Helper processes that share a script's work, and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from tools.base.errors import UserError

_busy = False  # in a helper: whether it is at a job


@contextmanager
def pool(count: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """So many helper processes (None: one for each core) within this block; what they are at ends with it.

    Raises UserError if one of them was killed, as by the system if memory runs out.
    """
    with _Pool(count, initializer=_begin) as executor:
        try:
            yield executor
        except BrokenProcessPool:
            raise UserError(
                "a helper process was ended from outside, as the system does if memory runs out; what was made so far is"
                " removed: close other programs, set TILE_MEMORY_MB to a smaller number, or use fewer cores (taskset -c 0)."
            ) from None
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for helper in multiprocessing.active_children():
                os.kill(helper.pid, signal.SIGINT)
            raise


class _Pool(ProcessPoolExecutor):
    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        return super().submit(_job, function, *args, **kwargs)


def _job(function: Callable, *args: Any, **kwargs: Any) -> Any:
    global _busy
    _busy = True
    try:
        return function(*args, **kwargs)
    finally:
        _busy = False


def _begin() -> None:
    """Set up a worker process: Ctrl-C cancels its current job only, and the worker ends when the script ends."""
    signal.signal(signal.SIGINT, _stop_job)
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _stop_job(_number: int, _frame: Any) -> None:
    if _busy:
        raise KeyboardInterrupt


def _end_with(parent: Any) -> None:
    wait([parent.sentinel])
    os._exit(1)
