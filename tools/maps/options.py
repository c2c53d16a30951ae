"""What inference.py is asked to make of a map: the options of its command line, and the choice that they are."""

import argparse
from dataclasses import dataclass, fields
from typing import Any

from tools.geo.measures import Area, Length


@dataclass(frozen=True)
class Choice:
    """Which files there are of a tile beside labels, colours and a picture.

    confidence: the probability of each pixel's label, as "uint8" (per cent) or "float32"; None: no such file. probabilities:
    the same of all classes. cog: whether GeoTIFFs are cloud optimised. clean: the area below which patches join their
    surroundings; their confidence stays that of the net's own label. polygons: the area below which there are none; None: no
    such file.
    """

    confidence: str | None = None
    probabilities: str | None = None
    cog: bool = False
    clean: Area | None = None
    polygons: Area | None = None

    @property
    def measures(self) -> list[Area | Length]:
        """Those that a tile must be able to tell in pixels."""
        return [value for field in fields(self) if isinstance(value := getattr(self, field.name), (Area, Length))]

    def to_dict(self) -> dict[str, Any]:
        """For details.json."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) if isinstance(value, (Area, Length)) else value for name, value in values.items()}


def add(parser: argparse.ArgumentParser) -> None:
    """The options, each of which has the name of a field of Choice."""
    for option, what in (("--confidence", "the probability of each label"), ("--probabilities", "those of all classes")):
        parser.add_argument(option, nargs="?", const="uint8", choices=["uint8", "float32"],
                            help=f"also write {what}: in per cent (uint8, the default) or as float32")  # fmt: skip
    parser.add_argument("--cog", action="store_true", help="write cloud optimised GeoTIFFs, with overviews")
    parser.add_argument("--clean", type=Area.word("--clean"), metavar="LEAST",
                        help="patches below so many m2 (or 25px) join the neighbour of the longest common border")  # fmt: skip
    parser.add_argument("--polygons", nargs="?", const="0", type=Area.word("--polygons"), metavar="LEAST",
                        help="also write a GeoPackage of polygons, without those below so many m2 (or 50px)")  # fmt: skip


def choice_of(args: argparse.Namespace) -> Choice:
    """What the options say. Raises UserError where one needs another."""
    return Choice(**{field.name: getattr(args, field.name) for field in fields(Choice)})
