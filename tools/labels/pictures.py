"""Pictures for people: label maps beside image and truth.

Figures are made without pyplot: it takes half a second to import, wants a screen to be chosen, and keeps figures alive.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tools.base.errors import UserError
from tools.base.folders import whole_file
from tools.labels.palette import Palette

_OURS, _WORDS = "orthonets", {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}  # in the metadata of our pictures
ERRORS = Palette(["right", "wrong"], {0: (255, 255, 255), 1: (222, 45, 38), 2: (160, 160, 160)})  # 2: not scored
_TALLEST = 8  # times the width, in comparisons: that of a tile one pixel wide would take gigabytes


def comparison(
    path: Path, image: np.ndarray, truth: np.ndarray | None, predicted: np.ndarray, palette: Palette, title: str
) -> None:
    """Image, truth, prediction and errors side by side, with a legend; without truth, image and prediction.

    image: bands x h x w of any number type. truth, predicted: h x w labels.
    """
    panels = [("image", as_picture(image)), ("prediction", palette.to_colours(predicted))]
    if truth is not None:
        errors = error_map(truth, predicted, palette)
        panels[1:1] = [("ground truth", palette.to_colours(truth))]
        panels.append(("errors (red), not scored (grey)", errors))
    tall = min(image.shape[1] / image.shape[2], _TALLEST)
    figure = Figure(figsize=(4 * len(panels), 4 * tall + 0.9))
    axes = figure.subplots(1, len(panels))
    for axis, (name, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 600 else "antialiased")
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    legend(figure, palette)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def legend(figure, palette: Palette) -> None:
    """The palette's classes below a figure."""
    colours = {name: np.array(palette.colours[i]) / 255 for i, name in enumerate(palette.names)}
    handles = [Patch(facecolor=colour, edgecolor="#636363", label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), fontsize=9, frameon=False)


def as_picture(image: np.ndarray) -> np.ndarray:
    """h x w x 3 uint8 to look at: the first three bands (or the one, in grey), stretched unless they are bytes already."""
    bands = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    if bands.dtype != np.uint8:
        low, high = np.nanpercentile(bands, [2, 98]) if np.isfinite(bands).any() else (0, 1)
        bands = np.clip(255 * (np.nan_to_num(bands, nan=low) - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    return bands.transpose(1, 2, 0)


def error_map(truth: np.ndarray, predicted: np.ndarray, palette: Palette) -> np.ndarray:
    """h x w x 3: white where the label is right, red where it is wrong, grey where it is not scored."""
    return ERRORS.to_colours(errors(truth, predicted, palette.classes))


def errors(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """h x w, uint8, labels of ERRORS: whether predicted labels are right, or not scored as truth or label are no class."""
    return np.where((truth >= classes) | (predicted >= classes), ERRORS.no_label, truth != predicted).astype(np.uint8)


def save(figure: Figure, path: Path, bottom: float = 0.05) -> None:
    """Write a figure as a whole file, which says that it is ours; bottom: the share of the height that is kept for a legend."""
    with whole_file(path) as temporary:
        figure.tight_layout(rect=(0, bottom, 1, 1))
        figure.savefig(temporary, dpi=110, metadata={_WORDS[path.suffix]: _OURS} if path.suffix in _WORDS else None)


def refuse_others(path: Path) -> None:
    """Raise UserError if a file at this path is no picture of ours, and so must not be overwritten."""
    if path.is_file() and (not path.stat().st_size or _OURS.encode() in path.read_bytes()):
        return
    if path.exists():
        raise UserError(f"{path} is there already and no picture that training.py drew: choose another name, or remove it.")
