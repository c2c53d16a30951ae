"""Patches cut where the cells of a vector grid lie: which pixels of which tile, which split, resampled to one size.

A cell is cut from the first tile (in the config's order) that holds all of it: its polygon is brought to the tile's CRS, and
the rectangle of pixels that just holds the polygon, edges rounded to whole pixels, is resampled to the patch size. Images are
interpolated bilinearly (pixels without data are never mixed in), labels take the nearest pixel's. A cell is read as a whole.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine

from tools.base.errors import UserError, listing
from tools.base.folders import write_json
from tools.data.dataset import SPLITS, Dataset, TileId, tile_name
from tools.data.patches import Cutting, patch_suffix, turn, turn_name, write_patch
from tools.data.resampling import nearest, resample
from tools.data.splits import check_shares, split_by_share
from tools.data.statistics import Moments
from tools.geo import raster, vectors
from tools.geo.vectors import Feature
from tools.geo.windows import Window

_OVERLAP = 0.01  # of the smaller cell: what drawing and rounding may do


@dataclass(frozen=True)
class Cell:
    """A cell in its place: its number in the grid's file, the tile, the rectangle of that tile's pixels, and the split."""

    number: int
    tile: TileId
    window: Window
    split: str = ""

    @property
    def name(self) -> str:
        """What its patches are called."""
        return f"{tile_name(self.tile)}_cell{self.number:06d}"


@dataclass(frozen=True)
class Plan:
    """The cells to cut, how many were left out, and why: outside all tiles, only partly inside one, without a split.

    about: the file and how its cells were shared out, for details.json. moved: from and to which CRSs, or "". mixed: tiles of
    the config's val_ids and test_ids with cells for training.
    """

    cells: list[Cell]
    left_out: dict[str, int]
    about: dict[str, Any]
    moved: str
    mixed: list[str]

    def of(self, split: str, tile: TileId) -> list[Cell]:
        """The cells of one split that lie in one tile."""
        return [cell for cell in self.cells if (cell.split, cell.tile) == (split, tile)]

    def places(self) -> list[tuple[str, TileId]]:
        """The pairs of split and tile that have cells, in the order of the splits."""
        return sorted(dict.fromkeys((c.split, c.tile) for c in self.cells), key=lambda place: SPLITS.index(place[0]))

    def cells_by_split(self) -> dict[str, int]:
        """How many cells each split has."""
        found = Counter(cell.split for cell in self.cells)
        return {split: found[split] for split in SPLITS}

    def patches_by_split(self, cuttings: Mapping[str, Cutting]) -> dict[str, int]:
        """How many patches each split will have, turned and mirrored ones included."""
        return {split: n * len(cuttings[split].turns) for split, n in self.cells_by_split().items()}

    def notes(self) -> str:
        """Warnings and notes on the plan, a line each."""
        counts = ", ".join(f"{n} {split}" for split, n in self.cells_by_split().items())
        lines = [f"{len(self.cells)} cells of {self.about['file']}: {counts}"]
        lines += [f"the grid was brought {self.moved}"] if self.moved else []
        lines += [f"note: {n} cells are {why} and were left out." for why, n in self.left_out.items() if n]
        if self.mixed:
            lines.append(
                f"note: cells for training lie in {listing(self.mixed)}: scores of whole tiles count their pixels too."
            )
        if (part := self.shared()) > _OVERLAP:
            lines.append(
                f"note: the pixels of neighbouring cells of different splits overlap by up to {100 * part:.0f} % of a cell,"
                " since the grid is turned against the tiles' pixels."
            )
        return "\n".join(lines)

    def shared(self) -> float:
        """The largest part of a cell's pixels that a cell of another split in the same tile has too, 0 to 1."""
        worst = 0.0
        for tile in dict.fromkeys(cell.tile for cell in self.cells):
            cells = [cell for cell in self.cells if cell.tile == tile]
            boxes = [_box(cell.window) for cell in cells]
            worst = max([worst, *(part for _, _, part in _overlaps(boxes, [cell.split for cell in cells]))])
        return worst

    def to_dict(self) -> dict[str, Any]:
        """For details.json."""
        tiles = {split: [tile_name(t) for s, t in self.places() if s == split] for split in SPLITS}
        windows = {cell.name: [*cell.window] for cell in self.cells}
        return self.about | {"windows": windows, "cells": self.cells_by_split(), "tiles": tiles, "left out": self.left_out}


def _box(window: Window) -> shapely.Polygon:
    return shapely.box(window.col, window.row, window.col + window.width, window.row + window.height)


