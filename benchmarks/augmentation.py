"""What augmentation costs: microseconds a sample for each operation and for a whole recipe, beside reading it, and the loader.

python -m benchmarks.augmentation [--patch 128] [--workers 0 1 2] [--runs 7]
"""

import argparse
import importlib
import statistics
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import in_turn, machine
from benchmarks.training import CLASSES, INPUTS, made_patches
from tools.base.choices import REQUIRED
from tools.compute.torchvision_guard import torchvision
from tools.data.augmentation import Augmentation, bands_of
from tools.data.loader import BatchOrder, Patches, batches
from tools.data.operations import OPERATIONS, read_recipe

SAMPLES = 200  # in one run
CERTAIN = {"probability": 1}
TONED = {"modalities": ["irrg"]}
RECIPE = {"flip": {}, "turn": {}, "scale": {}, "rotate": {"degrees": 15}}
RECIPE |= {"brightness": TONED, "contrast": TONED, "gamma": TONED, "noise": TONED}


def main():
    args = arguments()
    about = {"mean": [80.0] * 3, "deviation": [50.0] * 3, "low": [5.0] * 3, "high": [200.0] * 3}
    bands = bands_of({"irrg": about}, INPUTS)
    with tempfile.TemporaryDirectory() as folder:
        patches = made_patches(Path(folder), args)

        def ready(recipe) -> Augmentation:
            return Augmentation(read_recipe(recipe, ["irrg"], (args.patch, args.patch)), bands, CLASSES, 1)

        print(f"{machine()}; samples of 3 x {args.patch} x {args.patch} bytes\n")
        operations(patches, {name: ready(recipe) for name, recipe in recipes(args.patch).items()}, args.runs)
        for workers in args.workers:
            loader(patches, ready(RECIPE), workers, args.runs)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="of the loader")
    parser.add_argument("--runs", type=int, default=7)
    return parser.parse_args()


def recipes(patch: int) -> dict[str, dict]:
    """Each operation alone, happening to every sample, and the whole recipe as it is."""
    given = {"crop": {"height": patch // 2, "width": patch // 2}, "rotate": {"degrees": 45}}
    found = {}
    for name, numbers in OPERATIONS.items():
        certain = CERTAIN if "probability" in numbers else {}
        toned = TONED if numbers.get("modalities") is REQUIRED else {}
        if name not in ("rare", "dropout"):  # one happens before the samples, the other fills an array
            found[name] = {name: given.get(name, {}) | certain | toned}
    return found | {"scale and rotate": found["scale"] | found["rotate"], "the recipe": RECIPE}


def operations(patches: Patches, augmentations: dict[str, Augmentation], runs: int) -> None:
    """Times of pixels that are in memory; mixing takes other records from there, too."""
    pixels = [patches.read(i) for i in range(50)]

    def augmented(augmentation: Augmentation) -> None:
        for position in range(SAMPLES):
            patches.stack(*augmentation(pixels.__getitem__, len(pixels), position % len(pixels), position))

    works = {"reading from the database": lambda: [patches.read(i) for i in range(SAMPLES)]}
    works["as a tensor, nothing done"] = lambda: [patches.stack(*pixels[i % len(pixels)]) for i in range(SAMPLES)]
    works |= {f"as a tensor, {name}": lambda a=a: augmented(a) for name, a in augmentations.items()}
    works |= theirs(pixels[0][0]["irrg"])
    print("| one process | microseconds a sample, median (range) |\n|---|---|")
    for name, times in zip(works, in_turn(*works.values(), runs=runs), strict=True):
        each = [1e6 * t / SAMPLES for t in times]
        print(f"| {name} | {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}) |")


def theirs(image: np.ndarray) -> dict:
    """The like of it in torchvision, for the image alone and without its random choices."""
    functional = importlib.import_module(f"{torchvision.__name__}.transforms.v2.functional")
    pixels, mode = torch.from_numpy(np.ascontiguousarray(image)), functional.InterpolationMode.BILINEAR
    calls = {
        "affine": lambda: functional.affine(pixels, 20.0, [0, 0], 1.1, [0.0, 0.0], interpolation=mode),
        "gaussian_blur": lambda: functional.gaussian_blur(pixels, [5, 5], [0.5, 0.5]),
        "gaussian_noise": lambda: functional.gaussian_noise(pixels.float() / 255),
        "adjust_gamma": lambda: functional.adjust_gamma(pixels, 1.2),
    }
    return {f"torchvision's {n}": lambda call=c: [call() for _ in range(SAMPLES)] for n, c in calls.items()}


def loader(patches: Patches, augmentation: Augmentation, workers: int, runs: int) -> None:
    """Samples a second that reach the training process."""
    rates = []
    feeds = [batches(patches, BatchOrder(len(patches), 10, 1), workers, False, a) for a in (None, augmentation)]
    for times in in_turn(*(lambda feed=feed: list(islice(feed, SAMPLES // 10)) for feed in feeds), runs=runs):
        rates.append(SAMPLES / statistics.median(times))
    who = f"{workers} process(es)" if workers else "the training process itself"
    print(f"\nloader, {who}: {rates[0]:,.0f} samples/s plain, {rates[1]:,.0f} samples/s with the recipe")


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in each of a loader's processes
    main()
