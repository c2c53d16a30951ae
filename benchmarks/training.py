"""The training loop with its loader against the same step on a batch in memory; and that step against a plain fp32 loop.

python -m benchmarks.training [--net segnet_slim] [--batch 10] [--patch 128] [--iterations 40] [--runs 5] [--threads 2]
python -m benchmarks.training --plain --net segnet --iterations 2 [--compile]
python -m benchmarks.training --frozen efficientnet_lite0 --net smp:Unet/tu-tf_efficientnet_lite0 --batch 8 --iterations 5

--frozen: the step whose layers with those initial weights stand still (FREEZE_ITERATIONS), against the step that learns all.

The plain loop has the same net and optimizer, written as PyTorch's tutorials do. The share of the peak is that of a product of
two large matrices in the precision of the step, measured in the same run; additions and multiplications by
torch.utils.flop_counter.
"""

import argparse
import statistics
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import nets
from benchmarks.measure import HEADER, in_turn, machine, row
from tools.compute import compilation, device, options
from tools.data.database import pack
from tools.data.inputs import Input
from tools.data.loader import BatchOrder, Patches, batches, workers_for
from tools.data.patches import write_patch
from tools.solver.solver import Solver
from tools.training.pretrained import initialise
from tools.training.trainer import Trainer

CLASSES, IGNORED = 6, 5
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
INPUTS = [Input("irrg", ("irrg",), (3,), True, (80.0, 80.0, 120.0))]
MATRIX = 4096  # rows and columns of the matrices that the peak is measured with
PRODUCT = 2 * MATRIX**3  # their additions and multiplications


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    where = device.choose(args.device, args.precision)
    print(f"{machine()}, {where}; {args.net}, batch {args.batch} of {args.patch}x{args.patch}\n")
    (against_plain if args.plain else frozen if args.frozen else with_loader)(args, where)


def with_loader(args, where: device.Device) -> None:
    """The loop against the step alone."""
    with tempfile.TemporaryDirectory() as folder:
        patches = made_patches(Path(folder), args)
        trainer = make_trainer(args, where, args.compile)
        workers = workers_for(where.device, None) if args.workers is None else args.workers
        feed = batches(patches, BatchOrder(len(patches), args.batch, 1), workers, where.device.type == "cuda")
        memory = steps(trainer, args, next(feed))

        def database():
            for batch in islice(feed, args.iterations):
                trainer.step(*batch)
            trainer.fetch_losses()

        times = in_turn(memory, database, runs=args.runs)
    count = args.iterations * args.batch
    print(HEADER)
    print(row("step on a batch in memory", times[0], None, count, "images/s"))
    print(row(f"loop with loader ({workers} processes)", times[1], times[0], count, "images/s"))


def against_plain(args, where: device.Device) -> None:
    """Our step, on a batch in memory, against a plain loop in fp32, with the share of the peak."""
    random = np.random.default_rng(1)
    images = torch.from_numpy(random.integers(0, 256, (args.batch, 3, args.patch, args.patch), np.uint8))
    labels = torch.from_numpy(random.integers(0, CLASSES, (args.batch, args.patch, args.patch), np.uint8))
    works = {"plain PyTorch, fp32": plain(args, where, images, labels)}
    works["our step"] = steps(make_trainer(args, where), args, ([images], labels))
    if args.compile:
        works["our step, compiled"] = steps(make_trainer(args, where, True), args, ([images], labels))
    works["product of two matrices"] = product(where)
    times = in_turn(*works.values(), runs=args.runs)
    count = args.iterations * args.batch
    print(HEADER)
    for name, found in list(zip(works, times, strict=True))[:-1]:
        print(row(name, found, times[0], count, "images/s"))
    peak = PRODUCT / statistics.median(times[-1])
    flops = flops_of_a_step(args, images) * args.iterations
    print(f"\npeak, measured: {peak / 1e12:.2f} TFLOP/s; a step takes {flops / args.iterations / 1e9:,.0f} GFLOP\n")
    print("| what | TFLOP/s | share of the peak |\n|---|---|---|")
    for name, found in list(zip(works, times, strict=True))[:-1]:
        rate = flops / statistics.median(found)
        print(f"| {name} | {rate / 1e12:.3f} | {100 * rate / peak:.1f} % |")


