"""Whole tiles: reading their windows as a net wants them, labelling them, scoring them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from tools import raster
from tools.device import Device
from tools.errors import UserError
from tools.inputs import Input
from tools.scores import confusion
from tools.stitching import predict
from tools.windows import Window

NO_DATA = 255  # the label of a pixel of which a modality has no data


class TileReader:
    """The modalities of one tile, open for reading; use it in a `with`.

    inputs: of the net. paths: the file of each modality. shape: height and width in pixels.
    """

    def __init__(self, inputs: list[Input], paths: Mapping[str, str | Path]):
        self.inputs, self.paths = inputs, paths
        self._files = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "TileReader":
        with self._stack:
            self._files = {m: self._stack.enter_context(raster.open_raster(p)) for m, p in self.paths.items()}
            sizes = {m: f.shape for m, f in self._files.items()}
            if len(set(sizes.values())) > 1:
                raise UserError(f"{self.paths}: the modalities of one tile differ in size ({sizes}).")
            self.shape = next(iter(sizes.values()))
            self._check_bands()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def _check_bands(self) -> None:
        for spec in self.inputs:
            for modality, bands in zip(spec.modalities, spec.file_bands or spec.bands, strict=True):
                if self._files[modality].count != bands:
                    raise UserError(
                        f"{self.paths[modality]} has {self._files[modality].count} band(s), but the net was trained on {bands}"
                        f" of {modality}."
                    )

    def valid(self, window: Window) -> np.ndarray | None:
        """Where all modalities have data in a window (h x w, bool), or None where none of them can lack any."""
        masks = [raster.read_valid(file, window) for file in self._files.values() if raster.may_lack_data(file)]
        return np.logical_and.reduce(masks) if masks else None

    def read(self, window: Window) -> list[np.ndarray]:
        """The pixels of a window, channels x h x w for each input."""
        images = {m: raster.read_window(file, window) for m, file in self._files.items()}
        return [spec.stack(images) for spec in self.inputs]


@dataclass(frozen=True)
class Band:
    """Some rows of a labelled tile: the first row, labels (rows x width, uint8), probabilities (classes x rows x width)."""

    row: int
    labels: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Labeller:
    """A net with all that labelling a tile takes: what it reads, the window (size and step in pixels), windows per batch.

    threshold: of two classes, the probability above which the second is chosen; None: the more probable one. blend: how
    overlapping windows are averaged, one of tools.stitching.TAPERS.
    """

    net: nn.Module
    inputs: list[Input]
    size: tuple[int, int]
    step: tuple[int, int]
    batch: int
    device: Device
    threshold: float | None = None
    blend: str = "flat"

    def bands(self, paths: Mapping[str, str | Path]) -> Iterator[Band]:
        """The label map of one tile, in bands of whole rows from top to bottom; paths: the file of each modality."""
        with TileReader(self.inputs, paths) as tile:
            windows = (tile.read, tile.shape, self.size, self.step, self.batch)
            for row, probabilities in predict(self.net, self.inputs, *windows, self.device, self.blend):
                labels = self.choose(probabilities)
                valid = tile.valid(Window(row, 0, *labels.shape))
                if valid is not None:
                    labels[~valid] = NO_DATA
                yield Band(row, labels, probabilities)

    def choose(self, probabilities: np.ndarray) -> np.ndarray:
        """The labels (rows x width, uint8) of class probabilities (classes x rows x width)."""
        if self.threshold is None:
            return probabilities.argmax(0).astype(np.uint8)
        return (probabilities[1] > self.threshold).astype(np.uint8)

    def labels(self, paths: Mapping[str, str | Path]) -> np.ndarray:
        """The label map of one tile: h x w, uint8, NO_DATA where a modality has no data."""
        return np.concatenate([band.labels for band in self.bands(paths)])

    def confusion(self, paths: Mapping[str, str | Path], truth: np.ndarray) -> np.ndarray:
        """The confusion matrix of one tile against its labels (h x w)."""
        return confusion(truth, self.labels(paths), self.net.classes)
