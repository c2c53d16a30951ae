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
    return shapely.coverage_simplify(shapely.segmentize(outlines, 1), tolerance, simplify_boundary=False)


def meeting(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Where three or more patches meet along the seam between two rows of labels (w each): (w + 1), bool, for its corners."""
    sides = [np.zeros(len(above) + 1, int) for _ in range(2)]
    for row in (above, below):
        sides[0][1:-1] += row[1:] != row[:-1]
    sides[1][1:] += above != below
    sides[1][:-1] += above != below
    return sides[0] + sides[1] > 2


def joined(pieces: Sequence[shapely.Polygon], seams: Mapping[int, np.ndarray]) -> shapely.Polygon:
    """One patch from its pieces in several strips. seams: by row of the map, what `meeting` finds there."""
    return _thinned(shapely.coverage_union_all(pieces) if len(pieces) > 1 else pieces[0], seams)


def _thinned(polygon: shapely.Polygon, seams: Mapping[int, np.ndarray]) -> shapely.Polygon:
    """The polygon without vertices in the middle of upright or level lines, unless others meet it there."""
    rings = [_thinned_ring(shapely.get_coordinates(ring)[:-1], seams) for ring in (polygon.exterior, *polygon.interiors)]
    return shapely.Polygon(rings[0], rings[1:])


def _thinned_ring(points: np.ndarray, seams: Mapping[int, np.ndarray]) -> np.ndarray:
    in_line = ((np.roll(points, 1, 0) == points) & (points == np.roll(points, -1, 0))).any(1)
    for i in np.flatnonzero(in_line):
        x, y = points[i]
        in_line[i] = y not in seams or not seams[y][int(x)]
    return points[~in_line]
