"""Right angles: a polygon that is nearly a rectangle becomes one."""

import numpy as np
import shapely

ALIKE = 0.8  # the least IoU of a polygon and its rectangle


def rectangle(polygon: shapely.Polygon, edge: shapely.Polygon) -> tuple[shapely.Polygon, float] | None:
    """The rectangle of a polygon's place, direction and area, and its IoU with it; None where that is below ALIKE.

    Its direction and proportions are those of the smallest rectangle around the polygon. edge: of the map, beyond which nothing
    is drawn: a house that it cuts ends there.
    """
    around = shapely.minimum_rotated_rectangle(polygon)
    if around.geom_type != "Polygon" or polygon.area < ALIKE / 2 * around.area:
        return None
    corners = shapely.get_coordinates(around)
    middle, shrink = corners[:4].mean(0), np.sqrt(polygon.area / around.area)
    centre = shapely.get_coordinates(polygon.centroid)[0]
    found = shapely.Polygon((corners - middle) * shrink + centre).intersection(edge)
    common = polygon.intersection(found).area
    iou = common / (polygon.area + found.area - common)
    return (found, iou) if iou >= ALIKE else None
