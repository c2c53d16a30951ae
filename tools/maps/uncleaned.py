"""A map as the net gave it, on disk beside the files to be, until it is whole and small patches can go."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.geo import raster
from tools.geo.raster import BlockWriter, Raster
from tools.geo.windows import Window, row_windows
from tools.labels.cleaning import clean


class Uncleaned:
    """Labels (uint8) and confidence (float32) of a map: `add` takes its pieces, `cleaned` gives them, cleaned, in whole rows.

    folder: where its files are until `close`. about: the map's size and place.
    """

    def __init__(self, folder: Path, about: Raster):
        self.shape = about.height, about.width
        self.paths = [folder / f".{name}.tif" for name in ("labels", "confidence")]
        kinds = ("uint8", "float32")
        self.files = [
            raster.create(path, (1, *self.shape), kind, **about.place, all_cores=True)
            for path, kind in zip(self.paths, kinds, strict=True)
        ]
        self.writers = [BlockWriter(file) for file in self.files]

    def add(self, window: Window, labels: np.ndarray, confidence: np.ndarray) -> None:
        """Take a piece (h x w each), in the order that BlockWriter wants."""
        for writer, pixels in zip(self.writers, (labels, confidence), strict=True):
            writer.add(window, pixels[None])

    def cleaned(self, least: float, classes: int) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
        """(window, labels, confidence) from top to bottom. least: pixels of a patch that stays; confidence is as it was."""
        for writer, file in zip(self.writers, self.files, strict=True):
            writer.flush()
            file.close()
        with raster.open_raster(self.paths[0]) as labels, raster.open_raster(self.paths[1]) as confidence:
            bands = (raster.read_window(labels, window)[0] for window in row_windows(*self.shape))
            row = 0
            for band in clean(bands, least, classes):
                for part in row_windows(*band.shape):
                    window = part._replace(row=row + part.row)
                    yield window, band[part.slices], raster.read_window(confidence, window)[0]
                row += len(band)

    def close(self) -> None:
        """Close and remove the files."""
        for path, file in zip(self.paths, self.files, strict=True):
            file.close()
            path.unlink(missing_ok=True)
