"""Patches: cutting them out of tiles, turning and mirroring them, and their files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.base.errors import UserError
from tools.base.folders import read_details
from tools.data.dataset import SPLITS
from tools.geo import raster
from tools.geo.windows import Window, positions, sliding

_NAME = re.compile(r"(.+)_(?:\d{5,}_\d{5,}|cell\d{6,})(?:_r\d+)?(?:_f)?")  # tile, row and column or a grid's cell, turn


@dataclass(frozen=True)
class Cutting:
    """How a tile is cut: size and step in pixels (height, width), and the turns (degrees) and mirrorings of each patch."""

    size: tuple[int, int]
    step: tuple[int, int]
    rotations: tuple[int, ...] = (0,)
    flips: tuple[bool, ...] = (False,)

    def __post_init__(self):
        if self.size[0] != self.size[1] and set(self.rotations) & {90, 270}:
            raise UserError(f"patches of {self.size[0]}x{self.size[1]} cannot be turned by 90 degrees: make them square.")

    def windows(self, height: int, width: int) -> Iterator[Window]:
        """The windows of a tile."""
        return sliding(height, width, self.size, self.step)

    def count(self, height: int, width: int) -> int:
        """How many patches a tile gives."""
        rows, cols = positions(height, self.size[0], self.step[0]), positions(width, self.size[1], self.step[1])
        return len(rows) * len(cols) * len(self.turns)

    def strips(self, height: int, width: int, most: int) -> list[Window]:
        """A tile as strips of whole rows of windows, none of more than `most` pixels unless one row of windows has more.

        Cut strip by strip, a tile gives the same patches as cut whole.
        """
        rows = positions(height, self.size[0], self.step[0])
        strips, first = [], 0
        for i, row in enumerate(rows):
            below = rows[i + 1] if i + 1 < len(rows) else None
            if below is None or (below + self.size[0] - rows[first]) * width > most:
                strips.append(Window(rows[first], 0, min(row + self.size[0], height) - rows[first], width))
                first = i + 1
        return strips

    def patches(self, tile: np.ndarray, top: int = 0) -> Iterator[tuple[str, np.ndarray]]:
        """(name, patch) for each patch of a tile (bands x height x width); the name says where and how it was cut.

        top: the row of the tile at which this strip of it begins. A tile smaller than a patch is continued by its mirror
        image.
        """
        tile = reflect(tile, self.size)
        for window in self.windows(*tile.shape[1:]):
            rows, cols = window.slices
            for rotation, flip in self.turns:
                name = f"{top + window.row:05d}_{window.col:05d}{turn_name(rotation, flip)}"
                yield name, turn(tile[:, rows, cols], rotation, flip)

    @property
    def turns(self) -> list[tuple[int, bool]]:
        """How each patch is turned and mirrored: (degrees, mirrored)."""
        return [(rotation, flip) for rotation in self.rotations for flip in self.flips]


def turn_name(rotation: int, flip: bool) -> str:
    """The part of a patch's name that gives its rotation and flip: "_r90_f", or "" for an upright one."""
    return (f"_r{rotation}" if rotation else "") + "_f" * flip


_PER_BAND = {"mean": [float], "deviation": [float], "low": [float], "high": [float]}
_SPLIT = {"tiles": [str], "patches": int}
DETAILS_FORM = {  # of what extract_images.py and create_db.py say of their folders
    "dataset": str, "modalities": {str: {"bands": int, "dtype": str} | {f"{name}?": v for name, v in _PER_BAND.items()}},
    "patch_size": [int], "classes": [str], "splits": dict.fromkeys(SPLITS, _SPLIT), "pixel_size?": (float, None),
    "palette?": {str: [int]}, "bgr?": bool,
}  # fmt: skip


def read_about(folder: Path) -> dict[str, Any]:
    """What details.json says of patches or of databases. Raises UserError unless it is whole and of their form."""
    details = read_details(folder, DETAILS_FORM)
    for modality, about in details["modalities"].items():
        if any(len(about.get(name, [0] * about["bands"])) != about["bands"] for name in _PER_BAND):
            raise UserError(
                f"{folder}: its details.json has other than {about['bands']} numbers for {modality}: make it again."
            )
    return details


def tile_of(name: str) -> str:
    """The name of the tile that a patch was cut from, by the patch's own name."""
    return _NAME.fullmatch(name)[1]


def cell_of(name: str) -> str | None:
    """The name of the grid's cell that a patch was cut from, by the patch's own name; None for a window's."""
    found = re.match(r".+_cell\d{6,}(?=_|$)", name)
    return found and found[0]


def is_straight(name: str) -> bool:
    """Whether a patch, by its name, is neither turned nor mirrored."""
    return re.search(r"(_r\d+|_f)$", name) is None


def turn(patch: np.ndarray, rotation: int, flip: bool) -> np.ndarray:
    """A patch (bands x h x w) turned counter-clockwise by a multiple of 90 degrees, then mirrored left to right."""
    patch = np.rot90(patch, rotation // 90, axes=(1, 2))
    return patch[:, :, ::-1] if flip else patch


def reflect(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (bands x h x w) continued by its mirror image, downwards and to the right, until it has this size."""
    down, right = (max(want - have, 0) for want, have in zip(size, image.shape[1:], strict=True))
    return np.pad(image, ((0, 0), (0, down), (0, right)), mode="reflect") if down or right else image


def patch_suffix(bands: int, dtype: str) -> str:
    """The suffix of patch files: PNG for what every viewer shows, GeoTIFF for other band counts and pixel types."""
    return ".png" if dtype == "uint8" and bands in (1, 3) else ".tif"


def patch_files(folder: Path) -> dict[str, Path]:
    """The patches in a folder by name; what programs leave beside them when they look at them (.aux.xml, ._NAME) is none."""
    return {p.stem: p for p in folder.iterdir() if p.suffix in (".png", ".tif") and not p.name.startswith(".")}


def write_patch(path: Path, patch: np.ndarray) -> None:
    """Write one patch, bands x h x w. The lightest compression: packing reads each file once and it is deleted soon."""
    if path.suffix == ".png":
        pixels = patch[0] if len(patch) == 1 else patch.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=1)
    else:
        raster.write(path, patch)


def read_patch(path: Path) -> np.ndarray:
    """One patch, bands x h x w, in its own pixel type. Raises UserError where the file is damaged."""
    if path.suffix != ".png":
        return raster.read(path)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): extract the patches again.") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
