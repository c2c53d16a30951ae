"""Polygons that cover a map without gaps and overlaps, and stay so when they are simplified, strip by strip.

Two polygons of a coverage have the same vertices along their common border. Along the sides of pixels that is so if there is
one at each corner of a pixel; simplifying takes out what is in line. The seam between two strips stays as it is, so that what
is above fits to what is below; once their pieces are joined, vertices that are in line go there too, but for those where three
or more patches meet.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import shapely


def simplified(outlines: np.ndarray, tolerance: float) -> np.ndarray:
    """The outlines of all patches of a strip, simplified together (shapely's `coverage_simplify`); the strip's border stays.

    outlines: polygons along the sides of pixels. tolerance: pixels, about the square root of the area of triangles that go.
    """
    steps = shapely.transform(shapely.segmentize(outlines, 1), np.rint)  # it misses whole numbers by the last digit
    return shapely.coverage_simplify(steps, tolerance, simplify_boundary=False)


def meeting(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Where three or more patches meet along the seam between two rows of labels (w each): (w + 1), bool, for its corners."""
    sides = [np.zeros(len(above) + 1, int) for _ in range(2)]
    for row in (above, below):
        sides[0][1:-1] += row[1:] != row[:-1]
    sides[1][1:] += above != below
    sides[1][:-1] += above != below
    return sides[0] + sides[1] > 2


def joined(pieces: Sequence[shapely.Polygon], seams: Mapping[int, np.ndarray], size: tuple[int, int]) -> shapely.Polygon:
    """One patch from its pieces in several strips.

    seams: by row of the map, what `meeting` finds there. size: height and width of the map.
    """
    whole = shapely.coverage_union_all(pieces) if len(pieces) > 1 else pieces[0]
    rings = [_thinned(shapely.get_coordinates(ring)[:-1], seams, size) for ring in (whole.exterior, *whole.interiors)]
    return shapely.Polygon(rings[0], rings[1:])


def _thinned(ring: np.ndarray, seams: Mapping[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The points without those in line along a seam, unless others meet there, or along the edge of the map."""
    in_line = ((np.roll(ring, 1, 0) == ring) & (ring == np.roll(ring, -1, 0))).any(1)
    for i in np.flatnonzero(in_line):
        x, y = ring[i]
        edge = x in (0, size[1]) or y in (0, size[0])
        in_line[i] = edge or (y in seams and not seams[y][int(x)])
    return ring[~in_line]
