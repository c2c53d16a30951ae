"""What the benchmarks share: the machine's name, medians of several runs in turn, tables."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def machine() -> str:
    """The processor (or GPU), its cores and the PyTorch in use."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time (or what else the clock counts) of one call, with the GPU's work finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def in_turn(*works: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> list[list[float]]:
    """Seconds of each work, run A B A B ... after one warm-up each, so that a drift of the machine hits all alike."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, found in zip(works, times, strict=True):
            found.append(seconds(work, clock))
    return times


def row(name: str, times: list[float], base: list[float] | None = None, count: float | None = None, unit: str = "") -> str:
    """A line of a Markdown table: name, median seconds (lowest to highest), rate, median ratio base / times run by run."""
    median = statistics.median(times)
    rate = f"{count / median:,.1f} {unit}" if count else ""
    ratio = f"{statistics.median(b / t for b, t in zip(base, times, strict=True)):.3f}" if base else ""
    return f"| {name} | {median:.3f} ({min(times):.3f} to {max(times):.3f}) | {rate} | {ratio} |"


HEADER = "| what | median seconds (range) | rate | times faster |\n|---|---|---|---|"
