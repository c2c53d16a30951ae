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
    with tempfile.TemporaryDirectory() as name:
        work = Work(Path(name), Cutting((args.patch, args.patch), (args.step, args.step)), args.tiles, args.size)
        cut_times = in_turn(work.cut_plainly, work.cut, runs=args.runs)
        pack_times = in_turn(work.pack_plainly, work.pack, runs=args.runs)
    print(f"{machine()}; {work.count:,} patches of {args.patch}x{args.patch}x3\n\n{HEADER}")
    for what, (plain, ours) in (("extraction", cut_times), ("packing", pack_times)):
        print(row(f"{what}, the plain way", plain, None, work.count, "patches/s"))
        print(row(what, ours, plain, work.count, "patches/s"))


class Work:
    """Made tiles in a folder, cut and packed in both ways; each begins with an empty folder of its own."""

    def __init__(self, folder: Path, cutting: Cutting, tiles: int, size: int):
        self.folder, self.cutting = folder, cutting
        self.tiles = [made_tile(folder / f"tile{i}.tif", i, size) for i in range(tiles)]
        self.count = tiles * cutting.count(size, size)

    def _empty(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name

    def cut_plainly(self) -> None:
        """All patches in a list, then written by Pillow."""
        plain = self._empty("plain")
        patches = [patch for tile in self.tiles for _, patch in self.cutting.patches(raster.read(tile))]
        for i, patch in enumerate(patches):
            Image.fromarray(np.ascontiguousarray(patch.transpose(1, 2, 0))).save(plain / f"{i}.png")

    def cut(self) -> None:
        """As extract_images.py does it."""
        ours = self._empty("ours")
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(cut_tile, self.cutting, ours), self.tiles))

    def pack_plainly(self) -> None:
        """A transaction for each patch."""
        with lmdb.open(str(self._empty("plain_lmdb")), map_size=1 << 34) as env:
            for i in range(self.count):
                pixels = np.asarray(Image.open(self.folder / "plain" / f"{i}.png")).transpose(2, 0, 1)[::-1]
                with env.begin(write=True) as transaction:
                    transaction.put(b"%010d" % i, encode(pixels, 0))

    def pack(self) -> None:
        """As create_db.py does it."""
        pack(self._empty("ours_lmdb"), sorted((self.folder / "ours").iterdir()), True, "packing")


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
