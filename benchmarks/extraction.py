"""Cutting and packing patches against the plain way: every patch in one list, one process, default PNG, one LMDB put each.

python -m benchmarks.extraction [--tiles 4] [--size 1024] [--patch 128] [--step 64] [--runs 3]
"""

import argparse
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.measure import HEADER, in_turn, machine, row
from tools.data.database import encode, pack
from tools.data.patches import Cutting, write_patch
from tools.geo import raster


def main():
    args = arguments()
    cutting = Cutting((args.patch, args.patch), (args.step, args.step))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiles = [made_tile(folder / f"tile{i}.tif", i, args.size) for i in range(args.tiles)]
        count = len(tiles) * cutting.count(args.size, args.size)

        def clean(step: str):
            shutil.rmtree(folder / step, ignore_errors=True)
            (folder / step).mkdir()

        def cut_plainly():
            clean("plain")
            patches = [p for tile in tiles for _, p in cutting.patches(raster.read(tile))]
            for i, patch in enumerate(patches):
                Image.fromarray(np.ascontiguousarray(patch.transpose(1, 2, 0))).save(folder / "plain" / f"{i}.png")

        def cut():
            clean("ours")
            with ProcessPoolExecutor() as pool:
                list(pool.map(partial(cut_tile, cutting, folder / "ours"), tiles))

        def pack_plainly():
            clean("plain_lmdb")
            with lmdb.open(str(folder / "plain_lmdb"), map_size=1 << 34) as env:
                for i in range(count):
                    pixels = np.asarray(Image.open(folder / "plain" / f"{i}.png")).transpose(2, 0, 1)[::-1]
                    with env.begin(write=True) as transaction:
                        transaction.put(b"%010d" % i, encode(pixels, 0))

        def pack_ours():
            clean("ours_lmdb")
            pack(folder / "ours_lmdb", sorted((folder / "ours").iterdir()), True, "packing")

        cut_times = in_turn(cut_plainly, cut, runs=args.runs)
        pack_times = in_turn(pack_plainly, pack_ours, runs=args.runs)
    print(f"{machine()}; {count:,} patches of {args.patch}x{args.patch}x3\n\n{HEADER}")
    for what, (plain, ours) in (("extraction", cut_times), ("packing", pack_times)):
        print(row(f"{what}, the plain way", plain, None, count, "patches/s"))
        print(row(what, ours, plain, count, "patches/s"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--size", type=int, default=1024, help="of a tile, pixels")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def made_tile(path: Path, seed: int, size: int) -> Path:
    """A tile that compresses about as an aerial image does: smooth noise with a little grain."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(0, 1, (3, size, size)), (0, 4, 4)) * 250 + 110
    raster.write(path, np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))
    return path


def cut_tile(cutting: Cutting, folder: Path, tile: Path) -> None:
    """As extract_images.py does it: a process per tile, light compression."""
    for name, patch in cutting.patches(raster.read(tile)):
        write_patch(folder / f"{tile.stem}_{name}.png", patch)


if __name__ == "__main__":
    main()