def product(where: device.Device):
    """A call that multiplies two large matrices in the precision in which the device computes a net."""
    kind = torch.bfloat16 if where.bf16 else torch.float32
    matrix = torch.randn(MATRIX, MATRIX, dtype=kind, device=where.device)
    return lambda: matrix @ matrix


def frozen(args, where: device.Device) -> None:
    """The step of a net whose pretrained layers stand still, against the same in which they learn."""
    random = np.random.default_rng(1)
    images = torch.from_numpy(random.integers(0, 256, (args.batch, 3, args.patch, args.patch), np.uint8))
    labels = torch.from_numpy(random.integers(0, CLASSES, (args.batch, args.patch, args.patch), np.uint8))
    works = []
    for iterations in (0, None):
        torch.manual_seed(1)
        net = nets.build(args.net, {"irrg": 3}, CLASSES)
        loaded = initialise(net, args.frozen, INPUTS).loaded
        net = where.place(net)
        solver = Solver(net, 0.01, {"name": "fixed"}, SGD, loaded, freeze_iterations=iterations)
        works.append(steps(Trainer(net, solver, INPUTS, [IGNORED], where), args, ([images], labels)))
    learning, still = in_turn(*works, runs=args.runs)
    print(HEADER)
    print(row("all layers learn", learning, None, args.iterations * args.batch, "images/s"))
    print(row(f"the layers of {args.frozen} stand still", still, learning, args.iterations * args.batch, "images/s"))


def make_trainer(args, where: device.Device, compiled: bool = False) -> Trainer:
    """The net as training.py trains it."""
    torch.manual_seed(1)
    net = where.place(nets.build(args.net, {"irrg": 3}, CLASSES))
    solver = Solver(net, 0.01, {"name": "fixed"}, SGD)
    forward = compilation.compiled(net, where.device) if compiled else None
    return Trainer(net, solver, INPUTS, [IGNORED], where, forward=forward)


def steps(trainer: Trainer, args, batch):
    """A call that trains on one batch some times."""

    def work():
        for _ in range(args.iterations):
            trainer.step(*batch)
        trainer.fetch_losses()

    return work


def plain(args, where: device.Device, images: torch.Tensor, labels: torch.Tensor):
    """The same in fp32, with PyTorch's own optimizer, and nothing else."""
    torch.manual_seed(1)
    net = nets.build(args.net, {"irrg": 3}, CLASSES).to(where.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images, labels = images.to(where.device).float() - 93, labels.to(where.device).long()

    def work():
        for _ in range(args.iterations):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels, ignore_index=IGNORED)
            loss.backward()
            optimizer.step()
        loss.item()

    return work


def flops_of_a_step(args, images: torch.Tensor) -> int:
    """Additions and multiplications of a forward and backward pass: three times those of a forward pass.

    Backward there is one product for the pixels and one for the weights, each as large as the one forward. (PyTorch's counter,
    asked for the backward pass, takes convolutions in groups for whole ones: 7 times too many for the light U-Net.)
    """
    return 3 * flops_forward(args.net, images.shape)


def flops_forward(name: str, shape: tuple[int, ...]) -> int:
    """Additions and multiplications of a forward pass of images of this shape (N x 3 x H x W), without computing it."""
    with torch.device("meta"):
        net = nets.build(name, {"irrg": 3}, CLASSES).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.empty(shape, device="meta"))
    return counter.get_total_flops()


def made_patches(folder: Path, args) -> Patches:
    """A database of noise, large enough that a run does not see the same batch twice."""
    random = np.random.default_rng(1)
    for name, bands, top in (("irrg", 3, 256), ("labels", 1, CLASSES)):
        files = []
        (folder / name).mkdir()
        for i in range(500):
            files.append(folder / name / f"{i}.png")
            write_patch(files[-1], random.integers(0, top, (bands, args.patch, args.patch), np.uint8))
        pack(folder / f"{name}_train", files, True, name)
    (folder / "train.txt").write_text("".join(f"{file.stem}\n" for file in files))
    return Patches(folder, "train", INPUTS)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="segnet_slim")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=40, help="in one run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--plain", action="store_true", help="the step against a plain loop, instead of loop against step")
    parser.add_argument("--frozen", metavar="WEIGHTS", help="the step with these initial weights, frozen and not")
    parser.add_argument("--compile", action="store_true", help="the step compiled, too")
    options.add_precision(parser)
    parser.add_argument("--device")
    return parser.parse_args()


if __name__ == "__main__":
    main()
