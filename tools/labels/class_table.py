"""Classes in a CSV file: a line each, with name and colour, as datasets and published models come with them."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from tools.base.errors import UserError, listing
from tools.labels.palette import Colour

_NAMES = ("name", "class", "label")
_NUMBERS = ("number", "index", "id", "value")
_COLOURS = ("colour", "color", "hex")


class ClassRow(NamedTuple):
    """One class. number: of the plane that tells it apart in somebody else's net, from 0."""

    number: int
    name: str
    colour: Colour


def read_classes(path: Path) -> list[ClassRow]:
    """The classes of a CSV file, in its order.

    Its first line names the columns: name; r, g, b or colour (#db0e9a); and number, where the classes are not 0, 1, 2 ... as
    they stand. Raises UserError for a file of another form.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: a CSV of classes is wanted, with the columns name, r, g, b.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{(k or "").strip().lower(): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error, AttributeError):
        raise UserError(f"{path} is no CSV file: lines such as 'name,r,g,b' and 'water,0,0,255' are wanted.") from None
    found = [_class(path, i, row) for i, row in enumerate(rows)]
    twice = sorted({row.number for row in found if [r.number for r in found].count(row.number) > 1})
    if twice:
        raise UserError(f"{path} gives the number {listing(twice)} to several classes: each has its own.")
    return found


def _class(path: Path, i: int, row: dict[str, str]) -> ClassRow:
    name = next((row[key] for key in _NAMES if row.get(key)), "")
    number = next((row[key] for key in _NUMBERS if row.get(key)), str(i))
    colour = _colour(row)
    if not name or colour is None or not number.isdigit():
        raise UserError(
            f"{path}, line {i + 2}: a class is a name, a colour (r, g, b from 0 to 255, or #rrggbb) and perhaps a number, under"
            f" a first line such as 'name,r,g,b'; there is {listing(f'{k}={v}' for k, v in row.items()) or 'nothing'}."
        )
    return ClassRow(int(number), name, colour)


def _colour(row: dict[str, str]) -> Colour | None:
    text = next((row[key] for key in _COLOURS if row.get(key)), "")
    if found := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text):
        return tuple(int(part, 16) for part in found.groups())
    values = [row.get(key, "") for key in "rgb"]
    return tuple(map(int, values)) if all(v.isdigit() and int(v) <= 255 for v in values) else None
