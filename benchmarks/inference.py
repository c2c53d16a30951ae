"""Labelling one tile against the bare forward passes of as many windows: what reading, stitching and writing cost.

python -m benchmarks.inference [--net segnet] [--size 2500 2000] [--window 128] [--step 64] [--runs 3]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import nets
from benchmarks.measure import HEADER, in_turn, machine, row
from tools import device, raster
from tools.inputs import Input
from tools.tiles import Labeller
from tools.windows import sliding

CLASSES = 6


def main():
    args = arguments()
    where = device.choose(args.device)
    inputs = [Input("irrg", ("irrg",), (3,), True, (80.0, 80.0, 120.0))]
    net = where.place(nets.build(args.net, {"irrg": 3}, CLASSES)).eval()
    window, step = (args.window, args.window), (args.step, args.step)
    labeller = Labeller(net, inputs, window, step, args.batch, where)
    count = len(sliding(*args.size, window, step))
    with tempfile.TemporaryDirectory() as folder:
        tile, out = Path(folder, "tile.tif"), Path(folder, "labels.tif")
        raster.write(tile, np.random.default_rng(1).integers(0, 256, (3, *args.size), np.uint8))
        images = torch.randn(args.batch, 3, *window, device=where.device).contiguous(memory_format=where.memory_format)

        def bare():
            with torch.inference_mode(), where.autocast():
                for start in range(0, count, args.batch):
                    net(images[: count - start])

        def whole():
            raster.write(out, labeller.labels({"irrg": tile}))

        passes, labelled = in_turn(bare, whole, runs=args.runs)
    height, width = args.size
    print(f"{machine()}; {args.net}, {height}x{width} pixels, window {args.window}, step {args.step}, {count} windows\n")
    print(HEADER)
    print(row("forward passes alone", passes, None, count, "windows/s"))
    print(row("tile to label map", labelled, passes, count, "windows/s"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="segnet")
    parser.add_argument("--size", type=int, nargs=2, default=[2500, 2000], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(1)
    main()
