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
            for modality, bands in zip(spec.modalities, spec.bands, strict=True):
                if self._files[modality].count != bands:
                    raise UserError(
                        f"{self.paths[modality]} has {self._files[modality].count} band(s), but the net was trained on {bands}"
                        f" of {modality}."
                    )

    def read(self, window: Window) -> list[np.ndarray]:
        """The pixels of a window, channels x h x w for each input."""
        images = {m: raster.read_window(file, window) for m, file in self._files.items()}
        return [spec.stack(images) for spec in self.inputs]


@dataclass(frozen=True)
class Labeller:
    """A net with all that labelling a tile takes: what it reads, the window (size and step in pixels), windows per batch."""

    net: nn.Module
    inputs: list[Input]
    size: tuple[int, int]
    step: tuple[int, int]
    batch: int
    device: Device

    def probabilities(self, paths: Mapping[str, str | Path]) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, classes x rows x width) of one tile, band by band; paths: the file of each modality."""
        with TileReader(self.inputs, paths) as tile:
            yield from predict(
                self.net, self.inputs, tile.read, tile.shape, self.size, self.step, self.batch, self.device
            )  # fmt: skip

    def labels(self, paths: Mapping[str, str | Path]) -> np.ndarray:
        """The label map of one tile: h x w, uint8."""
        return np.concatenate([p.argmax(0).astype(np.uint8) for _, p in self.probabilities(paths)])

    def confusion(self, paths: Mapping[str, str | Path], truth: np.ndarray) -> np.ndarray:
        """The confusion matrix of one tile against its labels (h x w)."""
        return confusion(truth, self.labels(paths), self.net.classes)


def modalities(inputs: list[Input]) -> list[str]:
    """The modalities that the inputs are made of, each once."""
    return list(dict.fromkeys(m for spec in inputs for m in spec.modalities))
