"""What inference.py is asked to make of a map: the options of its command line, and the choice that they are."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tools.base.errors import UserError, listing, nearest
from tools.geo.measures import Area, Length

if TYPE_CHECKING:  # its libraries load when work begins, not for --help
    from tools.geo.area import AreaOfInterest
    from tools.polygons.drawing import Drawing

KINDS = ("gpkg", "fgb", "geojson")  # of files of polygons


@dataclass(frozen=True)
class Choice:
    """Which files there are of a tile beside labels, colours and a picture.

    confidence: the probability of each pixel's label, as "uint8" (per cent) or "float32"; None: no such file. probabilities:
    the same of all classes. cog: whether GeoTIFFs are cloud optimised. clean: the area below which patches join their
    surroundings; their confidence stays that of the net's own label. polygons: the area below which there are none; None: no
    such file. simplify, square: how they are drawn (see tools/polygons/drawing.py). polygons_as: the kind of file. stac:
    whether there is a STAC item. png: whether the colour map is there as a PNG, too. variance: whether there is a file of how
    much several passes differ (`averages.Sampled`), which no option of its own asks for.
    """

    confidence: str | None = None
    probabilities: str | None = None
    cog: bool = False
    clean: Area | None = None
    polygons: Area | None = None
    simplify: Length | None = None
    square: tuple[str, ...] = ()
    polygons_as: str = "gpkg"
    stac: bool = False
    png: bool = False
    variance: bool = False

    @property
    def drawing(self) -> "Drawing":
        """How polygons are drawn, if there are any."""
        from tools.polygons.drawing import Drawing

        return Drawing(self.polygons, self.simplify, self.square)

    @property
    def measures(self) -> list[Area | Length]:
        """Those that a tile must be able to tell in pixels."""
        return [value for field in fields(self) if isinstance(value := getattr(self, field.name), (Area, Length))]

    def to_dict(self) -> dict[str, Any]:
        """For details.json."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) if isinstance(value, (Area, Length)) else value for name, value in values.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, each of which has the name of a field of Choice."""
    for option, what in (("--confidence", "the probability of each label"), ("--probabilities", "those of all classes")):
        parser.add_argument(option, nargs="?", const="uint8", choices=["uint8", "float32"],
                            help=f"also write {what}: in per cent (uint8, the default) or as float32")  # fmt: skip
    parser.add_argument("--cog", action="store_true", help="write cloud optimised GeoTIFFs, with overviews")
    parser.add_argument("--area", metavar="AREA",
                        help="label this alone: W,S,E,N in the tiles' CRS, or a vector file of zones in any CRS")  # fmt: skip
    parser.add_argument("--area-attribute", metavar="NAME", help="of the zones: what they are called in zones.csv")
    parser.add_argument("--clean", type=Area.word("--clean"), metavar="LEAST",
                        help="patches below so many m2 (or 25px) join the neighbour of the longest common border")  # fmt: skip
    parser.add_argument("--polygons", nargs="?", const="0", type=Area.word("--polygons"), metavar="LEAST",
                        help="also write polygons, in the classes' colours, but no smaller ones (m2, or 50px)")  # fmt: skip
    parser.add_argument("--simplify", type=Length.word("--simplify"), metavar="TOLERANCE",
                        help="of polygons' borders, by so many m (or 2px); they move together, without gaps")  # fmt: skip
    parser.add_argument("--square", nargs="+", default=(), metavar="CLASS",
                        help="polygons of these classes that nearly are rectangles become so")  # fmt: skip
    parser.add_argument("--polygons-as", choices=KINDS,
                        help="the kind of file (default: gpkg, which holds its style; others have a .qml)")  # fmt: skip
    parser.add_argument("--png", action="store_true",
                        help="also write the colour map as a PNG, with a world file if the image has a place")  # fmt: skip
    parser.add_argument("--stac", action="store_true", help="write a STAC item of each tile's files, NAME.json")


def area_of(args: argparse.Namespace) -> "AreaOfInterest | None":
    """The area of interest. Raises UserError where it is none."""
    from tools.geo.area import AreaOfInterest

    if args.area_attribute and not args.area:
        raise UserError(f"--area-attribute {args.area_attribute} is about zones: add --area FILE.")
    area = AreaOfInterest.of(args.area, args.area_attribute) if args.area else None
    for note in area.notes if area else ():
        print(note)
    return area


def chosen(args: argparse.Namespace, classes: Sequence[str]) -> Choice:
    """What the options say of maps of these classes. Raises UserError where one needs another, or there is no such class."""
    choice = Choice(**{field.name: getattr(args, field.name) for field in fields(Choice) if field.name != "variance"})
    for name in ("simplify", "square", "polygons_as"):
        if getattr(choice, name) and not choice.polygons:
            raise UserError(f"--{name.replace('_', '-')} is about polygons: add --polygons.")
    choice = replace(choice, square=tuple(choice.square), polygons_as=choice.polygons_as or KINDS[0])
    for name in choice.square:
        if name not in classes:
            raise UserError(f"--square {name}: there is no such class.{nearest(name, classes)} There are {listing(classes)}.")
    return choice