@dataclass(frozen=True)
class Grid:
    """The cells of a vector file, and how they are to be shared out among train, val and test.

    shares: three numbers that sum to 1, drawn by `seed`; attribute: the cells' attribute that names their split. With
    neither, a cell goes where its tile goes.
    """

    path: Path
    features: list[Feature]
    crs: rasterio.CRS | None
    shares: tuple[float, ...] | None
    attribute: str | None
    seed: int

    def plan(self, tiles: Mapping[str, Sequence[TileId]], about: Mapping[TileId, raster.Raster]) -> Plan:
        """Where the cells lie. tiles: by split. about: size and place of each tile.

        Raises UserError where tiles or grid lack a CRS, no cell is inside a tile, or cells of two splits overlap.
        """
        order = [tile for split in SPLITS for tile in tiles[split]]
        cells, touched = _find_cells(self.features, self.crs, self.path, order, about)
        if not cells:
            raise UserError(self._nowhere(touched, about[order[0]]))
        named = self._split(cells, {tile: split for split in SPLITS for tile in tiles[split]})
        kept = [cell for cell in named if cell.split]
        self._check(kept)
        left_out = {
            "outside all tiles": len(self.features) - len(cells) - len(touched),
            "only partly inside a tile": len(touched),
            "without a split": len(named) - len(kept),
        }
        others = dict.fromkeys(vectors.name(about[t].crs) for t in order if about[t].crs and about[t].crs != self.crs)
        moved = f"from {self._crs_name} to {listing(others)}" if others else ""
        trained = {cell.tile for cell in kept if cell.split == "train"}
        mixed = [tile_name(t) for split in ("val", "test") for t in tiles[split] if t in trained]
        return Plan(kept, left_out, self._about(), moved, mixed)

    @property
    def _crs_name(self) -> str:
        return vectors.name(self.crs) if self.crs else "no CRS"

    def _about(self) -> dict[str, Any]:
        how = {"shares": self.shares, "seed": self.seed} if self.shares else {"split attribute": self.attribute}
        return {"file": str(self.path), "crs": self._crs_name, **how}

    def _nowhere(self, touched: set[int], first: raster.Raster) -> str:
        left, bottom, right, top = rasterio.transform.array_bounds(first.height, first.width, first.transform)
        where = f"only partly inside one ({len(touched)} cells)" if touched else "in any of them"
        return (
            f"grid outside the images: none of the {len(self.features)} cells of {self.path} ({self._crs_name}) lies"
            f"{' wholly' if touched else ''} {where}; {first.path} covers"
            f" {left:.10g} to {right:.10g}, {bottom:.10g} to {top:.10g}: check the grid's place and CRS."
        )

    def _split(self, cells: list[Cell], homes: Mapping[TileId, str]) -> list[Cell]:
        """The cells with their splits."""
        if self.shares:
            drawn = split_by_share([cell.number for cell in cells], *self.shares, self.seed)
            splits = {number: split for split, numbers in zip(SPLITS, drawn, strict=True) for number in numbers}
        elif self.attribute:
            splits = _named_splits(self.features, self.attribute, self.path)
        else:
            splits = {cell.number: homes[cell.tile] for cell in cells}
        return [replace(cell, split=splits[cell.number]) for cell in cells]

    def _check(self, cells: list[Cell]) -> None:
        if not any(cell.split == "train" for cell in cells):
            raise UserError(
                f"no cell of {self.path} is for training ({len(cells)} cells inside the tiles): give more to train."
            )
        shapes = dict(zip([f.number for f in self.features], _shapes(self.features), strict=True))
        numbers, splits = [c.number for c in cells], [c.split for c in cells]
        for one, other, part in _overlaps([shapes[n] for n in numbers], splits):
            if part > _OVERLAP:
                raise UserError(
                    f"cells {numbers[one]} ({splits[one]}) and {numbers[other]} ({splits[other]}) of {self.path} overlap by"
                    f" {100 * part:.0f} %, so pixels would be trained on and tested on: use cells that do not overlap, or"
                    " give them one split with --split-attribute."
                )


def read_grid(path: Path, shares: Sequence[float] | None, attribute: str | None, seed: int) -> Grid:
    """The grid of a vector file. Raises UserError for shares that do not sum to 1 and for attributes that it does not have."""
    if shares and attribute:
        raise UserError("--shares and --split-attribute both say which cells are for training: give one of them.")
    if shares:
        check_shares(dict(zip(SPLITS, shares, strict=True)))
    features, crs = vectors.read_polygons(path)
    if attribute:
        _named_splits(features, attribute, path)
    return Grid(Path(path), features, crs, tuple(shares) if shares else None, attribute, seed)


