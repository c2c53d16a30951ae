"""The training loop with its loader against the same step on a batch that is in memory already.

python -m benchmarks.training [--net segnet_slim] [--batch 10] [--patch 128] [--iterations 40] [--runs 5]
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import nets
from benchmarks.measure import HEADER, in_turn, machine, row
from tools import device
from tools.database import pack
from tools.inputs import Input
from tools.loader import BatchOrder, Patches, batches
from tools.patches import write_patch
from tools.solver import Solver
from tools.trainer import Trainer

CLASSES = 6


def main():
    args = arguments()
    where = device.choose(args.device)
    inputs = [Input("irrg", ("irrg",), (3,), True, (80.0, 80.0, 120.0))]
    with tempfile.TemporaryDirectory() as folder:
        patches = made_patches(Path(folder), inputs, args)
        net = where.place(nets.build(args.net, {"irrg": 3}, CLASSES))
        solver = Solver(net, 0.01, {"name": "fixed"}, {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4})
        trainer = Trainer(net, solver, inputs, [5], where)
        feed = batches(patches, BatchOrder(len(patches), args.batch, 1), args.workers, where.device.type == "cuda")
        images, labels = next(feed)

        def from_database():
            for batch in islice(feed, args.iterations):
                trainer.step(*batch)
            trainer.fetch_losses()

        def from_memory():
            for _ in range(args.iterations):
                trainer.step(images, labels)
            trainer.fetch_losses()

        memory, database = in_turn(from_memory, from_database, runs=args.runs)
    count = args.iterations * args.batch
    print(f"{machine()}; {args.net}, batch {args.batch} of {args.patch}x{args.patch}, {args.workers} loader process(es)\n")
    print(HEADER)
    print(row("step on a batch in memory", memory, None, count, "images/s"))
    print(row("loop with loader", database, memory, count, "images/s"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="segnet_slim")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=40, help="in one run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device")
    return parser.parse_args()


def made_patches(folder: Path, inputs: list[Input], args) -> Patches:
    """A database of noise, large enough that a run does not see the same batch twice."""
    random = np.random.default_rng(1)
    for name, bands, top in (("irrg", 3, 256), ("labels", 1, CLASSES)):
        files = []
        (folder / name).mkdir()
        for i in range(500):
            files.append(folder / name / f"{i}.png")
            write_patch(files[-1], random.integers(0, top, (bands, args.patch, args.patch), np.uint8))
        pack(folder / f"{name}_train", files, True, name)
    return Patches(folder, "train", inputs)


if __name__ == "__main__":
    torch.manual_seed(1)
    main()
