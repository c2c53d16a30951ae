"""How long the doors take: --help of each script, the list of nets, and labelling one small picture.

    python -m benchmarks.startup
    python -m benchmarks.startup --weights net_iter_800.safetensors --image data/demo/top/top_mosaic_09cm_area32.tif

Seconds of processor time (all threads) and of the clock, the least of several runs.
"""

import argparse
import os
import sys
import tempfile
import time

from benchmarks.measure import machine

SCRIPTS = ("convert_gt.py", "extract_images.py", "create_db.py", "training.py", "inference.py")


def main():
    args = arguments()
    commands = {f"{script} --help": [script, "--help"] for script in SCRIPTS} | {"-m nets": ["-m", "nets"]}
    if args.weights:
        commands["a picture"] = ["inference.py", "--images", args.image, "--weights", args.weights, "--overwrite", "--dir"]
    print(f"{machine()}\n\n| python ... | processor, s | clock, s |\n|---|---|---|")
    for name, words in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [measured([*words, f"{folder}/maps"] if words[-1] == "--dir" else words) for _ in range(args.runs)]
        processor, clock = map(min, zip(*runs, strict=True))
        print(f"| {name} | {processor:.2f} | {clock:.2f} |")


def measured(words: list[str]) -> tuple[float, float]:
    """Processor seconds and clock seconds of one run of Python."""
    start = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *words], os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)
    ])  # fmt: skip
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--image")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