def _named_splits(features: Sequence[Feature], attribute: str, path: Path) -> dict[int, str]:
    """The split that an attribute names, by cell number; "" where it is empty."""
    splits = {}
    for feature, value in zip(features, vectors.attribute(features, attribute, path), strict=True):
        word = "" if value is None else str(value).strip().lower()
        if word not in (*SPLITS, ""):
            raise UserError(
                f"cell {feature.number} of {path} has {attribute} = {value!r}: it must be train, val, test or empty."
            )
        splits[feature.number] = word
    return splits


def _overlaps(shapes: Sequence, splits: Sequence[str]) -> Iterable[tuple[int, int, float]]:
    """(one, other, shared part of the smaller) for shapes of different splits that touch."""
    valid = shapely.make_valid(np.array(shapes, dtype=object))
    areas = np.maximum(shapely.area(valid), 1e-300)
    one, other = shapely.STRtree(valid).query(valid, predicate="intersects")
    kinds = np.array(splits)
    keep = (one < other) & (kinds[one] != kinds[other])
    one, other = one[keep], other[keep]
    parts = shapely.area(shapely.intersection(valid[one], valid[other])) / np.minimum(areas[one], areas[other])
    return zip(one.tolist(), other.tolist(), parts.tolist(), strict=True)


# -------------------------------------------------------------------------------------------------- from cells to pixels


def _find_cells(features, crs, path: Path, tiles: Sequence[TileId], about) -> tuple[list[Cell], set[int]]:
    """The cells, each in the first tile that holds all of it, and the numbers of those that no tile holds wholly."""
    found: dict[int, Cell] = {}
    touched: set[int] = set()
    shapes = {crs: _shapes(features)}
    for tile in tiles:
        here = about[tile]
        _check_place(here, crs, path)
        if here.crs not in shapes:
            shapes[here.crs] = _shapes(vectors.reproject(features, crs, here.crs))
        for feature, window in zip(features, windows(shapes[here.crs], here), strict=True):
            if window is None or feature.number in found:
                continue
            if _inside(window, here):
                _check_size(window, feature, here, path)
                found[feature.number] = Cell(feature.number, tile, window)
            else:
                touched.add(feature.number)
    return [found[f.number] for f in features if f.number in found], touched - set(found)


def _check_place(tile: raster.Raster, crs, path: Path) -> None:
    if tile.transform is None:
        raise UserError(f"{tile.path} does not say where on Earth it lies: georeference it, or cut it without --grid.")
    if (tile.crs is None) != (crs is None):
        has, lacks = (tile.path, path) if crs is None else (path, tile.path)
        raise UserError(
            f"{lacks} has no CRS, {has} has {vectors.name(tile.crs or crs)}: assign it the CRS that it is drawn in."
        )


def tile_places(dataset: Dataset, modalities: Sequence[str], tiles: Iterable[TileId]) -> dict[TileId, raster.Raster]:
    """For each tile its first file that says where on Earth it lies (a JPEG does not), or the first file."""
    found = {}
    for tile in tiles:
        files = [raster.inspect(dataset.seen(m, tile)) for m in modalities]
        found[tile] = next((f for f in files if f.transform and f.crs), next((f for f in files if f.transform), files[0]))
    return found


def _shapes(features: Iterable[Feature]) -> np.ndarray:
    return np.array([shapely.geometry.shape(f.geometry) for f in features], dtype=object)


def windows(shapes: np.ndarray, tile: raster.Raster) -> list[Window | None]:
    """The pixels of a tile that just hold each shape (in the tile's CRS), rounded; None where it does not touch the tile."""
    into = ~tile.transform
    pixels = shapely.transform(shapes, lambda xy: xy @ [[into.a, into.d], [into.b, into.e]] + [into.c, into.f])
    bounds = shapely.bounds(pixels)
    near = np.isfinite(bounds).all(1) & (bounds[:, :2] < [tile.width, tile.height]).all(1) & (bounds[:, 2:] > 0).all(1)
    edges = np.floor(np.where(near[:, None], bounds, 0) + 0.5).astype(int).tolist()
    found = [Window(top, left, bottom - top, right - left) for left, top, right, bottom in edges]
    return [window if ok else None for window, ok in zip(found, near, strict=True)]


def _inside(window: Window, tile: raster.Raster) -> bool:
    down, right = window.row + window.height, window.col + window.width
    return window.row >= 0 and window.col >= 0 and down <= tile.height and right <= tile.width


def _check_size(window: Window, feature: Feature, tile: raster.Raster, path: Path) -> None:
    if min(window.height, window.width) < 1:
        raise UserError(f"cell {feature.number} of {path} is smaller than a pixel of {tile.path}: make the cells larger.")


