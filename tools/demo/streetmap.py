"""A map of the made-up town as OpenStreetMap would have it: right in the main, but a metre or two off, and not all up to date.

Coordinates of shapes are a scene's: metres, x east and y south of the tile's middle.
"""

from __future__ import annotations

import numpy as np
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform

from tools.demo.plan import Block, Street, Town
from tools.demo.scene import PIXEL_METRES, Outline, Scene

OFF_METRES = 1.5  # of a whole tile: the picture that it was mapped from lay so far off
EACH_OFF_METRES = 0.5  # of each house beside that
AROUND_METRES = 10.0  # of the tile that the map reaches
STEP_METRES = 6.0  # between the corners of a street's middle line
SMALL_METRES2 = 25.0  # sheds and garages, which mappers seldom draw
MAPPED, SMALL_MAPPED = 0.9, 0.35  # of the houses
OUTDATED = 0.06  # of those: drawn before they were enlarged
DEMOLISHED = 6  # houses a tile that are on the map and no longer there, where they find room

Tags = dict[str, str]


def features(town: Town, scene: Scene, rng: np.random.Generator, place: Affine, crs: str) -> list[dict]:
    """GeoJSON features, in degrees, of the map around a tile that stands at a place. rng: of the mapper's."""
    reach = scene.size * PIXEL_METRES / 2 + AROUND_METRES
    frame, off = shapely.box(-reach, -reach, reach, reach), _off(rng, OFF_METRES, OFF_METRES)
    things = [*streets(town, scene), *parks(town), *waters(scene), *houses(town, scene, rng)]
    found = [(shapely.intersection(_shifted(shape, off), frame), tags) for shape, tags in things]
    return [_feature(shape, tags, scene, place, crs) for shape, tags in found if not shape.is_empty]


def streets(town: Town, scene: Scene) -> list[tuple[shapely.Geometry, Tags]]:
    """The middle lines of the streets."""
    ends = scene.half_metres * 1.42
    return [(_middle_line(town, street, ends), {"highway": _class(street)}) for street in town.streets]


def _middle_line(town: Town, street: Street, ends: float) -> shapely.LineString:
    start, stop = max(street.start, -ends), min(street.stop, ends)
    along = np.linspace(start, stop, max(2, round((stop - start) / STEP_METRES)))
    return shapely.LineString([town.place(*((street.place, a) if street.crossing else (a, street.place))) for a in along])


def _class(street: Street) -> str:
    return "tertiary" if street.main else "living_street" if street.crossing else "residential"


def parks(town: Town) -> list[tuple[shapely.Geometry, Tags]]:
    """The blocks that are greens."""
    return [(_corners(town, block), {"leisure": "park"}) for block in town.parks]


def _corners(town: Town, block: Block) -> shapely.Polygon:
    us, vs = (block.u0, block.u1, block.u1, block.u0), (block.v0, block.v0, block.v1, block.v1)
    return shapely.Polygon([town.place(u, v) for u, v in zip(us, vs, strict=True)])


def waters(scene: Scene) -> list[tuple[shapely.Geometry, Tags]]:
    """The basins, as rough rectangles."""
    return [(_rectangle(outline), {"natural": "water"}) for outline in scene.basins]


def houses(town: Town, scene: Scene, rng: np.random.Generator) -> list[tuple[shapely.Geometry, Tags]]:
    """The outlines of most houses, some as they were, and a few that are gone."""
    there = main_buildings(scene.roofs)
    drawn = [o for o in there if rng.random() < (MAPPED if o.length * o.width > SMALL_METRES2 else SMALL_MAPPED)]
    shapes = [_rectangle(outline, 0.6 if rng.random() < OUTDATED else 1.0) for outline in drawn]
    taken = [*map(_rectangle, scene.roofs), *(line.buffer(7) for line, _ in streets(town, scene))]
    shapes += _demolished(town, scene, shapely.STRtree(taken), rng)
    return [(_shifted(shape, _off(rng, 0, EACH_OFF_METRES)), {"building": "yes"}) for shape in shapes]


def main_buildings(roofs: list[Outline]) -> list[Outline]:
    """Roofs whose middle lies under no larger one: wings and upper storeys are not mapped on their own."""
    shapes = np.array([_rectangle(roof) for roof in roofs])
    tree, areas = shapely.STRtree(shapes), shapely.area(shapes)
    inner, outer = tree.query(shapely.centroid(shapes), predicate="intersects")
    covered = set(inner[areas[outer] > areas[inner]].tolist())
    return [roof for i, roof in enumerate(roofs) if i not in covered]


def _demolished(town: Town, scene: Scene, taken: shapely.STRtree, rng: np.random.Generator) -> list[shapely.Polygon]:
    """Houses where none stand now."""
    reach, found = scene.size * PIXEL_METRES / 2, []
    for _ in range(DEMOLISHED):
        shape = _turned(*rng.uniform(-reach, reach, 2), town.angle, rng.uniform(8, 14), rng.uniform(7, 11))
        if not len(taken.query(shape, predicate="intersects")):
            found.append(shape)
    return found


def _rectangle(outline: Outline, share: float = 1.0) -> shapely.Polygon:
    pose = outline.pose
    return _turned(pose.x, pose.y, pose.angle, outline.length * share, outline.width)


def _turned(x: float, y: float, angle: float, length: float, width: float) -> shapely.Polygon:
    cos, sin, half = np.cos(angle), np.sin(angle), np.array([length, width]) / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    return shapely.Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y))


def _off(rng: np.random.Generator, least: float, most: float) -> tuple[float, float]:
    angle, metres = rng.uniform(0, 2 * np.pi), rng.uniform(least, most)
    return metres * np.cos(angle), metres * np.sin(angle)


def _shifted(shape: shapely.Geometry, off: tuple[float, float]) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: xy + off)


def _feature(shape: shapely.Geometry, tags: Tags, scene: Scene, place: Affine, crs: str) -> dict:
    """A feature in degrees, to a centimetre."""

    def degrees(xy: np.ndarray) -> np.ndarray:
        cols, rows = (xy / PIXEL_METRES + scene.size / 2).T
        return np.round(np.transpose(transform(crs, "EPSG:4326", *(place * (cols, rows)))), 7)

    return {"type": "Feature", "properties": tags, "geometry": shapely.geometry.mapping(shapely.transform(shape, degrees))}
