"""What of OpenStreetMap goes into which layer: one table of tags, with the widths in metres that lines are drawn at.

Keys and values are those of wiki.openstreetmap.org/wiki/Map_features; colours are the original's (OSM/labels.py of
nshaud/DeepNetsForEO), whose themes have no railways. Widths are what such ways usually have, carriageway and verge together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tools.base.errors import UserError, listing, nearest

ANY = ("*",)  # every value but "no"


@dataclass(frozen=True)
class Theme:
    """A layer of the map. colour: R, G, B in `--form colours`. areas: values of polygons, by key.

    lines: by key and value, how many metres wide a line is drawn, or the circle around a point (a tree).
    """

    colour: tuple[int, int, int]
    areas: dict[str, tuple[str, ...]]
    lines: dict[str, dict[str, float]] = field(default_factory=dict)


_HIGHWAYS = {
    "motorway": 11.0, "trunk": 9.0, "primary": 8.0, "secondary": 7.0, "tertiary": 6.5, "unclassified": 5.5,
    "residential": 5.5, "living_street": 5.0, "road": 5.5, "motorway_link": 5.5, "trunk_link": 5.5, "primary_link": 5.5,
    "secondary_link": 5.5, "tertiary_link": 5.5, "busway": 4.0, "pedestrian": 5.0, "service": 3.5, "track": 3.0,
    "cycleway": 2.5, "footway": 2.0, "bridleway": 2.0, "steps": 2.0, "path": 1.5,
}  # fmt: skip
_PLAZAS = ("pedestrian", "footway", "service", "living_street", "cycleway", "path")
_GREEN_LAND = (
    "forest", "grass", "meadow", "orchard", "vineyard", "village_green", "greenfield", "farmland", "allotments", "cemetery",
    "recreation_ground", "flowerbed", "plant_nursery",
)  # fmt: skip

THEMES = {  # in the order of the bands; in `--form colours` the later ones of DRAWN lie on top
    "roads": Theme((255, 255, 255), {"highway": _PLAZAS, "area:highway": ANY}, {"highway": _HIGHWAYS}),
    "buildings": Theme((0, 0, 255), {"building": ANY}),
    "water": Theme(
        (255, 0, 0),
        {
            "natural": ("water", "bay"),
            "water": ANY,
            "waterway": ("riverbank", "dock", "river"),
            "landuse": ("reservoir", "basin"),
            "leisure": ("swimming_pool",),
        },
        {"waterway": {"river": 8.0, "canal": 6.0, "stream": 2.0, "ditch": 1.0, "drain": 1.0}},
    ),
    "green": Theme(
        (0, 128, 0),
        {
            "landuse": _GREEN_LAND,
            "natural": ("wood", "scrub", "heath", "grassland", "fell", "shrubbery", "wetland"),
            "leisure": ("park", "garden", "golf_course", "nature_reserve"),
        },
        {"natural": {"tree_row": 5.0, "tree": 5.0}, "barrier": {"hedge": 1.5}},
    ),
    "railways": Theme(
        (128, 128, 128),
        {},
        {"railway": {"rail": 3.5, "light_rail": 3.0, "tram": 2.7, "subway": 3.0, "narrow_gauge": 2.5, "preserved": 3.0}},
    ),
}
DRAWN = ("green", "water", "railways", "roads", "buildings")
CLOSED = {"waterway": ("riverbank", "dock")}  # lines that end where they begin and mean what lies inside
GEOFABRIKS = "fclass"  # the column of Geofabrik's shapefiles that has the value of whichever key it was
OTHERS = "other_tags"  # the column in which GDAL puts tags that have no column
KEYS = {key for theme in THEMES.values() for key in (*theme.areas, *theme.lines)}
# What no camera sees; "T" is how Geofabrik's shapefiles say it.
_HIDDEN = {"tunnel": ("yes", "culvert", "T"), "location": ("underground", "indoor")}
PLAUSIBLE_METRES = (0.3, 100.0)  # of a width tag; others are slips of the mapper's


def of(names: list[str]) -> dict[str, Theme]:
    """The themes of these names, in the table's order. Raises UserError where one is unknown."""
    for name in names:
        if name not in THEMES:
            raise UserError(f"--themes names '{name}', which is none.{nearest(name, THEMES)} There are {listing(THEMES)}.")
    return {name: theme for name, theme in THEMES.items() if name in names}


def with_widths(themes: Mapping[str, Theme], words: list[str]) -> dict[str, Theme]:
    """The themes with other widths, given as VALUE=METRES. Raises UserError where one is unknown or no width."""
    changed, (low, high) = dict(themes), PLAUSIBLE_METRES
    for word in words:
        value, _, metres = word.partition("=")
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", metres) or not low <= float(metres) <= high:
            raise UserError(f"--width {word}: give a value of the table and {low:g} to {high:g} metres, such as residential=6.")
        owner = next((n for n, t in changed.items() if any(value in widths for widths in t.lines.values())), None)
        if owner is None:
            known = [v for theme in themes.values() for widths in theme.lines.values() for v in widths]
            raise UserError(
                f"--width {word}: '{value}' is no line of the themes {listing(themes)}.{nearest(value, known)} The table is"
                " tools/osm/themes.py."
            )
        lines = {k: w | {value: float(metres)} if value in w else w for k, w in changed[owner].lines.items()}
        changed[owner] = Theme(changed[owner].colour, changed[owner].areas, lines)
    return changed


def is_hidden(tags: Mapping[str, str]) -> bool:
    """Whether something lies under the ground or a roof."""
    return any(tags.get(key) in values for key, values in _HIDDEN.items())


def is_area(theme: Theme, tags: Mapping[str, str]) -> bool:
    """Whether a polygon with these tags is of a theme."""
    found = (_value(tags, key) in values or (values == ANY and _is_any(tags, key)) for key, values in theme.areas.items())
    return any(found)


def width(theme: Theme, tags: Mapping[str, str]) -> float | None:
    """Metres that a line (or point) with these tags is wide, by its own `width` if it says a plausible one; None: not of it."""
    for key, widths in theme.lines.items():
        if (usual := widths.get(_value(tags, key))) is not None:
            return _said_width(tags.get("width", "")) or usual
    return None


def _value(tags: Mapping[str, str], key: str) -> str | None:
    return tags.get(key, tags.get(GEOFABRIKS))


def _is_any(tags: Mapping[str, str], key: str) -> bool:
    return tags.get(key, "no") != "no" or tags.get(GEOFABRIKS) == key


def _said_width(text: str) -> float | None:
    """Metres of a width tag: "5.5", "5.5 m"; None where it is something else or not plausible."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:m|metres|meters)?\s*", text)
    low, high = PLAUSIBLE_METRES
    return float(found[1]) if found and low <= float(found[1]) <= high else None