def measure_tile(dataset: Dataset, plan: Plan, size: tuple[int, int], job: tuple) -> Moments:
    """The moments of one modality over the training patches, of this size, of one tile; job: modality and tile."""
    modality, tile = job
    with dataset.open(modality, tile) as file:
        return reduce(add, (_measure(file, cell.window, size) for cell in plan.of("train", tile)))


def _measure(file: rasterio.DatasetReader, window: Window, size: tuple[int, int]) -> Moments:
    valid = _valid(file, window)
    return Moments.of(resample(raster.read_window(file, window), valid, size), ~nearest(valid, size))


def cut_tile(
    dataset: Dataset,
    plan: Plan,
    cuttings: Mapping[str, Cutting],
    no_label: int,
    folder: Path,
    means: Mapping[str, Sequence[float]],
    job: tuple,
) -> None:
    """Write the patches of one modality for the cells of one split in one tile.

    cuttings: size, turns and mirrorings by split. means: by modality, what patches hold where there is no data. job: modality,
    split, tile and, for labels, the modalities without whose data there is no label.
    """
    modality, split, tile, others = job
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(dataset.open(modality, tile))
        others = [stack.enter_context(dataset.open(m, tile)) for m in others]
        suffix = patch_suffix(file.count, file.dtypes[0])
        for cell in plan.of(split, tile):
            size = cuttings[split].size
            if modality == "labels":
                patch = _cut_labels(file, others, cell.window, size, no_label)
            else:
                patch = _cut_image(file, cell.window, size, means[modality])
            for how in cuttings[split].turns:
                name = f"{cell.name}{turn_name(*how)}{suffix}"
                write_patch(folder / f"{modality}_{split}" / name, turn(patch, *how))


def _cut_image(file: rasterio.DatasetReader, window: Window, size: tuple[int, int], means: Sequence[float]) -> np.ndarray:
    valid = _valid(file, window)
    return resample(raster.fill_gaps(raster.read_window(file, window), ~valid, means), valid, size)


def _cut_labels(file, others: Iterable, window: Window, size: tuple[int, int], no_label: int) -> np.ndarray:
    labels = raster.read_labels_window(file, window, no_label)[None]
    for other in others:
        labels[0][~_valid(other, window)] = no_label
    return nearest(labels, size)


def _valid(file: rasterio.DatasetReader, window: Window) -> np.ndarray:
    if raster.may_lack_data(file):
        return raster.read_valid(file, window)
    return np.ones((window.height, window.width), bool)


# --------------------------------------------------------------------------------------------------------------- metadata


def write_metadata(folder: Path, plan: Plan, cuttings: Mapping[str, Cutting], dataset: Dataset, modalities: list[str]) -> None:
    """Say of each patch where it is from, in metadata_SPLIT/PATCH.json.

    The transform leads from the patch's pixels (column, row) to the coordinates of the tile's CRS, turned and mirrored as the
    patch is.
    """
    places = tile_places(dataset, modalities, dict.fromkeys(cell.tile for cell in plan.cells))
    for cell in plan.cells:
        tile, cutting = places[cell.tile], cuttings[cell.split]
        (folder / f"metadata_{cell.split}").mkdir(exist_ok=True)
        straight = patch_transform(tile.transform, cell.window, cutting.size)
        about_cell = {
            "split": cell.split, "cell": cell.number, "tile": tile_name(cell.tile),
            "source": {m: dataset.path(m, cell.tile) for m in modalities},
            "window": cell.window._asdict(), "crs": tile.crs.to_string() if tile.crs else None,
        }  # fmt: skip
        for rotation, flip in cutting.turns:
            name = cell.name + turn_name(rotation, flip)
            transform = list(straight * turned(cutting.size, rotation, flip))[:6]
            about_patch = {"patch": name, **about_cell, "rotation": rotation, "flip": flip, "transform": transform}
            write_json(folder / f"metadata_{cell.split}" / f"{name}.json", about_patch)


def patch_transform(transform: Affine, window: Window, size: tuple[int, int]) -> Affine:
    """From the pixels of a patch of this size (height, width), cut at `window` of a tile, to the tile's CRS."""
    scale = Affine.scale(window.width / size[1], window.height / size[0])
    return transform * Affine.translation(window.col, window.row) * scale


def turned(size: tuple[int, int], rotation: int, flip: bool) -> Affine:
    """From the pixels (column, row) of a patch that `patches.turn` turned to those of the straight one of this size."""
    height, width = size
    across = height if rotation % 180 else width
    mirrored = Affine(-1, 0, across, 0, 1, 0) if flip else Affine.identity()
    back = {90: Affine(0, -1, width, 1, 0, 0), 180: Affine(-1, 0, width, 0, -1, height), 270: Affine(0, 1, 0, -1, 0, height)}
    return back.get(rotation, Affine.identity()) * mirrored
