"""Where a net and the labels of a tile disagree, and how surely: planes on disk, and places in them.

A place is connected pixels (4 neighbours) of one label that the net surely takes for something else. Pixels within RIM of one
that it does not are left out: borders that are drawn a little off, and thin lines, are no faults of labels.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion, find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as connected

from tools.geo.windows import Window, row_windows
from tools.inference.labeller import Band

RIM = 2  # pixels along the border of a disagreement that do not count
SURE = 0.5  # by so much the predicted class must be more probable than the labelled one
_WHOLE = 255  # what stands for a probability of 1
_AROUND = np.ones((2 * RIM + 1, 2 * RIM + 1), bool)


@dataclass(frozen=True)
class Place:
    """Connected pixels of one label that look like something else.

    window: the smallest one around them and their rim. label: what they are labelled as. predicted: what most of them look
    like. pixels: without the rim. score: the sum over them of how much more probable the predicted class is than the labelled
    one. confidence: the mean probability of the predicted classes.
    """

    window: Window
    label: int
    predicted: int
    pixels: int
    score: float
    confidence: float


class Disagreement:
    """The planes of one tile (h x w, uint8), files in a folder, so that memory does not grow with the tile.

    labels and predicted: classes. margin: by how much the predicted class is more probable than the labelled one, and
    confidence: how probable it is, both 0 to 255. Where there is no label or no data, the margin is 0.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], classes: int):
        names = ("labels", "predicted", "margin", "confidence")
        self.shape, self.classes = shape, classes
        self.labels, self.predicted, self.margin, self.confidence = (
            np.memmap(folder / name, np.uint8, "w+", shape=shape) for name in names
        )

    def add(self, band: Band, labels: np.ndarray, ignored: Collection[int]) -> None:
        """Take a labelled piece of the tile, and what it is labelled as (h x w). Pixels of ignored classes do not count."""
        counts = np.zeros(256, bool)
        counts[: self.classes] = True
        counts[list(ignored)] = False
        counted = counts[labels] & (band.labels < self.classes)
        of_label, of_predicted = (_probability(band, np.where(counted, chosen, 0)) for chosen in (labels, band.labels))
        margin = np.where(counted, np.maximum(of_predicted - of_label, 0), 0)
        here = band.window.slices
        self.labels[here], self.predicted[here] = labels, band.labels
        self.margin[here], self.confidence[here] = (np.rint(_WHOLE * plane) for plane in (margin, of_predicted))

    def share(self, window: Window) -> float:
        """The share of a window's pixels that are surely something else."""
        return float((self.margin[window.slices] > SURE * _WHOLE).mean())

    def places(self) -> list[Place]:
        """All of them, strip by strip; those that reach over several strips are one."""
        pieces, pairs, above = _Pieces(self.classes), [], None
        for window in row_windows(*self.shape):
            core, labels = self._core(window), self.labels[window.slices]
            numbers = connected(np.where(core, labels.astype(np.int32) + 1, 0), background=0, connectivity=1)
            numbers[core] += len(pieces)
            if above is not None:
                touching = (above[0] > 0) & (numbers[0] > 0) & (above[1] == labels[0])
                pairs.append(np.stack([above[0], numbers[0]])[:, touching] - 1)
            above = numbers[-1].copy(), labels[-1].copy()
            pieces.add(self, window, numbers)
        return list(pieces.joined(pairs, self.shape))

    def _core(self, window: Window) -> np.ndarray:
        """Which pixels of whole rows the net surely takes for something else, and all that are within RIM of them."""
        first, end = max(window.row - RIM, 0), min(window.row + window.height + RIM, self.shape[0])
        core = binary_erosion(self.margin[first:end] > SURE * _WHOLE, _AROUND, border_value=1)
        return core[window.row - first :][: window.height]


def _probability(band: Band, chosen: np.ndarray) -> np.ndarray:
    """Of a chosen class at each pixel (h x w)."""
    return np.take_along_axis(band.probabilities, chosen[None].astype(np.intp), 0)[0]


class _Pieces:
    """The parts of places that lie in one strip each: their sums, by number."""

    def __init__(self, classes: int):
        self.classes = classes
        self.labels, self.boxes = np.zeros(0, int), np.zeros((0, 4), int)  # boxes: first row, column; end row, column
        self.sums = np.zeros((0, 2 + classes))  # margin, confidence; pixels by predicted class

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, of: Disagreement, window: Window, numbers: np.ndarray) -> None:
        """Take those of a strip; numbers: of its pixels, from len(self) + 1 on, 0 for none."""
        rows, cols = np.nonzero(numbers)
        known, here = len(self), window.slices
        number = numbers[rows, cols] - known - 1
        count = int(number.max(initial=-1)) + 1
        labels, predicted, margin, confidence = (
            plane[here][rows, cols] for plane in (of.labels, of.predicted, of.margin, of.confidence)
        )
        sums = [np.bincount(number, values / _WHOLE, count) for values in (margin, confidence)]
        by_class = np.bincount(number * self.classes + predicted, minlength=count * self.classes).reshape(count, self.classes)
        of_piece = np.zeros(count, int)
        of_piece[number] = labels
        found = find_objects(np.maximum(numbers - known, 0))
        boxes = [(s[0].start + window.row, s[1].start, s[0].stop + window.row, s[1].stop) for s in found]
        self.labels = np.concatenate([self.labels, of_piece])
        self.boxes = np.concatenate([self.boxes, np.array(boxes, int).reshape(count, 4)])
        self.sums = np.concatenate([self.sums, np.column_stack([*sums, by_class])])

    def joined(self, pairs: list[np.ndarray], shape: tuple[int, int]) -> Iterator[Place]:
        """The places; pairs (2 x n each): numbers of pieces, from 0, that touch over the border of two strips."""
        first, second = np.concatenate([np.zeros((2, 0), int), *pairs], 1)
        graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(self), len(self)))
        group = connected_components(graph, directed=False)[1]
        for pieces in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
            if len(pieces):
                yield self._place(pieces, shape)

    def _place(self, pieces: np.ndarray, shape: tuple[int, int]) -> Place:
        margin, confidence, *by_class = self.sums[pieces].sum(0)
        row, col = np.maximum(self.boxes[pieces, :2].min(0) - RIM, 0).tolist()
        end_row, end_col = np.minimum(self.boxes[pieces, 2:].max(0) + RIM, shape).tolist()
        pixels, window = int(sum(by_class)), Window(row, col, end_row - row, end_col - col)
        label, predicted = int(self.labels[pieces[0]]), int(np.argmax(by_class))
        return Place(window, label, predicted, pixels, float(margin), float(confidence / pixels))
