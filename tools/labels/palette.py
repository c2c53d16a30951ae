"""The one palette: class numbers, names and colours; labels in colours, and the look-up of colours."""

from collections.abc import Mapping, Sequence

import numpy as np

from tools.base.errors import UserError

Colour = tuple[int, int, int]
UNKNOWN = 255  # in the look-up table: a colour that no class has


class Palette:
    """Classes 0..n-1 with their names and colours, and perhaps one more label n: not scored (ISPRS draws it black).

    names: of the classes, in order. colours: {label: (r, g, b)}, for every class and, where pixels may be left out, for
    label n. Raises UserError where they do not fit together.
    """

    def __init__(self, names: Sequence[str], colours: Mapping[int, Colour]):
        self.names = list(names)
        self.colours = {int(label): tuple(colour) for label, colour in sorted(colours.items())}
        self.classes = len(self.names)
        self._check()

    @property
    def unscored(self) -> int | None:
        """The label of pixels that are not scored, or None where the palette has none."""
        return self.classes if self.classes in self.colours else None

    @property
    def no_label(self) -> int:
        """What stands in a label array where there is no label: the unscored label, or 255 where the palette has none."""
        return UNKNOWN if self.unscored is None else self.unscored

    def _check(self) -> None:
        if not 2 <= self.classes < UNKNOWN:
            raise UserError(f"label_values names {self.classes} classes: there must be 2 to {UNKNOWN - 1}.")
        if len(set(self.names)) < self.classes:
            raise UserError(f"label_values has a name twice: {', '.join(self.names)}.")
        if not set(range(self.classes)) <= set(self.colours) <= set(range(self.classes + 1)):
            raise UserError(
                f"palette has colours for {list(self.colours)}, label_values has {self.classes} classes: give a colour to each"
                f" of 0..{self.classes - 1}, and to {self.classes} if some pixels are not scored."
            )
        seen: dict[Colour, int] = {}
        for label, colour in self.colours.items():
            if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
                raise UserError(f"palette[{label}] = {colour}: a colour is three whole numbers from 0 to 255.")
            if colour in seen:
                raise UserError(f"palette gives the colour {colour} to both {seen[colour]} and {label}: each needs its own.")
            seen[colour] = label

    def to_colours(self, labels: np.ndarray) -> np.ndarray:
        """Colours (h x w x 3, uint8) of labels (h x w, uint8). Raises UserError for labels without a colour."""
        self.check_labels(labels)
        table = np.zeros((256, 3), np.uint8)
        for label, colour in self.colours.items():
            table[label] = colour
        return table[labels]

    def counted_from_one(self, pixels: np.ndarray, unit: str = "pixel") -> str | None:
        """A warning if class 0 has no pixel but the label after the last class has some, as in masks that count from 1.

        pixels: of each label, 256 numbers. unit: what is counted.
        """
        if pixels[0] or not pixels[1 : self.classes].any() or not pixels[self.classes]:
            return None
        numbers = {name: number for number, name in enumerate(self.names, 1)}
        return (
            f"class 0 ({self.names[0]}) has no {unit}, and {pixels[self.classes]:,} {unit}s have {self.classes}, which is not"
            f" scored: if the numbers begin with 1, let convert_gt.py read them with SOURCE_CLASSES = {numbers}."
        )

    def check_labels(self, labels: np.ndarray) -> None:
        """Raise UserError, with counts, where labels (any shape, uint8) are neither in the palette nor `no_label`."""
        counts = np.bincount(labels.ravel(), minlength=256)
        wrong = {label: count for label, count in enumerate(counts) if count and label not in [*self.colours, self.no_label]}
        if wrong:
            found = ", ".join(f"{label} ({count:,} pixels)" for label, count in wrong.items())
            raise UserError(f"labels outside the palette's {list(self.colours)}: {found}.")


def codes_of(rgb: np.ndarray) -> np.ndarray:
    """One number per pixel (h x w, uint32) of colours (h x w x 3, uint8): r * 65536 + g * 256 + b."""
    return rgb[..., 0].astype(np.uint32) << 16 | rgb[..., 1].astype(np.uint32) << 8 | rgb[..., 2]


def colour_of(code: int) -> Colour:
    """The colour that has this number."""
    return code >> 16, code >> 8 & 255, code & 255


def code_of(colour: Colour) -> int:
    """The number of this colour."""
    r, g, b = colour
    return r << 16 | g << 8 | b


def look_up_table(labels: Mapping[Colour, int]) -> np.ndarray:
    """The label of each of the 2^24 colours, UNKNOWN where it has none: 16 MB, made in a millisecond, one look-up a pixel."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for (r, g, b), label in labels.items():
        table[code_of((r, g, b))] = label
    return table


def name_colours(counts: Mapping[int, int]) -> str:
    """A sentence that names colours without a class, {number of the colour: pixels}, the most frequent first."""
    most = sorted(counts, key=counts.get, reverse=True)[:6]
    found = ", ".join(f"{colour_of(code)} on {counts[code]:,} pixels" for code in most)
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return f"{sum(counts.values()):,} pixels have colours that no class has: {found}{more}."
