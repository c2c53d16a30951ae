"""Validation: whole tiles, labelled by the sliding windows of inference, are scored piece by piece while a net trains."""

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from nets.net import check_windows
from tools.base.errors import UserError
from tools.compute.distributed import ALONE, Ranks
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.inference.labeller import NO_DATA, Band, Labeller
from tools.inference.tile_list import Tile
from tools.labels import pictures
from tools.labels.palette import Palette
from tools.labels.scores import confusion, report
from tools.record.history import Validation
from tools.solver.losses import NO_LOSS, Loss

PICTURE_SIZE = 384  # pixels, the longer side of the tile in the sample picture
_LEAST = np.finfo(np.float32).tiny  # probability; a net that is quite sure of a wrong class costs 87, not infinitely much


def check(data: DataSettings, palette: Palette, window: Sequence[int], net: nn.Module, patience: int | None) -> None:
    """Raise UserError now, and not at the first snapshot, if the validation tiles cannot be labelled.

    palette: of the classes. window: height and width of inference's window. patience: PATIENCE, which counts validations.
    """
    if data.val_ids:
        check_windows(net, *window)
        data.dataset.check(data.with_labels, data.val_ids, palette)
        return
    check_patience(patience)


def check_patience(patience: int | None) -> None:
    """Raise UserError where training is to end by validations, of which there are none."""
    if patience:
        raise UserError(f"PATIENCE = {patience} counts validations, but val_ids is empty: name some tiles, or set None.")


def validate(
    labeller: Labeller,
    tiles: list[Tile],
    palette: Palette,
    ignored: Collection[int],
    ranks: Ranks = ALONE,
    trained: Loss | None = None,
) -> Validation:
    """Label the tiles and score them; several processes share the tiles and all get the scores of all of them.

    The loss is the mean over the scored pixels of -ln(probability of the true class), after overlapping windows are blended:
    cross entropy, whatever LOSS is, without class weights. So it says what the maps are worth, and runs with other losses can
    be compared by it. trained: the loss that the net learns by, computed beside it. Pixels of ignored classes give no loss, as
    in training. One piece of a tile is in memory at a time.
    """
    sums, sample = Sums(palette, ignored, trained), _Sample(tiles[0])
    for tile in ranks.share(tiles):
        for band, truth in _bands(labeller, tile):
            sums.add(band, truth)
            if tile is tiles[0]:
                sample.add(band, truth)
    return sums.validation(sample.draw(palette), ranks)


class Sums:
    """What is added up piece by piece: pixels by true class and label, cross entropy, and the loss that the net learns by.

    trained: that loss; of regions (Dice ...), it is the mean over the pieces, weighted by their pixels, as it is over the parts
    of a batch. None for cross entropy alone.
    """

    def __init__(self, palette: Palette, ignored: Collection[int], trained: Loss | None = None):
        self.palette, self.ignored = palette, ignored
        self.trained = None if trained is None or trained.is_cross_entropy else trained
        self.matrix = np.zeros((palette.classes, palette.classes), np.int64)
        self.sums = np.zeros(4)  # cross entropy, its pixels; the trained loss, its weight

    def add(self, band: Band, truth: np.ndarray) -> None:
        """Take a labelled piece of a tile, and its labels."""
        self.matrix += confusion(truth, band.labels, self.palette.classes)
        self.sums[:2] += cross_entropy(band, truth, self.ignored)
        if self.trained:
            self.sums[2:] += self._trained(band, truth)

    def _trained(self, band: Band, truth: np.ndarray) -> tuple[float, float]:
        """(trained loss times weight, weight) of a piece; the logarithms of probabilities are logits that have them."""
        logits = torch.from_numpy(np.log(np.maximum(band.probabilities, _LEAST)))[None]
        target = np.where(_scored(band, truth, self.ignored), truth, NO_LOSS)
        target = torch.from_numpy(target.astype(np.int64))[None]
        weight = float(self.trained.amount(target))
        return (float(self.trained(logits, target)) * weight, weight) if weight else (0.0, 0.0)

    def validation(self, picture: np.ndarray, ranks: Ranks) -> Validation:
        """What all processes found together."""
        matrix = ranks.total(torch.from_numpy(self.matrix)).numpy()
        entropy, pixels, trained, weight = ranks.total(torch.from_numpy(self.sums)).tolist()
        loss = entropy / pixels if pixels and math.isfinite(entropy) else None
        own = {"trained_loss": trained / weight if weight and math.isfinite(trained) else None} if self.trained else {}
        return Validation({"loss": loss, **own, **report(matrix, self.palette.names, self.ignored)}, picture)


def _bands(labeller: Labeller, tile: Tile) -> Iterable[tuple[Band, np.ndarray]]:
    """The pieces of a labelled tile, each with its labels."""
    with raster.open_numbers(tile.truths["labels"]) as file:
        for band in labeller.bands(tile.paths):
            yield band, raster.read_labels_window(file, band.window, NO_DATA)


def cross_entropy(band: Band, truth: np.ndarray, ignored: Collection[int]) -> tuple[float, int]:
    """(sum of -ln(probability of the true class), pixels that it is summed over) of a piece of a tile."""
    scored = _scored(band, truth, ignored)
    rows, cols = np.nonzero(scored)
    of_truth = band.probabilities[truth[scored], rows, cols]
    return float(-np.log(np.maximum(of_truth, _LEAST)).sum(dtype=np.float64)), int(scored.sum())


def _scored(band: Band, truth: np.ndarray, ignored: Collection[int]) -> np.ndarray:
    """Which pixels of a piece give a loss."""
    counts = np.zeros(256, bool)
    counts[: len(band.probabilities)] = True
    counts[list(ignored)] = False
    return counts[truth] & (band.labels != NO_DATA)


class _Sample:
    """A tile's labels and prediction, of which every n-th row and column is kept."""

    def __init__(self, tile: Tile):
        about = raster.inspect(tile.truths["labels"])
        self.image = tile.first
        self.every = math.ceil(max(about.height, about.width) / PICTURE_SIZE)
        shape = -(-about.height // self.every), -(-about.width // self.every)
        self.truth, self.predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)

    def add(self, band: Band, truth: np.ndarray) -> None:
        """Take what falls on the kept rows and columns."""
        row, col = -band.row % self.every, -band.col % self.every  # the first kept ones in this piece
        there = slice((band.row + row) // self.every, None), slice((band.col + col) // self.every, None)
        for kept, values in ((self.truth, truth), (self.predicted, band.labels)):
            small = values[row :: self.every, col :: self.every]
            kept[there][: small.shape[0], : small.shape[1]] = small

    def draw(self, palette: Palette) -> np.ndarray:
        """Image, ground truth and prediction side by side."""
        small = pictures.as_picture(raster.read_small(self.image, PICTURE_SIZE, 3))
        rows, cols = (np.arange(n) * m // n for n, m in zip(self.truth.shape, small.shape, strict=False))
        gap = np.full((self.truth.shape[0], 4, 3), 255, np.uint8)
        both = [np.where(a == NO_DATA, palette.no_label, a).astype(np.uint8) for a in (self.truth, self.predicted)]
        truth, predicted = map(palette.to_colours, both)
        panels = [small[rows][:, cols], gap, truth, gap, predicted]
        return np.concatenate(panels, axis=1)
