"""Training alone and beside busy programs, by how threads wait for each other: seconds, and the share of a fair share.

    python -m benchmarks.load --config config.py --niter 60 --runs 3

Needs the databases of the config (make demo). "as it is": what training.py chooses itself (tools/compute/waiting.py). A fair
share: two threads beside as many busy programs as there are cores get half of the machine, so twice the time is fair.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import machine
from tools.compute.waiting import SHORT_SPIN

WAYS: dict[str, Mapping[str, str]] = {  # what is set in the environment
    "as it is": {},
    "spinning as GNU has it": {"GOMP_SPINCOUNT": "300000"},
    "short spins": {"GOMP_SPINCOUNT": SHORT_SPIN},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def main():
    args = arguments()
    cores = os.cpu_count() or 1
    others = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    alone = seconds(args)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        time.sleep(60)  # until the load average knows
        loaded = seconds(args)
    finally:
        for process in busy:
            process.kill()
    fair = 2 * min(alone.values())
    print(f"{machine()}; training.py --niter {args.niter}, beside {cores} busy programs; medians of {args.runs}, in turn;")
    print(f"load average before: {others}\n")
    print("| threads wait | alone, s | beside them, s | of the fair share |\n|---|---|---|---|")
    for name in WAYS:
        print(f"| {name} | {alone[name]:.1f} | {loaded[name]:.1f} | {fair / loaded[name]:.0%} |")


def seconds(args: argparse.Namespace) -> dict[str, float]:
    """The median time of a training by how threads wait, start-up included; run A B C A B C ..., so that a drift hits all."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.runs):
        for name, way in WAYS.items():
            times[name].append(one(args, way))
    return {name: statistics.median(found) for name, found in times.items()}


def one(args: argparse.Namespace, way: Mapping[str, str]) -> float:
    """The time of one training."""
    environment = {k: v for k, v in os.environ.items() if k not in OWN} | way
    with tempfile.TemporaryDirectory() as folder:
        words = ["--niter", str(args.niter), "--snapshot", folder, "--overwrite", "--config", args.config]
        start = time.monotonic()
        subprocess.run([sys.executable, "training.py", *words], env=environment, check=True, capture_output=True)
        return time.monotonic() - start


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config.py")
    parser.add_argument("--niter", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
