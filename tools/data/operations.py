"""The setting AUGMENTATION: which operations there are, their numbers, limits and defaults."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.base.choices import REQUIRED, Limits, read_choice
from tools.base.errors import UserError, listing, nearest

OPERATIONS: dict[str, dict[str, Any]] = {  # operation -> its numbers with their defaults
    # Before the samples: records whose rarest class is rare are drawn up to `most` times as often as others.
    "rare": {"most": 4},
    # Four records meet at a point; a rectangle, of up to that share of the area, comes from another record.
    "mosaic": {"probability": 0.5},
    "cutmix": {"share": 0.5, "probability": 0.5},
    # A window of so many pixels anywhere in the patch; magnified 0.8 to 1.25 times; turned by up to so many degrees.
    "crop": {"height": REQUIRED, "width": REQUIRED},
    "scale": {"smallest": 0.8, "largest": 1.25, "probability": 0.5},
    "rotate": {"degrees": REQUIRED, "probability": 0.5},
    # Probabilities of the two mirror images; 0, 90, 180 or 270 degrees, each as likely.
    "flip": {"left_right": 0.5, "top_bottom": 0.5},
    "turn": {},
    # Of the modalities named. Deviations are those of the band; a factor or exponent f means 1 / f to f.
    "brightness": {"modalities": REQUIRED, "deviations": 0.3, "probability": 0.5},
    "contrast": {"modalities": REQUIRED, "factor": 1.25, "probability": 0.5},
    "gamma": {"modalities": REQUIRED, "exponent": 1.25, "probability": 0.5},
    "blur": {"modalities": REQUIRED, "pixels": 1.0, "probability": 0.2},
    "noise": {"modalities": REQUIRED, "deviations": 0.1, "probability": 0.2},
    # One modality, of those named or of all, becomes its mean: 0 after normalisation. The others stay.
    "dropout": {"modalities": None, "probability": 0.1},
}


# ------------------------------------------------------------------------------------------------------ reading the recipe


def _between(low: float, high: float) -> tuple[Callable[[float], bool], str]:
    return lambda v: low <= v <= high, f"between {low:g} and {high:g}"


def _above(low: float, high: float) -> tuple[Callable[[float], bool], str]:
    return lambda v: low < v <= high, f"above {low:g} and at most {high:g}"


_PIXELS = (lambda v: v >= 1 and v == int(v), "a whole number of pixels")
_LIMITS: Limits = {
    "most": _above(1, 100), "share": _above(0, 1), "probability": _above(0, 1), "height": _PIXELS, "width": _PIXELS,
    "smallest": _between(0.5, 1),  # below a half, bilinear resampling would leave pixels out
    "largest": _between(1, 4), "degrees": _above(0, 180), "left_right": _between(0, 1), "top_bottom": _between(0, 1),
    "deviations": _above(0, 3), "factor": _above(1, 4), "exponent": _above(1, 4), "pixels": _above(0, 10),
}  # fmt: skip


def read_recipe(given: Mapping[str, Mapping], modalities: Sequence[str], patch_size: tuple[int, int]) -> dict[str, dict]:
    """The operations of AUGMENTATION with all their numbers, in the order in which they are done.

    modalities: those that the net reads. patch_size: height and width of the records. Raises UserError for operations, numbers
    or modalities that there are not, and for numbers that are out of range or do not fit these records.
    """
    recipe = {name: OPERATIONS.get(name, {}) | _numbers(name, numbers, modalities) for name, numbers in given.items()}
    size = sample_size(recipe, patch_size)
    if any(own > whole for own, whole in zip(size, patch_size, strict=True)):
        raise UserError(
            f"AUGMENTATION: 'crop' to {size[0]} x {size[1]} is larger than patch_size = {tuple(patch_size)}: make it smaller,"
            " or extract larger patches."
        )
    if "turn" in recipe and size[0] != size[1]:
        raise UserError(
            f"AUGMENTATION: 'turn' needs square samples, they are {size[0]} x {size[1]}: leave it out, or 'crop' to a square."
        )
    if "dropout" in recipe and len(modalities) < 2:
        raise UserError(
            f"AUGMENTATION: 'dropout' needs two modalities or more, the net reads only {listing(modalities)}: leave it out."
        )
    return {name: recipe[name] for name in OPERATIONS if name in recipe}


def sample_size(recipe: Mapping[str, Mapping], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what the net is trained on."""
    crop = recipe.get("crop")
    return (int(crop["height"]), int(crop["width"])) if crop else tuple(patch_size)


def _numbers(name: str, given: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """What one operation is given, checked."""
    choices = {n: {key: d for key, d in known.items() if key != "modalities"} for n, known in OPERATIONS.items()}
    names = "modalities" in OPERATIONS.get(name, {})
    numbers = {key: value for key, value in given.items() if not (names and key == "modalities")}
    found = read_choice("AUGMENTATION", numbers | {"name": name}, choices, _LIMITS)
    if names and ("modalities" in given or OPERATIONS[name]["modalities"] is REQUIRED):
        found["modalities"] = _modalities(name, given.get("modalities"), modalities)
    return found


def _modalities(name: str, given: Any, known: Sequence[str]) -> list[str]:
    if not isinstance(given, list | tuple) or not given or not all(isinstance(m, str) for m in given):
        raise UserError(
            f"AUGMENTATION: '{name}' needs 'modalities', a list of those that it changes, such as {list(known)}; it is"
            f" {given!r}."
        )
    for modality in given:
        if modality not in known:
            raise UserError(
                f"AUGMENTATION: '{name}' names the modality '{modality}', which the net does not read."
                f"{nearest(modality, known)} It reads {listing(known)}."
            )
    return list(given)
