"""The mapping from the ground truth's own colours, numbers and class names to our labels."""

from collections.abc import Mapping

from tools.base.errors import UserError, listing, nearest
from tools.labels.palette import Colour, Palette


class Legend:
    """What the ground truth's own classes become.

    palette: our classes. classes: {name: colour (r, g, b) or number} of the ground truth, None where it has our classes in
    our colours and numbers. mapping: {name there: name here, or None for not scored}; None where the names are the same.
    Afterwards `names`, `colours` and `numbers` give the label of each. Raises UserError where they do not fit together.
    """

    def __init__(
        self,
        palette: Palette,
        classes: Mapping[str, Colour | int] | None = None,
        mapping: Mapping[str, str | None] | None = None,
    ):
        self.palette = palette
        if classes is None and mapping is None:
            self.names = {name: label for label, name in enumerate(palette.names)}
            self.colours = {colour: label for label, colour in palette.colours.items()}
            self.numbers = {label: label for label in palette.colours}
            return
        _check_sources(classes, mapping)
        self.names = {name: self._label(name, mapping) for name in classes or mapping}
        signs = {name: sign if isinstance(sign, int) else tuple(sign) for name, sign in (classes or {}).items()}
        _check_signs(signs)
        self.colours = {sign: self.names[name] for name, sign in signs.items() if not isinstance(sign, int)}
        self.numbers = {sign: self.names[name] for name, sign in signs.items() if isinstance(sign, int)}

    def _label(self, source: str, mapping: Mapping[str, str | None] | None) -> int:
        target = source if mapping is None else mapping[source]
        if target is None:
            if self.palette.unscored is None:
                raise UserError(
                    f"CLASS_MAPPING drops '{source}', but the palette has no label for pixels that are not scored: add"
                    f" {self.palette.classes}."
                )
            return self.palette.unscored
        if target in self.palette.names:
            return self.palette.names.index(target)
        if mapping is None:
            raise UserError(f"SOURCE_CLASSES has '{source}', label_values has not: say in CLASS_MAPPING what becomes of it.")
        raise UserError(
            f"CLASS_MAPPING makes '{source}' a '{target}', which label_values does not have."
            f"{nearest(target, self.palette.names)} It has {listing(self.palette.names)}."
        )


def label_of(name: str, legend: Legend) -> int:
    """The label of a class, by its name in the ground truth or here. Raises UserError where there is none."""
    labels = {own: label for label, own in enumerate(legend.palette.names)} | legend.names
    if name not in labels:
        raise UserError(f"there is no class '{name}'.{nearest(name, labels)} The classes are {listing(labels, 20)}.")
    return labels[name]


def _check_sources(classes: Mapping | None, mapping: Mapping | None) -> None:
    if classes is None or mapping is None:
        return
    forgotten = [name for name in classes if name not in mapping]
    if forgotten:
        raise UserError(f"CLASS_MAPPING leaves out {listing(forgotten)}: say which class it becomes, or None to drop it.")
    unknown = [name for name in mapping if name not in classes]
    if unknown:
        raise UserError(
            f"CLASS_MAPPING maps '{unknown[0]}', which SOURCE_CLASSES does not have.{nearest(unknown[0], classes)} It has"
            f" {listing(classes)}."
        )


def _check_signs(signs: Mapping[str, Colour | int]) -> None:
    seen: dict[Colour | int, str] = {}
    for name, sign in signs.items():
        if sign in seen:
            raise UserError(f"SOURCE_CLASSES gives {sign} to both '{seen[sign]}' and '{name}': each needs its own.")
        seen[sign] = name
