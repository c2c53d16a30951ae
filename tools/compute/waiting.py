"""How PyTorch's threads wait for each other: by a short spin on a free machine, asleep on a busy one.

GNU's OpenMP, which PyTorch's wheels for Linux bring, spins for milliseconds at the end of each parallel loop. Beside other busy
programs the one that spins keeps the core from the one that is waited for, and training takes ten times as long. A spin of a
fifteenth of that is as quick on free cores and bears what becomes busy later; where others are busy from the start, sleep is
better still (benchmarks/load.py). How to wait is read once, when the library loads, so it has to be chosen before PyTorch is
imported.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

_LOADAVG = Path("/proc/loadavg")
SHORT_SPIN = "20000"  # rounds; GNU's own is 300,000
_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what users set themselves


def choose_waiting(environment: MutableMapping[str, str] = os.environ, loadavg: Path = _LOADAVG) -> bool:
    """Have threads spin for a short while only, and not at all if other programs are busy; returns whether they are.

    Call it before PyTorch is imported. A user's own settings win.
    """
    if any(name in environment for name in _OWN) or "torch" in sys.modules:
        return False
    if asleep := busy(loadavg):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        environment["GOMP_SPINCOUNT"] = SHORT_SPIN
    return asleep


def busy(loadavg: Path = _LOADAVG) -> bool:
    """Whether another program than this one runs now, and did over the last minute. False on machines without /proc."""
    try:
        minute, _, _, running, _ = loadavg.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    return int(running.partition("/")[0]) > 1 and float(minute) > 0.5
