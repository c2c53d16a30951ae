"""What share of the machine's peak the nets reach, learning and labelling.

    python -m benchmarks.peak --nets segnet unet_light/efficientnet_lite0 smp:Unet/resnet34 --runs 3

The peak is a product of two large matrices in the precision that the device computes nets in, measured in turn with them. A
step learns from a batch in memory, as training.py does; labelling is the forward pass of windows, as inference.py makes it,
batch norms folded. Additions and multiplications are those of torch.utils.flop_counter, so that what it does not count (batch
norm, activations, upsampling, copies) lowers the share. --processor-time, with --threads 1, where other work makes wall time
worthless.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import torch

import nets
from benchmarks.measure import in_turn, machine
from benchmarks.training import CLASSES, INPUTS, PRODUCT, flops_forward, flops_of_a_step, make_trainer, product, steps
from tools.compute import device
from tools.inference.forward import Forward

NETS = ["segnet", "segnet_slim", "unet_light/efficientnet_lite0", "smp:Unet/resnet34", "smp:Unet/tu-tf_efficientnet_lite0"]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    where = device.choose(None)
    clock = time.process_time if args.processor_time else time.perf_counter
    works, flops = {}, {}
    for name in args.nets:
        options = SimpleNamespace(net=name, batch=args.batch, patch=args.patch, iterations=1)
        images = torch.randint(0, 256, (args.batch, 3, args.patch, args.patch)).byte()
        labels = torch.randint(0, CLASSES, (args.batch, args.patch, args.patch)).byte()
        works[name, "learning"] = steps(make_trainer(options, where), options, ([images], labels))
        flops[name, "learning"] = flops_of_a_step(options, images)
        works[name, "labelling"], flops[name, "labelling"] = labelling(name, args.window, where)
    *times, products = in_turn(*works.values(), product(where), runs=args.runs, clock=clock)
    peak = PRODUCT / statistics.median(products)
    print(
        f"{machine()}, {where}; {args.batch} patches of {args.patch}x{args.patch}, a window of {args.window}x{args.window};"
        f" {'processor' if args.processor_time else 'wall'} time; peak {peak / 1e12:.3f} TFLOP/s\n"
    )
    print("| net | learning: GFLOP | seconds | share of the peak | labelling: GFLOP | seconds | share of the peak |")
    print("|" + "---|" * 7)
    seconds = {what: statistics.median(found) for what, found in zip(works, times, strict=True)}
    for name in args.nets:
        cells = []
        for what in ((name, "learning"), (name, "labelling")):
            cells += [f"{flops[what] / 1e9:,.1f}", f"{seconds[what]:.3f}", f"{flops[what] / seconds[what] / peak:.0%}"]
        print(f"| `{name}` | {' | '.join(cells)} |")


def labelling(name: str, side: int, where: device.Device):
    """A call that labels one window, and its additions and multiplications."""
    torch.manual_seed(1)
    net = where.place(nets.build(name, {"irrg": 3}, CLASSES).eval().fuse().eval())
    forward, pixels = Forward(net, INPUTS, where, 1, (side, side)), torch.randint(0, 256, (1, 3, side, side)).byte()

    def work():
        with torch.inference_mode(), where.autocast():
            forward([pixels])

    return work, flops_forward(name, (1, 3, side, side))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=NETS, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--window", type=int, default=512, help="pixels, its side")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
