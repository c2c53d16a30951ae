"""Validation: whole tiles, labelled by the sliding windows of inference, are scored piece by piece while a net trains."""

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from nets.net import check_size
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

PICTURE_SIZE = 384  # pixels, the longer side of the tile in the sample picture
_LEAST = np.finfo(np.float32).tiny  # probability; a net that is quite sure of a wrong class costs 87, not infinitely much


def check(data: DataSettings, palette: Palette, window: Sequence[int], net: nn.Module, patience: int | None) -> None:
    """Raise UserError now, and not at the first snapshot, if the validation tiles cannot be labelled.

    palette: of the classes. window: height and width of inference's window. patience: PATIENCE, which counts validations.
    """
    if data.val_ids:
        check_size(*window, net.multiple)
        data.dataset.check(data.with_labels, data.val_ids, palette)
    elif patience:
        raise UserError(f"PATIENCE = {patience} counts validations, but val_ids is empty: name some tiles, or set None.")


def validate(
    labeller: Labeller, tiles: list[Tile], palette: Palette, ignored: Collection[int], ranks: Ranks = ALONE
) -> Validation:
    """Label the tiles and score them; several processes share the tiles and all get the scores of all of them.

    The loss is the mean over the scored pixels of -ln(probability of the true class), after overlapping windows are blended:
    cross entropy, whatever LOSS is, without class weights. So it says what the maps are worth, and runs with other losses can
    be compared by it. Pixels of ignored classes give no loss, as in training. One piece of a tile is in memory at a time.
    """
    matrix = np.zeros((palette.classes, palette.classes), np.int64)
    total, pixels = 0.0, 0
    sample = _Sample(tiles[0])
    for tile in ranks.share(tiles):
        for band, truth in _bands(labeller, tile):
            matrix += confusion(truth, band.labels, palette.classes)
            loss, scored = cross_entropy(band, truth, ignored)
            total, pixels = total + loss, pixels + scored
            if tile is tiles[0]:
                sample.add(band, truth)
    return made_of(matrix, total, pixels, sample.draw(palette), palette, ignored, ranks)


def made_of(
    matrix: np.ndarray, total: float, pixels: int, picture: np.ndarray, palette: Palette, ignored: Collection[int], ranks: Ranks
) -> Validation:
    """The validation that all processes found together, from each one's confusion matrix, sum of losses and scored pixels."""
    matrix = ranks.total(torch.from_numpy(matrix)).numpy()
    total, pixels = ranks.total(torch.tensor([total, pixels], dtype=torch.float64)).tolist()
    loss = total / pixels if pixels and math.isfinite(total) else None
    return Validation({"loss": loss, **report(matrix, palette.names, ignored)}, picture)


def _bands(labeller: Labeller, tile: Tile) -> Iterable[tuple[Band, np.ndarray]]:
    """The pieces of a labelled tile, each with its labels."""
    with raster.open_raster(tile.truths["labels"]) as file:
        for band in labeller.bands(tile.paths):
            yield band, raster.read_window(file, band.window)[0]


def cross_entropy(band: Band, truth: np.ndarray, ignored: Collection[int]) -> tuple[float, int]:
    """(sum of -ln(probability of the true class), pixels that it is summed over) of a piece of a tile."""
    counts = np.zeros(256, bool)
    counts[: len(band.probabilities)] = True
    counts[list(ignored)] = False
    scored = counts[truth] & (band.labels != NO_DATA)
    rows, cols = np.nonzero(scored)
    of_truth = band.probabilities[truth[scored], rows, cols]
    return float(-np.log(np.maximum(of_truth, _LEAST)).sum(dtype=np.float64)), int(scored.sum())


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
        predicted = np.where(self.predicted == NO_DATA, palette.no_label, self.predicted).astype(np.uint8)
        panels = [small[rows][:, cols], gap, palette.to_colours(self.truth), gap, palette.to_colours(predicted)]
        return np.concatenate(panels, axis=1)
