"""The grid workflow: cells validate a net as tiles do, and folds hold out cells, neighbours together."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from tqdm import tqdm

from tools.compute.distributed import ALONE, Ranks
from tools.data.loader import Patches, stacked
from tools.data.patches import cell_of
from tools.data.settings import DataSettings
from tools.data.statistics import Moments, by_modality
from tools.geo import neighbours, raster
from tools.geo.area import PlacedArea
from tools.geo.windows import Window
from tools.inference.forward import Forward
from tools.inference.labeller import NO_DATA, Band, Labeller
from tools.inference.tile_list import Tile
from tools.labels import pictures
from tools.labels.palette import Palette
from tools.record.history import Validation
from tools.solver.losses import Loss
from tools.training.validation import Sums


def validate(
    forward: Forward,
    patches: Patches,
    threshold: float | None,
    palette: Palette,
    ignored: Collection[int],
    ranks: Ranks = ALONE,
    trained: Loss | None = None,
) -> Validation:
    """Score a net on patches; several processes share them and all get the scores of all.

    forward: of the net, `prepared` for inference. threshold: of two classes, or None. As `validation.validate` does for tiles:
    the loss is the cross entropy of the pixels that count; trained: the loss that the net learns by.
    """
    own, sums, picture = ranks.share(list(range(len(patches)))), Sums(palette, ignored, trained), np.zeros((1, 1, 3), np.uint8)
    with torch.inference_mode(), forward.device.autocast():
        for first in range(0, len(own), forward.batch):
            chunk = own[first : first + forward.batch]
            images, truths = stacked([patches[i] for i in chunk])
            for i, probabilities, truth in zip(chunk, forward(images).cpu().numpy(), truths.numpy(), strict=True):
                band = Band(0, _labels(probabilities, threshold), probabilities)
                sums.add(band, truth)
                if i == 0:
                    picture = _picture(patches.read(i)[0], truth, band.labels, palette)
    return sums.validation(picture, ranks)


def score_by_windows(
    labeller: Labeller,
    tiles: Iterable[Tile],
    areas: Mapping[str, PlacedArea],
    palette: Palette,
    ignored: Collection[int],
    trained: Loss | None = None,
) -> Validation:
    """Score a net inside the cells of whole tiles, which are labelled by windows as inference labels them.

    areas: of each tile, by name, its cells. Windows that touch no cell are left out,
    but for tiles that are read at another size (RESIZE). trained: the loss that the net learns by.
    """
    sums = Sums(palette, ignored, trained)
    for tile in tiles:
        area = areas[tile.name]
        with raster.open_numbers(tile.truths["labels"]) as file, closing(labeller.open(tile.paths, area=area)) as reading:
            for band in labeller.bands_of(reading):
                there = band.window.shifted(area.window.row, area.window.col)
                sums.add(band, raster.read_labels_window(file, there, NO_DATA))
    return sums.validation(np.zeros((1, 1, 3), np.uint8), ALONE)


def cells_of(lmdb: Path, split: str) -> list[str]:
    """The cells of a split of a database by name; none where it was not cut by a grid."""
    names = (lmdb / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    return sorted({cell for name in names if (cell := cell_of(name))})


def areas_of(windows: Mapping[str, Sequence[int]], shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> dict:
    """Cells on the pixels of their tiles, by the tiles' names.

    windows: of the cells by name, in pixels of the tiles as nets see them. shapes: by tile, its height and width, and those
    that nets see (RESIZE).
    """
    boxes: dict[str, list[shapely.Polygon]] = {}
    for cell, (row, col, rows, cols) in windows.items():
        (height, width), (seen_height, seen_width) = shapes[tile_of_cell(cell)]
        down, right = height / seen_height, width / seen_width
        boxes.setdefault(tile_of_cell(cell), []).append(
            shapely.box(col * right, row * down, (col + cols) * right, (row + rows) * down)
        )
    return {tile: _placed(np.array(cells)) for tile, cells in boxes.items()}


def _placed(cells: np.ndarray) -> PlacedArea:
    left, top, right, bottom = shapely.total_bounds(cells)
    row, col = int(np.floor(top)), int(np.floor(left))
    return PlacedArea(Window(row, col, int(np.ceil(bottom)) - row, int(np.ceil(right)) - col), cells, [""] * len(cells))


def _labels(probabilities: np.ndarray, threshold: float | None) -> np.ndarray:
    if threshold is not None:
        return (probabilities[1] > threshold).astype(np.uint8)
    return probabilities.argmax(0).astype(np.uint8)


def _picture(images: Mapping[str, np.ndarray], truth: np.ndarray, predicted: np.ndarray, palette: Palette) -> np.ndarray:
    """Image, ground truth and prediction side by side."""
    first = next(iter(images.values()))
    gap = np.full((truth.shape[0], 4, 3), 255, np.uint8)
    image = pictures.as_picture(np.nan_to_num(first[:3] if len(first) > 2 else first[:1]))
    return np.concatenate([image, gap, palette.to_colours(truth), gap, palette.to_colours(predicted)], axis=1)


# ----------------------------------------------------------------------------------------------------------------- folds


def training_cells(lmdb: Path) -> list[str]:
    """The training cells of a database by name, in the order of their names."""
    return cells_of(lmdb, "train")


def groups_of(cells: Sequence[str], windows: Mapping[str, Sequence[int]], folds: int) -> dict[str, Any] | None:
    """The area that each cell belongs to, so that folds keep neighbours together; None if places are not known.

    windows: by cell, the rectangle of its tile's pixels (row, column, height, width).
    """
    if not set(cells) <= set(windows):
        return None
    most, found = max(1, len(cells) // (2 * folds)), {}
    for tile in {tile_of_cell(cell) for cell in cells}:
        rectangles = {cell: windows[cell] for cell in cells if tile_of_cell(cell) == tile}
        bounds = {c: (col - 0.5, row - 0.5, col + width + 0.5, row + height + 0.5)
                  for c, (row, col, height, width) in rectangles.items()}  # fmt: skip
        for number, area in enumerate(neighbours.areas(bounds, most)):
            found |= dict.fromkeys(area, (tile, number))
    return found


def tile_of_cell(cell: str) -> str:
    """The name of the tile that a cell lies on."""
    return cell.rsplit("_cell", 1)[0]


def own_statistics(data: DataSettings, about: Mapping[str, dict], patches: Patches) -> dict[str, dict]:
    """What details.json says of the modalities, with the statistics of these patches alone; those that were given stay."""
    given = {m for m, values in data.MEAN_PIXEL.items() if values and data.normalisation.get(m) == "mean"}
    measured = [m for m in data.modalities if m not in given and data.normalisation[m] != "imagenet"]
    if not measured:
        return dict(about)
    straight = patches.straight()
    shown = tqdm(range(len(straight)), "measuring", leave=False, unit="patch", delay=1)
    moments = by_modality((m, Moments.of(images[m])) for i in shown for images in [straight.read(i)[0]] for m in measured)
    return dict(about) | {m: about[m] | {"fill": about[m]["mean"]} | moments[m].to_dict() for m in measured}
