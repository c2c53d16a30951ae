"""Signals that training obeys at the end of an iteration: stop with a snapshot, or a snapshot alone."""

import signal
import sys


class Signals:
    """Listens while in a `with`. stop: set by Ctrl-C or SIGTERM; snapshot: set by SIGHUP, for the loop to clear.

    A second Ctrl-C or SIGTERM stops at once, as if nobody listened. See `pick_up` for processes that obey together.
    """

    def __init__(self):
        self.stop = self.snapshot = False
        self._waits = self._stop_waits = self._snapshot_waits = False
        self._before = {}

    def __enter__(self) -> "Signals":
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_stop)
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_stop)
        if hasattr(signal, "SIGHUP"):  # Windows has none
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_snapshot)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pick_up(self) -> tuple[bool, bool]:
        """(stop, snapshot) as heard until now; what is heard from here on waits for the next call.

        For processes that agree on what to obey: one that heard more later in an iteration, and snapshot or stopped alone,
        would leave the others waiting for it.
        """
        heard = self.stop or self._stop_waits, self.snapshot or self._snapshot_waits
        self._waits, self._snapshot_waits = True, False
        return heard

    def _on_stop(self, number, frame) -> None:
        if self._waits:
            self._stop_waits = True
        else:
            self.stop = True
        signal.signal(number, self._before[number])
        print(
            f"\n{signal.Signals(number).name}: a snapshot after this iteration, then stop (once more: at once).",
            file=sys.stderr,
        )

    def _on_snapshot(self, number, frame) -> None:
        if self._waits:
            self._snapshot_waits = True
        else:
            self.snapshot = True


def leave_to_parent(_worker: int) -> None:
    """For loader processes: the training process alone decides what a signal means, and tells them when to end.

    A terminal, torchrun and SLURM send theirs to all processes at once.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
