"""How much memory inference.py takes for rasters of one width and several heights: noise, and a net of few planes.

python -m benchmarks.city [--width 40000] [--heights 4000 8000] [--window 512] [--step 512] [--planes 4]

The full size is --heights 40000 80000. Most of the raster is empty, which compresses to almost nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import nets
from benchmarks.measure import machine
from tools.geo import raster
from tools.settings import read_settings
from tools.weights import snapshots

REPO = Path(__file__).parent.parent
BLOCK = 512  # pixels


def main():
    args = arguments()
    print(f"{machine()}; segnet of {args.planes} planes, window {args.window}, step {args.step}, MEMORY_MB {args.memory}\n")
    print("| raster | peak resident memory | seconds | megapixels/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        config, weights = prepare(Path(name), args)
        for height in args.heights:
            city = Path(name, f"city_{height}.tif")
            make_city(city, height, args.width)
            peak, seconds = label(city, config, weights, Path(name, f"maps_{height}"))
            rate = height * args.width / 1e6 / seconds
            print(f"| {args.width} x {height} | {peak / 1e6:,.0f} MB | {seconds:.0f} | {rate:.2f} |", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=40_000, help="pixels")
    parser.add_argument("--heights", type=int, nargs="+", default=[4_000, 8_000], help="pixels")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--step", type=int, default=512)
    parser.add_argument("--memory", type=int, default=256, help="MEMORY_MB")
    parser.add_argument("--planes", type=int, default=4, help="of each layer of the net")
    parser.add_argument("--folder", help="where the rasters go for a while (default: the system's temporary folder)")
    return parser.parse_args()


def prepare(folder: Path, args) -> tuple[Path, Path]:
    """A config for the demo's classes, and weights that fit it."""
    config, weights = folder / "config.py", folder / "net_iter_1.safetensors"
    changes = {"DATASET": "demo", "test_patch_size": (args.window,) * 2, "test_step_size": (args.step,) * 2}
    changes |= {"MEMORY_MB": args.memory, "TEST_BATCH_SIZE": None}
    given = (REPO / "config.py").read_text(encoding="utf-8")
    config.write_text(given + "".join(f"\n{name} = {value!r}" for name, value in changes.items()), encoding="utf-8")
    settings = read_settings(config)
    torch.manual_seed(1)
    net = nets.build("segnet", {"irrg": 3}, len(settings.classes.label_values), planes=(args.planes,) * 5)
    spec = {"name": "irrg", "modalities": ["irrg"], "bands": [3], "bgr": True, "mean": [127.0] * 3}
    snapshots.save_net(weights, net, {"name": "segnet", "iteration": 1, **settings.about(), "inputs": [spec]})
    return config, weights


def make_city(path: Path, height: int, width: int, **place) -> None:
    """Rows of noise blocks, every second one empty, which a sparse file does not store."""
    noise = np.random.default_rng(1).integers(0, 256, (3, BLOCK, BLOCK), np.uint8)
    with raster.create(path, (3, height, width), np.uint8, **place) as file:
        for row in range(0, height, 2 * BLOCK):
            for col in range(0, width, 16 * BLOCK):
                raster.write_rows(file, row, noise[:, : height - row, : width - col], col)


def label(city: Path, config: Path, weights: Path, out: Path) -> tuple[int, float]:
    """(most resident memory in bytes, seconds) of inference.py."""
    words = ["--config", config, "--weights", weights, "--images", city, "--dir", out, "--device", "cpu"]
    start = time.perf_counter()
    command = [sys.executable, str(REPO / "inference.py"), *map(str, words)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"inference.py ended with exit code {process.returncode}")
    return used.ru_maxrss * 1024, time.perf_counter() - start


if __name__ == "__main__":
    main()
