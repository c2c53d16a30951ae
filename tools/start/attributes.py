"""Which attribute of polygons says the class of each."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

_WORDS = (  # of the names of such attributes, the surest first
    "class", "classname", "klasse", "classe", "clase", "label", "landcover", "landuse", "cover", "lulc", "category", "nutzung",
    "type", "typ", "use", "kind", "species", "crop", "name", "code", "id",
)  # fmt: skip
_CLASSES_ALONE = _WORDS[: _WORDS.index("type")]  # words that are used for nothing else
_BESIDE = {"name", "code", "id"}  # say little by themselves: 'editor_name' is no class, 'class_name' is
_LARGEST = 1 << 31  # of a number that names a class


class Attribute(NamedTuple):
    """An attribute that names classes. values: of each polygon, None where it names none. others: that might do so as well."""

    name: str
    values: list[str | int | None]
    others: list[str]


def class_attribute(columns: Sequence[dict[str, Any]], most: int) -> Attribute | None:
    """The attribute that seems to say the class: few values, each on several polygons; known names first, text before numbers.

    columns: the attributes of each polygon. most: classes. None where no attribute is of this kind. Polygons without a value
    are left out of account, as long as they are the fewer.
    """
    found = []
    for name in columns[0]:
        values = [_plain(row.get(name)) for row in columns]
        there = [value for value in values if value is not None]
        texts = all(isinstance(value, str) for value in there)
        numbers = all(isinstance(value, int) for value in there)
        different = len({*there})
        few = 2 <= different <= min(most, len(there) / 2) and 2 * len(there) > len(values)
        worth = _worth(name)
        if few and (texts or (numbers and worth)):
            found.append(((worth > len(_BESIDE), texts, worth), name, values))
    if not found:
        return None
    found.sort(key=lambda one: one[0], reverse=True)  # stable: the first in the file where two are alike
    (_, name, values), *others = found
    return Attribute(name, values, [other for _, other, _ in others])


def only_class(columns: Sequence[dict[str, Any]]) -> str | None:
    """The text that an attribute made for classes, such as 'landcover', has on every polygon; None where there is none."""
    for name in sorted((n for n in columns[0] if _words_of(n) & {*_CLASSES_ALONE}), key=_worth, reverse=True):
        values = {_plain(row.get(name)) for row in columns}
        if len(values) == 1 and isinstance(value := values.pop(), str):
            return value
    return None


def _plain(value: Any) -> str | int | float | None:
    """A value as it names a class: text without the blanks around it, whole numbers; None for nothing, or not a number."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        if value != value:
            return None
        return int(value) if value.is_integer() and abs(value) < _LARGEST else value
    return value


def _worth(name: str) -> int:
    """How well an attribute's name says that it names classes; 0: not at all."""
    words = _words_of(name)
    known = [len(_WORDS) - i for i, word in enumerate(_WORDS) if word in words]
    return max(known, default=0)


def _words_of(name: str) -> set[str]:
    """The words of a name such as 'LandUse_2020' or 'class id', each by itself and with the one that follows, in lower case."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-zäöüß]+", name)]
    return {*words, *_pairs(words)}


def _pairs(words: Sequence[str]) -> Iterable[str]:
    return (a + b for a, b in pairwise(words))
