"""Which rasters lie side by side on Earth, and areas of such neighbours."""

from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
import shapely

from tools.geo import raster

Bounds = tuple[float, float, float, float]


def place(path: Path) -> Bounds | None:
    """Left, bottom, right, top of a raster in its CRS, None where it does not say."""
    about = raster.inspect(path)
    if about.transform is None:
        return None
    corners = [about.transform * xy for xy in ((0, 0), (about.width, 0), (0, about.height), (about.width, about.height))]
    xs, ys = zip(*corners, strict=True)
    margin = abs(about.transform.a) + abs(about.transform.b)  # a pixel: neighbours may lie a rounding apart
    return min(xs) - margin / 2, min(ys) - margin / 2, max(xs) + margin / 2, max(ys) + margin / 2


def touching(bounds: Mapping[Hashable, Bounds]) -> list[tuple[Hashable, Hashable]]:
    """The pairs of tiles whose rectangles touch or overlap."""
    tiles, boxes = list(bounds), np.array([shapely.box(*b) for b in bounds.values()], dtype=object)
    one, other = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    return [(tiles[i], tiles[j]) for i, j in zip(one.tolist(), other.tolist(), strict=True) if i < j]


def components(bounds: Mapping[Hashable, Bounds]) -> list[list[Hashable]]:
    """The tiles in connected sets: two tiles are in one set if a chain of touching tiles joins them."""
    root = {tile: tile for tile in bounds}

    def find(tile: Hashable) -> Hashable:
        while root[tile] != tile:
            tile = root[tile]
        return tile

    for one, other in touching(bounds):
        root[find(other)] = find(one)
    found: dict[Hashable, list[Hashable]] = {}
    for tile in bounds:
        found.setdefault(find(tile), []).append(tile)
    return list(found.values())


def areas(bounds: Mapping[Hashable, Bounds], most: int) -> list[list[Hashable]]:
    """The connected sets of tiles, each halved across its longer side until no area holds more than `most` tiles."""
    return [area for joined in components(bounds) for area in _halved(joined, bounds, most)]


def _halved(tiles: list[Hashable], bounds: Mapping[Hashable, Bounds], most: int) -> list[list[Hashable]]:
    """The tiles in areas of no more than so many, cut across the longer side of what they cover."""
    if len(tiles) <= most:
        return [tiles]
    middles = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (bounds[tile] for tile in tiles)])
    order = np.argsort(middles[:, np.ptp(middles, axis=0).argmax()], kind="stable").tolist()
    half = len(tiles) // 2
    parts = [tiles[i] for i in order[:half]], [tiles[i] for i in order[half:]]
    return [area for part in parts for area in _halved(part, bounds, most)]
