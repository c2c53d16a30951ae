"""What the notebooks need beside the scripts: small pictures, a training that draws itself, mistakes as one sentence.

Jupyter's own modules are imported when they are needed: requirements-notebooks.txt has them, requirements.txt has not.
"""

import importlib.util
import io
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tools.base.errors import UserError
from tools.compute.waiting import choose_waiting

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import DisplayHandle, Image

    from tools.record.history import Interval, Validation

NEEDED = ("torch", "torchvision", "rasterio", "lmdb", "scipy", "tqdm")  # what a kernel without our environment may lack
WIDEST = 960  # pixels of a picture, and of figures so many for an inch:
DPI = 72
_COLOURS = 256  # a palette makes pictures a third as large
_PAUSE_SECONDS = 2.0  # between two drawings of curves


def begin(shell: "InteractiveShell") -> None:
    """Make a kernel ready; shell: get_ipython(). Raises ModuleNotFoundError where it has not what the project needs.

    From now on a mistake of the user's ends a cell with its sentence instead of a traceback.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    choose_waiting()  # PyTorch is imported later
    warnings.filterwarnings("ignore", "IProgress not found")  # libraries' bars would like to be widgets; ours are text

    def tell(_shell, _kind, error: UserError, _traceback, tb_offset=None) -> None:
        print(error, file=sys.stderr)

    shell.set_custom_exc((UserError,), tell)


def picture(what: Figure | np.ndarray | Path, dpi: int = DPI) -> "Image":
    """A picture for a cell's output: a figure, pixels (h x w x 3, uint8) or a file; dpi: of figures."""
    from IPython.display import Image

    return Image(data=as_png(what, dpi), format="png")


def as_png(what: Figure | np.ndarray | Path, dpi: int = DPI) -> bytes:
    """The same as the bytes of a PNG of at most 256 colours and WIDEST pixels."""
    import PIL.Image

    if isinstance(what, Figure):
        drawn = io.BytesIO()
        what.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
        image = PIL.Image.open(drawn)
    else:
        image = PIL.Image.fromarray(what) if isinstance(what, np.ndarray) else PIL.Image.open(what)
    image = image.convert("RGB")
    image.thumbnail((WIDEST, 4 * WIDEST))
    small = io.BytesIO()
    image.quantize(_COLOURS, dither=PIL.Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


class Watch:
    """Draws the curves of a run, and the first validation tile after each validation, below the cell that trains.

    title: of the curves. It is a watcher of `training.learn`.
    """

    def __init__(self, title: str):
        self.title = title
        self.training: list[dict] = []
        self.validation: list[dict] = []
        self.maps: list[tuple[str, np.ndarray]] = []  # titles and pictures
        self._shown: dict[str, DisplayHandle] = {}
        self._drawn = -_PAUSE_SECONDS

    def add(self, interval: "Interval") -> None:
        """A point of the training curves; they are drawn anew if a while has passed."""
        self.training.append(asdict(interval))
        if time.monotonic() - self._drawn > _PAUSE_SECONDS:
            self._draw_curves()

    def add_validation(self, iteration: int, found: "Validation") -> None:
        """A point of the validation curves, and a map."""
        self.validation.append({"iteration": iteration, **found.scores})
        score = "nothing is scored" if found.iou is None else f"mean IoU {100 * found.iou:.1f} %"
        self.maps.append((f"iteration {iteration}, {score}: image, ground truth, prediction", found.picture))
        self._draw_curves()
        self._show("maps", grid(self.maps))

    def _draw_curves(self) -> None:
        from tools.record import plots

        self._show("curves", plots.curves(self.training, self.validation, self.title))
        self._drawn = time.monotonic()

    def _show(self, name: str, figure: Figure) -> None:
        """Draw in the place of what was drawn before."""
        from IPython.display import display

        image = picture(figure)
        if name in self._shown:
            self._shown[name].update(image)
        else:
            self._shown[name] = display(image, display_id=True)


def grid(pictures: Sequence[tuple[str, np.ndarray]], columns: int = 1, inches: float = 7) -> Figure:
    """Pictures (h x w x 3) under their titles, in rows of so many; inches: the width of all."""
    rows = -(-len(pictures) // columns)
    tallest = max(pixels.shape[0] / pixels.shape[1] for _, pixels in pictures)
    figure = Figure(figsize=(inches, rows * (tallest * inches / columns + 0.35)))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (title, pixels) in zip(axes, pictures, strict=False):
        axis.imshow(pixels)
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure
