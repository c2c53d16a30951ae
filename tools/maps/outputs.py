"""The files of one labelled tile: label map, colour map and what else is wanted, written piece by piece, renamed when whole."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.base.errors import DiskFullError, UserError
from tools.base.folders import disk_full_is_said
from tools.geo import raster
from tools.geo.area import PlacedArea, cut
from tools.geo.gaps import Gaps
from tools.geo.pixel_size import pixel_areas
from tools.geo.raster import NUMBERS, BlockWriter
from tools.geo.windows import Window
from tools.inference.labeller import NO_DATA, Band
from tools.inference.tile_list import Tile
from tools.inference.window_size import Place
from tools.labels import pictures, qgis, scores
from tools.labels.palette import Palette
from tools.maps.choice import Choice
from tools.maps.class_statistics import TileStatistics
from tools.maps.stac import write_item
from tools.maps.uncleaned import Uncleaned
from tools.maps.zones import ZoneStatistics
from tools.polygons.drawing import Drawn

PICTURE_SIZE = 1024  # pixels, the longer side of a tile in the pictures
NO_SHARE = 255  # in uint8 files of per cent, where there is no data; in float32 files it is NaN
_OVERVIEWS = {"labels": "mode", "errors": "mode", "colours": "nearest"}  # others: average


@dataclass(frozen=True)
class Layer:
    """One raster of a tile: bands, pixel type, value for no data, colour table, and its pixels (bands x h x w) of a piece."""

    bands: int
    dtype: str
    nodata: float | None
    pixels: Callable[[Any], np.ndarray]  # of a Piece; of the probabilities of all classes in that layer
    colours: Mapping[int, tuple] | None = None
    alpha: bool = False


@dataclass(frozen=True)
class Piece:
    """A band of the map with what follows from it: labels as they are written (h x w), where there are any, the probability
    of each label, and which labels are wrong (1) or cannot be judged (2), where there is ground truth."""

    labels: np.ndarray
    labelled: np.ndarray
    confidence: np.ndarray
    errors: np.ndarray | None


class TileOutputs:
    """The outputs of one tile: `add` takes its bands, `finish` gives the files their names; or `abandon` it.

    folder: where the files end up; until then they are in a folder of their own there. area: what is wanted of the tile; the
    files hold the window around it. Errors: DiskFullError.
    """

    def __init__(
        self,
        tile: Tile,
        palette: Palette,
        choice: Choice,
        folder: Path,
        tags: Mapping[str, str],
        area: PlacedArea | None = None,
    ):
        self.tile, self.palette, self.choice, self.folder = tile, palette, choice, folder
        self.whole, self.began = raster.inspect(tile.first), time.perf_counter()
        self.part = area.window if area else None
        self.about = cut(self.whole, self.part) if area else self.whole
        self.zones = ZoneStatistics(area.moved(), palette.names, pixel_areas(self.about)) if area else None
        self.matrices = {kind: np.zeros((palette.classes, palette.classes), np.int64) for kind in tile.truths}
        self.statistics = TileStatistics(self.about, palette.names, bool(tile.truths))
        self.drawn = Drawn()
        self.gaps: Mapping[str, Gaps] = {}  # where each modality has no data
        self.windows: Place | None = None  # by which it was labelled
        self.work = work_folder(folder, tile.name)
        shutil.rmtree(self.work, ignore_errors=True)  # what a killed run left
        with disk_full_is_said(folder):
            self.work.mkdir(parents=True)
            self.truths = {kind: raster.open_numbers(path) for kind, path in tile.truths.items()}
            self.layers = self._layers()
            self.files = {name: self._create(name, layer, tags) for name, layer in self.layers.items()}
            self.uncleaned = Uncleaned(self.work, self.about) if choice.clean else None
        self.writers = {name: BlockWriter(file) for name, file in self.files.items()}

    def _layers(self) -> dict[str, Layer]:
        palette, choice = self.palette, self.choice
        alpha = self._may_lack_data()
        layers = {
            "labels": Layer(1, "uint8", palette.no_label, lambda p: p.labels[None], palette.colours),
            "colours": Layer(3 + alpha, "uint8", None, self._colours, alpha=alpha),
        }
        if sure := choice.confidence or (choice.polygons and "uint8"):
            layers["confidence"] = _share_layer(1, sure, lambda p: p.confidence[None])
        if choice.probabilities:
            layers["probabilities"] = _share_layer(palette.classes, choice.probabilities, lambda p: p)
        if choice.variance:
            layers["variance"] = Layer(1, "float32", np.nan, lambda p: p[None])
        if self.truths:
            layers["errors"] = Layer(1, "uint8", pictures.ERRORS.no_label, lambda p: p.errors[None], pictures.ERRORS.colours)
        return layers

    def _may_lack_data(self) -> bool:
        if self.part:
            return True
        for path in self.tile.paths.values():
            with raster.open_image(path) as file:
                if raster.may_lack_data(file):
                    return True
        return False

    def _colours(self, piece: Piece) -> np.ndarray:
        colours = self.palette.to_colours(piece.labels).transpose(2, 0, 1)
        opaque = np.where(piece.labelled, 255, 0).astype(np.uint8)
        return np.concatenate([colours, opaque[None]]) if self.layers["colours"].alpha else colours

    def path(self, name: str, suffix: str = ".tif") -> Path:
        """Where a file of the tile is while it is being made."""
        return self.work / f"{self.tile.name}_{name}{suffix}"

    def _create(self, name: str, layer: Layer, tags: Mapping[str, str]):
        shape = (layer.bands, self.about.height, self.about.width)
        about = {"nodata": layer.nodata, "colours": layer.colours, "alpha": layer.alpha, **self.about.place, "all_cores": True}
        file = raster.create(self.path(name), shape, layer.dtype, **about)
        file.update_tags(**self.about.tags | tags)
        if name == "probabilities":
            file.descriptions = self.palette.names
        if layer.dtype == "uint8" and name in ("confidence", "probabilities"):
            file.scales = [0.01] * layer.bands  # GIS show 0 to 1 then
        return file

    def add(self, band: Band) -> None:
        """Write a band of the map, and count what is in it. Raises UserError where the net gave no numbers."""
        if np.isnan(band.probabilities[0][band.labels != NO_DATA]).any():
            raise UserError(
                f"tile {self.tile.name}: the net gives no numbers at rows {band.row} to {band.row + len(band.labels) - 1}; its"
                " weights have diverged, or the image's values are far from the trained ones: take an earlier snapshot, or"
                " train with a lower BASE_LR."
            )
        labelled = band.labels != NO_DATA
        probabilities = np.clip(band.probabilities, 0, 1)  # a mean of shares may miss 1 by the last digit
        probabilities[:, ~labelled] = np.nan
        chosen = np.where(labelled, band.labels, 0)[None].astype(np.intp)
        confidence = np.take_along_axis(probabilities, chosen, 0)[0]
        with disk_full_is_said(self.folder):
            if "probabilities" in self.layers:
                self._write("probabilities", band.window, probabilities)
            if "variance" in self.layers:
                self._write("variance", band.window, np.where(labelled, band.variance, np.nan).astype(np.float32))
            (self.uncleaned.add if self.uncleaned else self._take)(band.window, band.labels, confidence)

    def _take(self, window: Window, labels: np.ndarray, confidence: np.ndarray) -> None:
        """Write a piece of the map, of final labels (h x w, NO_DATA where there are none), and count what is in it."""
        there = window.shifted(self.part.row, self.part.col) if self.part else window
        no_label = self.palette.no_label
        truths = {kind: raster.read_labels_window(file, there, no_label) for kind, file in self.truths.items()}
        for kind, truth in truths.items():
            self.matrices[kind] += scores.confusion(truth, labels, self.palette.classes)
        truth = next(iter(truths.values()), None)
        self.statistics.add(window, labels, confidence, truth)
        if self.zones:
            self.zones.add(window, labels)
        labelled = labels != NO_DATA
        written = np.where(labelled, labels, self.palette.no_label).astype(np.uint8)
        errors = None if truth is None else pictures.errors(truth, labels, self.palette.classes)
        for name in self.layers.keys() - {"probabilities", "variance"}:
            self._write(name, window, Piece(written, labelled, confidence, errors))

    def _write(self, name: str, window: Window, what: Any) -> None:
        self.writers[name].add(window, self.layers[name].pixels(what))

    def finish(self) -> dict[str, Any]:
        """Complete all files and give them their names; what is to be recorded of the tile comes back, as JSON values."""
        try:
            with disk_full_is_said(self.folder):
                self._complete()
                files = sorted(self.work.iterdir())
                for file in files:
                    file.replace(self.folder / file.name)
        finally:
            self.abandon()
        return {
            "files": [file.name for file in files],
            "seconds": round(time.perf_counter() - self.began, 3),
            "statistics": self.statistics.to_dict() | self._of_the_tile(),
            "zones": self.zones.to_list() if self.zones else [],
            "squared": self.drawn.ious,
            "windows": self.windows,
            "no_data": {modality: gaps.to_dict() for modality, gaps in self.gaps.items()},
            "confusion": {kind: matrix.tolist() for kind, matrix in self.matrices.items()},
        }

    def _of_the_tile(self) -> dict[str, Any]:
        """Which part of the tile the map shows, where it is not all of it."""
        if not self.part:
            return {}
        return {"part": {**self.part._asdict(), "of_height": self.whole.height, "of_width": self.whole.width}}

    def _complete(self) -> None:
        if self.uncleaned:
            for piece in self.uncleaned.cleaned(self.choice.clean.pixels(self.about), self.palette.classes):
                self._take(*piece)
            self.uncleaned.close()
        for name, writer in self.writers.items():
            writer.flush()
            self.files[name].close()
        self._check()
        if self.choice.png:
            raster.as_png(self.path("colours"), self.path("colours", ".png"))
            self._check_one("colours", self.path("colours", ".png"))
        if self.choice.polygons:
            path = self.path("polygons", f".{self.choice.polygons_as}")
            zones = self.zones and self.zones.area
            self.drawn = self.choice.drawing.write(path, self.path("labels"), self.path("confidence"), self.palette, zones)
            if not self.choice.confidence:
                self.path("confidence").unlink()
                del self.files["confidence"]
        self._draw()
        if self.choice.cog:
            for name in self.files:
                raster.cloud_optimised(self.path(name), _OVERVIEWS.get(name, "average"))
            self._check()
        self.path("labels", ".qml").write_text(qgis.raster_style(self.palette), encoding="utf-8")
        raster.write_categories(self.path("labels"), [*self.palette.names, *(["no label"] if self.palette.unscored else [])])
        if self.truths:
            raster.write_categories(self.path("errors"), [*pictures.ERRORS.names, "not scored"])

        if self.choice.stac:
            write_item(self.work / f"{self.tile.name}.json", self.tile.name, sorted(self.work.iterdir()), self.palette)

    def _check(self) -> None:
        """Read the rasters back. Raises DiskFullError where one is not whole."""
        for name in self.files:
            self._check_one(name, self.path(name))

    def _check_one(self, name: str, path: Path) -> None:
        if fault := self.writers[name].fault(path):
            raise DiskFullError(f"the disk is full at {self.folder}, or failing ({fault.rstrip('.')}): free some space.")

    def _draw(self) -> None:
        """Image, truth, prediction and errors side by side, reduced where the tile is large."""
        image = raster.read_small(self.tile.first, PICTURE_SIZE, 3, self.part)
        small = partial(raster.read_small, most=PICTURE_SIZE, role=NUMBERS)
        truth = small(self.tile.truths["labels"], window=self.part)[0] if "labels" in self.tile.truths else None
        labels = small(self.path("labels"))[0]
        pictures.comparison(self.work / f"{self.tile.name}.png", image, truth, labels, self.palette, self.tile.name)

    def abandon(self) -> None:
        """Close and remove what there is so far."""
        for file in [*self.truths.values(), *self.files.values(), *([self.uncleaned] if self.uncleaned else [])]:
            file.close()
        shutil.rmtree(self.work, ignore_errors=True)


def work_folder(folder: Path, name: str) -> Path:
    """Where the files of a tile are until they are whole."""
    return folder / f".{name}.partial"


def _share_layer(bands: int, dtype: str, shares: Callable[[Piece], np.ndarray]) -> Layer:
    """A layer of probabilities (NaN: no data), in per cent where they are bytes."""

    def pixels(piece: Piece) -> np.ndarray:
        found = shares(piece)
        return found if dtype == "float32" else np.where(np.isnan(found), NO_SHARE, np.rint(100 * found)).astype(np.uint8)

    return Layer(bands, dtype, NO_SHARE if dtype == "uint8" else np.nan, pixels)
