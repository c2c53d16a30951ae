"""Labelling one tile against the plain way of doing it, and against the bare forward passes of as many windows.

python -m benchmarks.inference [--net segnet] [--size 2500 2000] [--steps 32 64] [--runs 3]
python -m benchmarks.inference --weights net_iter_1500.safetensors --image tile.tif --truth labels.tif --large 512
python -m benchmarks.inference --size 500 400 --steps 64 --runs 1    # in a minute or two

The plain way: fp32, one window at a time, float64 votes for the whole tile, added in numpy. Without --weights the net knows
nothing and hardly prefers any class, so that its labels change with the rounding; give weights to compare labels.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import nets
from benchmarks.measure import HEADER, in_turn, machine, row
from tools.compute import device
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.windows import sliding
from tools.inference.labeller import Labeller
from tools.inference.settings import InferenceSettings
from tools.inference.window_size import Windows, windows_for
from tools.labels import scores
from tools.weights import snapshots

CLASSES = 6


def main():
    args = arguments()
    net, inputs = trained(args.weights) if args.weights else untrained(args.net)
    where = device.choose(args.device)
    print(f"{machine()}; {args.weights or args.net}, {args.size[0]}x{args.size[1]} pixels, window {args.window}, {where}")
    with tempfile.TemporaryDirectory() as folder:
        tile, out = Path(folder, "tile.tif"), Path(folder, "labels.tif")
        raster.write(tile, made_image(args.image, inputs[0].channels, tuple(args.size)))
        for step in args.steps:
            compare(net, inputs, where, args, step, tile, out)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="segnet")
    parser.add_argument("--weights", help="a snapshot of a net that reads one raster, instead of --net with fresh weights")
    parser.add_argument("--image", help="an image that is repeated in mirror images; else noise")
    parser.add_argument("--truth", help="the label array of that image, to score both maps against")
    parser.add_argument("--size", type=int, nargs=2, default=[2500, 2000], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--large", type=int, help="also label with windows of so many pixels, as --window of inference.py does")
    parser.add_argument("--batch", type=int, help="windows that go through the net together (default: found)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device")
    return parser.parse_args()


def untrained(name: str):
    """(a net with fresh weights, its inputs)."""
    torch.manual_seed(1)
    return nets.build(name, {"irrg": 3}, CLASSES).eval(), [Input("irrg", ("irrg",), (3,), True, (80.0, 80.0, 120.0))]


def trained(weights: str):
    """(the net in a snapshot, its inputs)."""
    net, about = snapshots.load_net(weights)
    return net.eval(), [Input.from_dict(i) for i in about["inputs"]]


def made_image(path: str | None, bands: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise, or an image continued by its mirror images: bands x height x width."""
    if path is None:
        return np.random.default_rng(1).integers(0, 256, (bands, *shape), np.uint8)
    image = raster.read(path)
    more = [(0, 0), *((0, max(want - have, 0)) for want, have in zip(shape, image.shape[1:], strict=True))]
    return np.pad(image, more, mode="symmetric")[:, : shape[0], : shape[1]]


def compare(net, inputs, where, args, step: int, tile: Path, out: Path) -> None:
    """Print the times of all ways at one step, and what the maps are worth."""
    size, fused = (args.window, args.window), where.place(net.fuse()).eval()
    labeller = Labeller(fused, inputs, Windows(size, (step, step)), args.batch, where, blend="cosine")
    batch, image = labeller.forward.batch, raster.read(tile)
    count = len(list(sliding(*image.shape[1:], size, (step, step))))
    patches = torch.randn(batch, inputs[0].channels, *size, device=where.device).contiguous(memory_format=where.memory_format)
    found = {}

    def bare():
        with torch.inference_mode(), where.autocast():
            for start in range(0, count, batch):
                fused(patches[: count - start])

    def plain():
        found["the plain way"] = plain_labels(net, inputs[0], image, size, (step, step))

    def labelled(name: str, labeller: Labeller):
        with raster.create(out, (1, *image.shape[1:]), np.uint8) as file:
            for band in labeller.bands(dict.fromkeys(inputs[0].modalities, tile)):
                raster.write_rows(file, band.row, band.labels[None], band.col)
        found[name] = raster.read(out)[0]

    ways = {"the plain way": plain, "forward passes alone": bare, "tile to label map": partial(labelled, "ours", labeller)}
    if args.large:
        larger = windows_for(InferenceSettings(), fused, args.large)
        ways["the same by larger windows"] = partial(labelled, "larger windows", replace(labeller, windows=larger))
    times = dict(zip(ways, in_turn(*ways.values(), runs=args.runs), strict=True))
    print(f"\nstep {step}: {count} windows, {batch} in a batch\n\n{HEADER}")
    pixels = image[0].size / 1e3
    for name, seconds in times.items():
        print(row(name, seconds, None if name == "the plain way" else times["the plain way"], pixels, "thousand pixels/s"))
    over = np.median([b / a - 1 for a, b in zip(times["forward passes alone"], times["tile to label map"], strict=True)])
    print(f"\nThe map takes {over:.1%} more than the passes alone.")
    print_worth(found, args.truth and made_image(args.truth, 1, image.shape[1:])[0], net.classes)


def print_worth(found: dict[str, np.ndarray], truth: np.ndarray | None, classes: int) -> None:
    """How many labels are those of the plain way, and how many are right."""
    for name, labels in found.items():
        equal = f"{(labels == found['the plain way']).mean():.2%} of its labels are those of the plain way"
        if truth is not None:
            report = scores.report(scores.confusion(truth, labels, classes), [str(i) for i in range(classes)], [])
            equal += f"; accuracy {report['overall_accuracy']:.2%}, mean IoU {report['mean_iou']:.2%}"
        print(f"{name}: {equal}.")


def plain_labels(net, spec: Input, image: np.ndarray, size, step) -> np.ndarray:
    """Labels (h x w), in the way that is first thought of."""
    pixels = spec.stack(dict.fromkeys(spec.modalities, image))
    votes = np.zeros((*image.shape[1:], net.classes))
    with torch.no_grad():
        for window in sliding(*image.shape[1:], size, step):
            rows, cols = window.slices
            patch = spec.normalise(torch.from_numpy(np.ascontiguousarray(pixels[None, :, rows, cols])))
            votes[rows, cols] += net(patch)[0].softmax(0).numpy().transpose(1, 2, 0)
    return votes.argmax(2).astype(np.uint8)


if __name__ == "__main__":
    main()
