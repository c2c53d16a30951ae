"""The config's classes: their names and colours, which are not scored, and what the ground truth calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.base.errors import UserError
from tools.base.sections import Section, are_texts, is_sequence, is_text, mapping, optional, setting, whole
from tools.labels.class_mapping import Legend, label_of
from tools.labels.palette import Palette


def _is_colour(v: Any) -> bool:
    return is_sequence(v) and len(v) == 3 and all(map(whole(0), v)) and max(v) <= 255


def _is_source_number(v: Any) -> bool:
    return whole(-(1 << 15))(v) and v < 1 << 16


_OPTIONAL_NAME = optional(is_text)


@dataclass(frozen=True, kw_only=True)
class ClassSettings(Section):
    """The classes 0, 1, 2 ... of a dataset. config.py says what each setting is for."""

    label_values: list = setting(lambda v: are_texts(v) and len(v) > 1, "a list of two class names or more")
    palette: Mapping[int, tuple] = setting(
        mapping(is_sequence, whole(0)), "colours by label, {0: (255, 255, 255), ...}", effect=False
    )
    IGNORE_LABEL: int | list | None = setting(
        optional(lambda v: whole(0)(v) or (is_sequence(v) and all(map(whole(0), v)))),
        "a class number, a list of them, or None", None,
    )  # fmt: skip
    SOURCE_CLASSES: Mapping[str, tuple | int] | None = setting(
        optional(lambda v: mapping(_is_colour, empty=False)(v) or mapping(_is_source_number, empty=False)(v)),
        "classes with their colours, {'road': (255, 255, 255), ...}, or all with their numbers, or None", None,
    )  # fmt: skip
    CLASS_MAPPING: Mapping[str, str | None] | None = setting(
        optional(mapping(_OPTIONAL_NAME, empty=False)),
        "{class of the ground truth: class of label_values, or None to drop it}, or None", None,
    )  # fmt: skip
    LABEL_ATTRIBUTE: str | None = setting(_OPTIONAL_NAME, "the attribute of vector labels that names the class, or None", None)
    LABEL_BACKGROUND: str | None = setting(
        _OPTIONAL_NAME, "the class of pixels that no polygon covers, or None: not scored", None
    )

    LABEL_AREA: str | None = setting(_OPTIONAL_NAME, "'hull', a vector file, or None: all of the image", None)

    def check(self) -> None:
        """Raise UserError if the classes, their colours and their sources contradict each other."""
        legend, classes = self.legend, len(self.label_values)
        if self.LABEL_BACKGROUND is not None:
            try:
                label_of(self.LABEL_BACKGROUND, legend)
            except UserError as error:
                raise UserError(f"LABEL_BACKGROUND: {error}") from None
        for label in self.ignored:
            if label not in range(classes):
                raise UserError(f"IGNORE_LABEL = {label}: there is no such class, label_values has 0 to {classes - 1}.")

    @property
    def legend(self) -> Legend:
        """What the ground truth's own colours, numbers and names are in our labels."""
        return Legend(self.colours, self.SOURCE_CLASSES, self.CLASS_MAPPING)

    @property
    def colours(self) -> Palette:
        """The classes and their colours."""
        return Palette(self.label_values, self.palette)

    @property
    def ignored(self) -> list[int]:
        """Classes that give no loss and are left out of the second mean."""
        given = [] if self.IGNORE_LABEL is None else self.IGNORE_LABEL
        return [given] if isinstance(given, int) else list(given)

    def about(self) -> dict[str, Any]:
        """What a weights file says of the classes, as JSON values."""
        palette = {str(label): list(colour) for label, colour in self.palette.items()}
        return {"classes": list(self.label_values), "palette": palette, "ignored": self.ignored}

    @property
    def scored(self) -> list[int]:
        """Classes that give a loss."""
        return [label for label in range(len(self.label_values)) if label not in self.ignored]
