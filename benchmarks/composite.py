"""A composite with estimated terrain against one with the terrain given, and terrain by cells against every pixel as a cell.

python -m benchmarks.composite [--size 6000] [--pixel 0.09] [--part 2000] [--runs 3]

Memory is the most that the command held, which does one tile without further processes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from benchmarks.measure import HEADER, in_turn, machine, row
from tools.composite.terrain import GroundFilter, Terrain
from tools.geo import raster
from tools.geo.windows import Window

COMMAND = """
import re, sys
from tools import composite
composite.main()
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # Linux: the most that this process held, kB
"""


def main():
    args = arguments()
    pixel = (args.pixel, args.pixel)
    with tempfile.TemporaryDirectory() as name:
        heights = made_files(Path(name), args.size, args.pixel)
        given, estimated = in_turn(
            lambda: composite(name, "--terrain", f"{name}/flat.tif"), lambda: composite(name), runs=args.runs
        )
        peak = composite(name) / 1000
    part = heights[: args.part, : args.part]
    finest = GroundFilter(cell_metres=args.pixel)
    plain, cells = in_turn(lambda: estimate(part, pixel, finest), lambda: estimate(part, pixel), runs=args.runs)
    print(f"{machine()}; {args.size}x{args.size} pixels of {args.pixel} m; megapixels/s\n\n{HEADER}")
    for what, times, base, pixels in (
        ("composite, terrain given", given, None, heights.size),
        ("composite, terrain estimated", estimated, given, heights.size),
        (f"terrain of {args.part}x{args.part}, every pixel a cell", plain, None, part.size),
        (f"terrain of {args.part}x{args.part}, cells of 0.5 m", cells, plain, part.size),
    ):
        print(row(what, times, base, pixels / 1e6, "MP/s"))
    print(f"\npeak memory with the terrain estimated: {peak:.0f} MB")


def estimate(dsm: np.ndarray, pixel: tuple[float, float], ground: GroundFilter | None = None) -> None:
    """Estimate the terrain under a surface model, block by block."""
    terrain = Terrain(lambda w: dsm[w.slices], Window(0, 0, *dsm.shape), pixel, ground or GroundFilter())
    for core in terrain.blocks():
        terrain.block(core).at(core)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=6000, help="of the tile, pixels")
    parser.add_argument("--pixel", type=float, default=0.09, help="metres")
    parser.add_argument("--part", type=int, default=2000, help="of the tile for the second comparison, pixels")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def made_files(folder: Path, size: int, pixel: float) -> np.ndarray:
    """An image, a DSM and a flat terrain; the heights of the DSM come back: hills, noise and boxes of all sizes."""
    random = np.random.default_rng(1)
    place = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, pixel, pixel)}
    metres = np.arange(size, dtype=np.float32) * pixel
    heights = 200 + 8 * np.sin(metres / 150) + 6 * np.cos(metres / 210)[:, None]
    heights += random.standard_normal(heights.shape, np.float32) * np.float32(0.04)
    for _ in range(min(int((size * pixel) ** 2 / 600), 50_000)):
        row, col = random.integers(0, size, 2)
        tall, wide = (random.uniform(6, 25, 2) / pixel).astype(int) + 1
        heights[row : row + tall, col : col + wide] += np.float32(random.uniform(3, 12))
    raster.write(folder / "dsm.tif", heights, **place)
    raster.write(folder / "flat.tif", np.full_like(heights, 195), **place)
    raster.write(folder / "image.tif", random.integers(0, 256, (3, size, size), np.uint8), **place)
    return heights


def composite(folder: str, *more: str) -> int:
    """Run the command on the made files; the most memory that it held comes back, kB."""
    files = ["--image", f"{folder}/image.tif", "--dsm", f"{folder}/dsm.tif", "--out", f"{folder}/out", *more]
    words = [*files, "--bands", "ir=1,red=2", "--ids", "1", "--overwrite"]
    where = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = subprocess.run([sys.executable, "-c", COMMAND, *words], env=where, check=True, capture_output=True, text=True)
    return int(ran.stdout.split()[-1])


if __name__ == "__main__":
    main()
