"""What weights say of themselves, as JSON values: the forms that it has, and whether it holds together."""

from collections.abc import Iterable, Mapping
from typing import Any

from tools.base.forms import fault

INPUT = {  # one input of a net, as tools.data.inputs writes and reads it
    "name": str, "modalities": [str], "bands": [int], "bgr": bool, "mean": [float], "deviation?": ([float], None),
    "clip?": ([bool], None), "picks?": ([[int]], None), "file_bands?": ([int], None), "raw?": (bool, None),
    "dtypes?": ([str], None), "fill?": ([float], None), "any_band?": ([bool], None),
}  # fmt: skip
ABOUT = {
    "name": str, "iteration": (int, str), "dataset": str, "classes": [str], "palette": {str: [int]}, "ignored": [int],
    "inputs": [INPUT], "patch_size": [int], "pixel_size": (float, None), "run": (str, None), "trained_on": [str],
    "resize": ([int], float, None), "folders": {str: str},
    "statistics": {str: {"mean": [float], "deviation": [float], "low": [float], "high": [float]}},
}  # fmt: skip
NEEDED = ("name", "iteration", "classes", "palette", "ignored", "inputs")  # of these, to label with it


def check_about(about: Any, needed: Iterable[str] = NEEDED) -> None:
    """Raise ValueError, with the reason, unless this is of our form, has all that is needed, and holds together."""
    if wrong := fault(about, {name if name in needed else f"{name}?": form for name, form in ABOUT.items()}):
        raise ValueError(f"what it says of itself is not of our form ({wrong})")
    for given in about.get("inputs", ()):
        check_input(given)
    if not 0 < (about.get("pixel_size") or 1) < float("inf"):
        raise ValueError("what it says of itself is not of our form (pixel_size is no size in metres)")
    if any(not key.isdigit() for key in about.get("palette", ())):
        raise ValueError("what it says of itself is not of our form (a label of the palette is no number)")
    if any(not 0 <= label < len(about.get("classes", ())) for label in about.get("ignored", ())):
        raise ValueError("what it says of itself is not of our form (it ignores a class that it does not have)")


def check_input(given: Mapping[str, Any]) -> None:
    """Raise ValueError, with the reason, unless this is an input with one number for each channel and modality."""
    if wrong := fault(given, INPUT):
        raise ValueError(f"an input is not of our form ({wrong})")
    if unknown := sorted(given.keys() - {name.rstrip("?") for name in INPUT}):
        raise ValueError(f"an input has '{unknown[0]}', which a newer version of this software may know")
    channels, modalities = sum(given["bands"]), len(given["modalities"])
    lengths = dict.fromkeys(("modalities", "bands", "picks", "file_bands", "dtypes", "any_band"), modalities)
    lengths |= dict.fromkeys(("mean", "deviation", "clip", "fill"), channels)
    odd = [name for name, length in lengths.items() if given.get(name) is not None and len(given[name]) != length]
    if odd or not modalities or min(given["bands"]) < 1:
        raise ValueError(f"the input '{given['name']}' has {odd[0] if odd else 'bands'} that do not go with its channels")
