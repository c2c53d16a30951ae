"""What comes after labelling, at city size: cleaning, polygons, simplified polygons; and an area of interest against the whole.

python -m benchmarks.products [--side 20000] [--area-side 40000] [--folder /tmp]

Each step runs in a process of its own, of which processor seconds and peak memory are told: they do not change with what
else the machine does. Labelling with segnet_slim is measured on a small raster and multiplied. The map is made: smooth patches
of six classes with specks, of one tile of 2,000 x 2,000 pixels that is turned and mirrored. --side 0 and --area-side 0 leave
their part out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rasterio.transform import from_origin
from scipy import ndimage

import nets
from benchmarks import city
from benchmarks.measure import machine
from tools.geo import raster
from tools.geo.measures import Area, Length
from tools.geo.windows import row_windows
from tools.labels.palette import Palette
from tools.maps.uncleaned import Uncleaned
from tools.polygons.drawing import Drawing

REPO = Path(__file__).parent.parent
TILE, SMALL, WHOLE = 2000, 2048, 8000  # pixels
PLACE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 0.09, 0.09)}
PALETTE = Palette(list("abcdef"), {i: (40 * i, 0, 255 - 40 * i) for i in range(6)})
DRAWINGS = {
    "polygons": Drawing(Area.of("--polygons", "25px")),
    "simplified": Drawing(Area.of("--polygons", "25px"), Length.of("--simplify", "2px")),
}


def main():
    args = arguments()
    if args.step:
        return STEPS[args.step](Path(args.folder), args)
    print(f"{machine()}\n")
    print("| what | processor seconds | peak resident memory |\n|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        if args.area_side:
            compare_areas(folder, args.area_side)
        if not args.side:
            return
        print(f"| a map of {args.side} x {args.side} pixels | | |")
        measured("make", folder, args.side)  # a process starts with the peak memory of the one that starts it
        for step in ("clean", "polygons", "simplified"):
            print(line(step, *measured(step, folder, args.side)), flush=True)
        seconds, memory = label_small(folder)
        factor = args.side**2 / SMALL**2
        print(line(f"labelling with segnet_slim ({SMALL} x {SMALL}, times {factor:.1f})", seconds * factor, memory), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="pixels of the map")
    parser.add_argument("--area-side", type=int, default=40_000, help="pixels of the raster of which 1 %% is labelled")
    parser.add_argument("--folder", help="where the rasters go for a while (default: the system's temporary folder)")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


def line(what: str, seconds: float, memory: int) -> str:
    return f"| {what} | {seconds:,.0f} | {memory / 1e6:,.0f} MB |"


def make_map(folder: Path, args) -> None:
    """labels.tif and confidence.tif."""
    side = args.side
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=(6, TILE, TILE)), (0, 10, 10), mode="wrap")
    labels = smooth.argmax(0).astype(np.uint8)
    specks = rng.random(labels.shape) < 0.01
    labels[specks] = rng.integers(0, 6, specks.sum())
    turns = [np.rot90(labels, k) for k in range(4)] + [np.rot90(labels.T, k) for k in range(4)]
    with (
        raster.create(folder / "labels.tif", (1, side, side), np.uint8, nodata=255, **PLACE) as file,
        raster.create(folder / "confidence.tif", (1, side, side), np.uint8, nodata=255, **PLACE) as sure,
    ):
        for row in range(0, side, TILE):
            tiles = [turns[i] for i in rng.integers(0, len(turns), -(-side // TILE))]
            rows = np.concatenate(tiles, 1)[: side - row, :side]
            raster.write_rows(file, row, rows[None])
            raster.write_rows(sure, row, 60 + 5 * rows[None])


def clean_map(folder: Path, args) -> None:
    """As inference.py does: on disk as it comes, then once more."""
    about = raster.inspect(folder / "labels.tif")
    (folder / "cleaned").mkdir()
    held = Uncleaned(folder / "cleaned", about)
    with raster.open_raster(folder / "labels.tif") as file:
        for window in row_windows(about.height, about.width):
            labels = raster.read_window(file, window)[0]
            held.add(window, labels, np.full(labels.shape, 0.7, np.float32))
    with raster.create(folder / "cleaned.tif", (1, about.height, about.width), np.uint8, nodata=255, **PLACE) as file:
        for window, labels, _ in held.cleaned(25, 6):
            raster.write_rows(file, window.row, labels[None])
    held.close()


def draw(folder: Path, args) -> None:
    """The cleaned map as polygons."""
    drawn = DRAWINGS[args.step].write(folder / f"{args.step}.gpkg", folder / "cleaned.tif", folder / "confidence.tif", PALETTE)
    print(f"{drawn.count:,} polygons", file=sys.stderr)


STEPS = {"make": make_map, "clean": clean_map, "polygons": draw, "simplified": draw}


def measured(step: str, folder: Path, side: int) -> tuple[float, int]:
    return run("-m", "benchmarks.products", "--step", step, "--folder", folder, "--side", side)


def run(*words) -> tuple[float, int]:
    """(processor seconds, peak resident memory in bytes) of Python with these words."""
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def label_small(folder: Path) -> tuple[float, int]:
    """inference.py with segnet_slim on a small raster, less what it takes for a tiny one."""
    config, weights = city.prepare(folder, argparse.Namespace(window=128, step=64, memory=256, planes=4))
    from tools.weights import snapshots

    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    torch.manual_seed(1)
    snapshots.save_net(weights, net, snapshots.load_net(weights)[1] | {"name": "segnet_slim"})
    found = []
    for side in (SMALL, 128):
        image = folder / f"image_{side}.tif"
        raster.write(image, np.random.default_rng(1).integers(0, 256, (3, side, side), np.uint8), **PLACE)
        found.append(label(config, weights, image, folder / f"out_{side}"))
    return found[0][0] - found[1][0], found[0][1]


def label(config: Path, weights: Path, image: Path, out: Path, *more) -> tuple[float, int]:
    words = ["--config", config, "--weights", weights, "--images", image, "--dir", out, "--device", "cpu", *more]
    return run("inference.py", *words)


def compare_areas(folder: Path, side: int) -> None:
    """1 % of a large raster as one square, and the whole, of which a part is labelled and multiplied."""
    config, weights = city.prepare(folder, argparse.Namespace(window=512, step=512, memory=256, planes=4))
    images = {n: folder / f"city_{n}.tif" for n in (side, WHOLE, 128)}
    for n, image in images.items():
        city.make_city(image, n, n, **PLACE)
    left, top, tenth = 500_000 + 0.045 * side, 5_400_000 - 0.045 * side, 0.009 * side
    area = f"--area={left},{top - tenth},{left + tenth},{top}"
    part, memory = label(config, weights, images[side], folder / "part", area)
    print(line(f"1 % of {side} x {side} (segnet of 4 planes, windows of 512)", part, memory), flush=True)
    start, _ = label(config, weights, images[128], folder / "start")
    whole, memory = label(config, weights, images[WHOLE], folder / "whole")
    whole = start + (whole - start) * side**2 / WHOLE**2
    print(line(f"the whole of it, by {WHOLE} x {WHOLE} of it; 1 % costs {part / whole:.2%}", whole, memory), flush=True)


if __name__ == "__main__":
    main()
