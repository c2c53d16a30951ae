"""Whether tiles look like what a net was trained on: heights in other units or from another file do not, nor do other bits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tools.base.errors import UserError, listing
from tools.geo import raster
from tools.geo.windows import Window
from tools.inference.tile_list import Tile

MOST_TILES = 50  # that are looked at
_STRANGE = 0.1  # deviations beyond the percentiles; the mean of a tile lies well within those of single pixels
_SPOTS, _SIDE = 3, 64  # a tile is judged by 3 x 3 spots of 64 x 64 pixels


def strangeness(means: Sequence[float], about: Mapping[str, Any]) -> float:
    """How far the means of a tile's bands lie outside the training pixels, in their deviations; 0 where they lie inside.

    about: mean, deviation, low and high (percentiles) per band of the training tiles. Inside is from the 2nd to the 98th
    percentile: a tile can be all meadow, or all roof.
    """
    low, high, deviation = (np.array(about[name], float) for name in ("low", "high", "deviation"))
    outside = np.maximum(np.maximum(low - means, means - high), 0)
    return float(np.max(outside / np.maximum(deviation, 1e-6 + 1e-3 * np.abs(high - low))))


def warnings(tiles: Iterable[Tile], statistics: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str]) -> list[str]:
    """What to say of tiles whose pixels are far from those that the net was trained on, by modality.

    statistics: of the training tiles by modality, as weights have them. folders: the files that it was trained on, likewise.
    """
    found: dict[str, list[str]] = {}
    for tile in list(tiles)[:MOST_TILES]:
        for modality, about in statistics.items():
            means = None if modality not in tile.paths or raster.is_remote(tile.paths[modality]) else tile_means(tile, modality)
            if means is not None and len(means) == len(about["mean"]) and strangeness(means, about) > _STRANGE:
                found.setdefault(modality, []).append(f"{tile.name} ({', '.join(f'{mean:.4g}' for mean in means)})")
    return [_sentence(modality, names, statistics[modality], folders.get(modality)) for modality, names in found.items()]


def _sentence(modality: str, names: Sequence[str], about: Mapping[str, Any], files: str | None) -> str:
    means, lows, highs = (", ".join(f"{v:.4g}" for v in about[name]) for name in ("mean", "low", "high"))
    source = f" ({files})" if files else ""
    return (
        f"{modality} is far from what the net was trained on{source}: mean {means}, most pixels between {lows} and {highs}; the"
        f" mean of tile {listing(names, 3)} is not: check files, units and bits, since such maps are worth little."
    )


def tile_means(tile: Tile, modality: str) -> np.ndarray | None:
    """The mean of each band of a tile over a few spots; None if these have no data, or if the file breaks off there."""
    try:
        with raster.open_image(tile.paths[modality]) as file:
            spots = [raster.read_with_gaps(file, window) for window in _spots(*file.shape)]
    except UserError:
        return None  # whoever labels the tile tells what is wrong with it
    pixels = [p[:, np.isfinite(p).all(0) if gaps is None else np.isfinite(p).all(0) & ~gaps] for p, gaps in spots]
    together = np.concatenate(pixels, 1)
    return together.mean(1, dtype=np.float64) if together.shape[1] else None


def _spots(height: int, width: int) -> list[Window]:
    h, w = min(height, _SIDE), min(width, _SIDE)
    rows, cols = (np.linspace(0, length - side, _SPOTS).astype(int).tolist() for length, side in ((height, h), (width, w)))
    return [Window(row, col, h, w) for row in dict.fromkeys(rows) for col in dict.fromkeys(cols)]
