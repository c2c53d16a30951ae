"""What a map holds: pixels, share, area and confidence of each class, how sure the net was, and where it did worst."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tools.geo.pixel_size import pixel_areas
from tools.geo.raster import Raster
from tools.geo.windows import Window

BINS = 20  # of the histogram of confidence
BLOCK = 128  # pixels, the side of the squares among which the worst are found
MOST_BLOCKS = 20
_AT_ONCE = 1 << 20  # pixels, so that what is counted needs little memory


class TileStatistics:
    """The statistics of one map, added up piece by piece.

    about: of the map: its size and its place on Earth. classes: their names. scored: whether there is ground truth.
    """

    def __init__(self, about: Raster, classes: Sequence[str], scored: bool):
        self.about, self.classes, self.scored = about, list(classes), scored
        self.areas = pixel_areas(about)
        self.pixels = np.zeros(len(classes), np.int64)
        self.confidence = np.zeros(len(classes))  # sums
        self.area = np.zeros(len(classes))
        self.histogram = np.zeros((2, BINS), np.int64)  # of wrong pixels, and of right ones
        self.unscored = np.zeros(BINS, np.int64)
        blocks = -(-about.height // BLOCK), -(-about.width // BLOCK)
        self.blocks = {"labelled": np.zeros(blocks), "confidence": np.zeros(blocks)}
        if scored:
            self.blocks |= {"scored": np.zeros(blocks), "wrong": np.zeros(blocks)}

    def add(self, window: Window, labels: np.ndarray, confidence: np.ndarray, truth: np.ndarray | None = None) -> None:
        """Add a piece of the map: labels (h x w), the probability of each pixel's label, and the truth. 255: no label."""
        rows = max(1, _AT_ONCE // window.width)
        for i in range(0, window.height, rows):
            part = Window(window.row + i, window.col, min(rows, window.height - i), window.width)
            some = slice(i, i + rows)
            self._add(part, labels[some], confidence[some], None if truth is None else truth[some])

    def _add(self, window: Window, labels: np.ndarray, confidence: np.ndarray, truth: np.ndarray | None) -> None:
        classes = len(self.classes)
        labelled = labels < classes
        known = np.where(labelled, labels, classes).astype(np.intp)
        confidence = np.where(labelled, confidence, 0)
        by_row = known + (classes + 1) * np.arange(window.height)[:, None]
        counts = np.bincount(by_row.ravel(), minlength=window.height * (classes + 1)).reshape(window.height, -1)[:, :classes]
        self.pixels += counts.sum(0)
        if self.areas is not None:
            self.area += self.areas[window.row : window.row + window.height] @ counts
        self.confidence += np.bincount(known.ravel(), confidence.ravel(), classes + 1)[:classes]
        self._add_blocks("labelled", window, labelled)
        self._add_blocks("confidence", window, confidence)
        bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
        if truth is None:
            self.unscored += np.bincount(bins[labelled], minlength=BINS)
            return
        scored = labelled & (truth < classes)
        right = scored & (truth == labels)
        self.unscored += np.bincount(bins[labelled & ~scored], minlength=BINS)
        self.histogram += np.bincount(bins[scored] + BINS * right[scored], minlength=2 * BINS).reshape(2, BINS)
        self._add_blocks("scored", window, scored)
        self._add_blocks("wrong", window, scored & ~right)

    def _add_blocks(self, name: str, window: Window, values: np.ndarray) -> None:
        """Add values (h x w) up within the blocks that they lie in."""
        first, cuts = [], []
        for start, length in ((window.row, window.height), (window.col, window.width)):
            numbers = np.arange(start, start + length) // BLOCK
            first.append(slice(numbers[0], numbers[-1] + 1))
            cuts.append(np.flatnonzero(np.diff(numbers, prepend=-1)))
        sums = np.add.reduceat(np.add.reduceat(values, cuts[1], axis=1, dtype=np.float64), cuts[0], axis=0)
        self.blocks[name][tuple(first)] += sums

    def to_dict(self) -> dict[str, Any]:
        """For statistics.json."""
        about, wrong_and_right = self.about, self.histogram
        return {
            "height": about.height,
            "width": about.width,
            "crs": about.crs.to_string() if about.crs else None,
            "pixel_size": about.transform and [float(np.hypot(*about.transform[i : i + 4 : 3])) for i in (0, 1)],
            "classes": class_table(self.classes, self.pixels, self.area if self.areas is not None else None, self.confidence),
            "confidence_histogram": {
                "edges": [i / BINS for i in range(BINS + 1)],
                "pixels": (self.unscored + wrong_and_right.sum(0)).tolist(),
                "right": wrong_and_right[1].tolist() if self.scored else None,
                "wrong": wrong_and_right[0].tolist() if self.scored else None,
            },
            "blocks": self._worst_blocks(),
        }

    def _worst_blocks(self) -> list[dict[str, Any]]:
        """The blocks with the largest share of wrong pixels, or without truth those that the net was least sure of.

        Slivers at the edges and blocks that hardly anything is known of are left out, unless there are no others.
        """
        count = self.blocks["scored" if self.scored else "labelled"]
        with np.errstate(invalid="ignore", divide="ignore"):
            confidence = self.blocks["confidence"] / self.blocks["labelled"]
            badness = self.blocks["wrong"] / count if self.scored else 1 - confidence
        enough = BLOCK * BLOCK / 4
        fit = (count >= enough if (count >= enough).any() else count > 0) & (badness > 0)
        rows, cols = np.nonzero(fit)
        worst = np.argsort(-badness[rows, cols], kind="stable")[:MOST_BLOCKS]
        return [self._block(int(rows[i]), int(cols[i]), confidence) for i in worst]

    def _block(self, i: int, j: int, confidence: np.ndarray) -> dict[str, Any]:
        row, col = i * BLOCK, j * BLOCK
        known = {name: int(self.blocks[name][i, j]) if self.scored else None for name in ("scored", "wrong")}
        size = {"height": min(BLOCK, self.about.height - row), "width": min(BLOCK, self.about.width - col)}
        return {"row": row, "col": col, **size, **known, "mean_confidence": float(confidence[i, j])}


_SHARE = (float, None)
FORM = {  # of `TileStatistics.to_dict`, for tools.base.forms; reports are made of it
    "height": int,
    "width": int,
    "classes": {str: {"pixels": int, "share": _SHARE, "area_m2": _SHARE, "mean_confidence": _SHARE}},
    "confidence_histogram?": ({"edges": [float], "pixels": [int], "right": ([int], None), "wrong": ([int], None)}, None),
    "blocks": [dict.fromkeys(("row", "col", "height", "width"), int)
               | {"scored": (int, None), "wrong": (int, None), "mean_confidence": float}],
}  # fmt: skip


def class_table(names: Sequence[str], pixels: np.ndarray, area: np.ndarray | None, confidence: np.ndarray) -> dict[str, dict]:
    """By class: pixels, share of the labelled pixels, area in square metres, mean confidence; None where there is none.

    area: by class, or None where it is not known. confidence: sums by class.
    """
    total = int(pixels.sum())
    return {
        name: {
            "pixels": int(n),
            "share": int(n) / total if total else None,
            "area_m2": None if area is None else float(area[i]),
            "mean_confidence": float(confidence[i]) / int(n) if n else None,
        }
        for i, (name, n) in enumerate(zip(names, pixels, strict=True))
    }


def together(tables: Iterable[Mapping[str, Mapping]]) -> dict[str, dict]:
    """The class tables of several maps as one; the area is known where it is known of all of them."""
    tables = list(tables)
    names = list(tables[0])
    rows = [[table[name] for name in names] for table in tables]
    pixels = np.array([[cell["pixels"] for cell in row] for row in rows]).sum(0)
    known = all(cell["area_m2"] is not None for row in rows for cell in row)
    area = np.array([[cell["area_m2"] for cell in row] for row in rows]).sum(0) if known else None
    sums = np.array([[cell["pixels"] * (cell["mean_confidence"] or 0) for cell in row] for row in rows]).sum(0)
    return class_table(names, pixels, area, sums)


def as_text(table: Mapping[str, Mapping]) -> str:
    """A class table for the terminal."""
    width = max(map(len, table))
    lines = [f"{'':{width}}          pixels   share            area  confidence"]
    for name, cell in table.items():
        area = "-" if cell["area_m2"] is None else f"{cell['area_m2']:,.0f} m2"
        share, sure = (None if cell[key] is None else 100 * cell[key] for key in ("share", "mean_confidence"))
        lines.append(f"{name:{width}}  {cell['pixels']:>14,}  {_percent(share)}  {area:>14}  {_percent(sure):>10}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{value:5.1f}%"
