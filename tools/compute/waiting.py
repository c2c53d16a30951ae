"""How PyTorch's threads wait for each other: spinning on a free machine, asleep on a busy one.

GNU's OpenMP, which PyTorch's wheels for Linux bring, spins for milliseconds at the end of each parallel loop. On free cores
that is quickest; beside other busy programs the one that spins keeps the core from the one that is waited for, and training
takes ten times as long. How to wait is read once, when the library loads, so it has to be chosen before PyTorch is imported.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

_LOADAVG = Path("/proc/loadavg")
_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what users set themselves


def choose_waiting(environment: MutableMapping[str, str] = os.environ, loadavg: Path = _LOADAVG) -> bool:
    """Have threads sleep while they wait if other programs are busy; returns whether.

    Call it before PyTorch is imported. A user's own settings win, and so does a machine that does not say how busy it is.
    """
    if any(name in environment for name in _OWN) or "torch" in sys.modules or not busy(loadavg):
        return False
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def busy(loadavg: Path = _LOADAVG) -> bool:
    """Whether another program than this one runs now, and did over the last minute. False on machines without /proc."""
    try:
        minute, _, _, running, _ = loadavg.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    return int(running.partition("/")[0]) > 1 and float(minute) > 0.5
