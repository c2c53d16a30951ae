"""Whole tiles: reading their windows as a net wants them, labelling them, scoring them."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tools.base.errors import UserError
from tools.base.pipeline import Ahead
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.area import PlacedArea
from tools.geo.file_list import File
from tools.geo.gaps import Gaps
from tools.geo.views import Resized, Size
from tools.geo.windows import Window
from tools.geo.windows import sliding as slide
from tools.inference.blending import Part, Share, alone, predict, sums
from tools.inference.enlarged import enlarged
from tools.inference.forward import Forward
from tools.inference.ranks import Crew, Job
from tools.inference.settings import InferenceSettings
from tools.inference.sliding import Batch, Plan, Sliding, batches, reach
from tools.inference.window_size import Windows, windows_for
from tools.labels.scores import confusion

NO_DATA = 255  # the label of a pixel of which a modality has no data


class TileReader:
    """The modalities of one tile, open for reading; use it in a `with`. Several threads may read.

    inputs: of the net. paths: the file of each modality. part: of the tile, as if there were no more of it. shape: height and
    width in pixels.
    """

    def __init__(self, inputs: list[Input], paths: Mapping[str, str | Path], part: Window | None = None):
        self.inputs, self.paths, self.part = inputs, paths, part
        self.gaps = {modality: Gaps() for modality in paths}  # what `valid` saw
        self._files = {}
        self._stack = contextlib.ExitStack()
        self._one_at_a_time = threading.Lock()  # GDAL's datasets are for one thread each

    def __enter__(self) -> "TileReader":
        with self._stack:
            for modality, path in self.paths.items():  # closed, not left: rasterio would want that in the same thread
                any_band = any(spec.one_band_is_enough(modality) for spec in self.inputs)
                file = contextlib.closing(raster.open_image(path, any_band))
                self._files[modality] = self._stack.enter_context(file)
            sizes = {m: f.shape for m, f in self._files.items()}
            if len(set(sizes.values())) > 1:
                raise UserError(f"{self.paths}: the modalities of one tile differ in size ({sizes}).")
            self.shape = next(iter(sizes.values())) if self.part is None else self.part[2:]
            self._check_kinds()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def _check_kinds(self) -> None:
        for spec in self.inputs:
            for modality, bands in zip(spec.modalities, spec.file_bands or spec.bands, strict=True):
                if self._files[modality].count != bands:
                    raise UserError(
                        f"{self.paths[modality]} has {self._files[modality].count} band(s), but the net was trained on {bands}"
                        f" of {modality}."
                    )
                if fault := spec.type_fault(modality, self._files[modality].dtypes[0]):
                    raise UserError(f"{self.paths[modality]} {fault}")

    def _in_the_file(self, window: Window) -> Window:
        return window if self.part is None else window.shifted(self.part.row, self.part.col)

    def valid(self, window: Window) -> np.ndarray | None:
        """Where all modalities have data in a window (h x w, bool), or None where all of it has; `gaps` counts what has not."""
        window = self._in_the_file(window)
        lacking = {modality: file for modality, file in self._files.items() if raster.may_lack_data(file)}
        with self._one_at_a_time:
            found = {modality: raster.read_with_gaps(file, window) for modality, file in lacking.items()}
        for modality, gaps in self.gaps.items():
            if modality in found:
                gaps.add(lacking[modality], *found[modality])
            else:
                gaps.pixels += window.height * window.width
        masks = [empty for _, empty in found.values() if empty is not None]
        return ~np.logical_or.reduce(masks) if masks else None

    def read(self, window: Window) -> list[np.ndarray]:
        """The pixels of a window, channels x h x w for each input; neutral ones where a modality has no data."""
        window = self._in_the_file(window)
        with self._one_at_a_time:
            found = {m: raster.read_with_gaps(file, window) for m, file in self._files.items()}
        images, gaps = ({m: pair[i] for m, pair in found.items()} for i in (0, 1))
        return [spec.stack(images, gaps) for spec in self.inputs]


@dataclass(frozen=True)
class Band:
    """A finished part of a labelled tile.

    row, col: where its upper left corner lies in the tile. labels: rows x columns, uint8. probabilities: classes x rows x
    columns, float32. variance: how much several passes differ (rows x columns), None if there was one. Bands do not overlap and
    cover the tile. They are as wide as the tile and come from top to bottom; but where that would take too much memory, they
    come column strip by column strip, each from top to bottom.
    """

    row: int
    labels: np.ndarray
    probabilities: np.ndarray
    col: int = 0
    variance: np.ndarray | None = None

    @property
    def window(self) -> Window:
        """The part of the tile that it is."""
        return Window(self.row, self.col, *self.labels.shape)


@dataclass(frozen=True)
class Labeller:
    """A net with all that labelling a tile takes: what it reads, the windows, how many of them go through the net together.

    batch: None for as many as fit. threshold: of two classes, the probability above which the second is chosen; None: the more
    probable one. blend: how overlapping windows are averaged, one of TAPERS (tools/geo/windows.py). memory: megabytes for the
    sums of probabilities; wider tiles are worked on in column strips. resize: the size that tiles are read at (RESIZE); labels
    and probabilities come at the tiles' own size all the same.
    """

    net: nn.Module
    inputs: list[Input]
    windows: Windows
    batch: int | None
    device: Device
    threshold: float | None = None
    blend: str = "flat"
    memory: float = 256
    resize: Size | None = None

    @cached_property
    def forward(self) -> Forward:
        """The net's passes, in batches of the largest windows."""
        return Forward(self.net, self.inputs, self.device, self.batch, self.windows.size)

    def open(
        self, paths: Mapping[str, str | Path], crew: Crew | None = None, job: Job | None = None, area: PlacedArea | None = None
    ) -> "Reading":
        """A tile whose first windows are read from now on, to be closed; paths: the file of each modality.

        crew: the processes that share the tile. job: the first one's. area: what is wanted of the tile: its windows are those
        of the whole tile that touch it. Raises UserError where it is not what the net reads.
        """
        job = job or self._plan(paths, area)
        with contextlib.ExitStack() as stack:
            tile = stack.enter_context(TileReader(self.inputs, paths, job.part))
            seen = tile if self.resize is None else stack.enter_context(TileReader(self.inputs, self._seen(paths)))
            stack.pop_all()  # both are open: the reading closes them
        sections = crew.ranks.share(job.plan.sections) if crew else job.plan.sections
        share = partial(crew.share, job) if crew else alone
        return Reading(tile, seen, job.plan, Ahead(batches(seen.read, job.plan, sections, self.device)), share, area)

    def _seen(self, paths: Mapping[str, File]) -> Mapping[str, File | Resized]:
        return paths if self.resize is None else {m: Resized(path, self.resize) for m, path in paths.items()}

    def _plan(self, paths: Mapping[str, str | Path], area: PlacedArea | None) -> Job:
        with TileReader(self.inputs, self._seen(paths)) as tile:
            shape = tile.shape
        size, step = self.windows.on(shape)
        sliding = Sliding(size, step, self.forward.batch, self.blend, self.memory)
        planes = getattr(self.net, "planes", self.net.classes)
        if area is None or self.resize is not None:  # then the whole tile is labelled, and cut
            return Job(paths, Plan(shape, planes, sliding))
        part = reach(shape, size, step, area.window)
        windows = list(slide(part.height, part.width, size, step))
        wanted = area.touched([window.shifted(part.row, part.col) for window in windows])
        skip = frozenset(window[:2] for window, touched in zip(windows, wanted, strict=True) if not touched)
        return Job(paths, Plan(part[2:], planes, sliding, skip), part)

    def bands(self, paths: Mapping[str, str | Path]) -> Iterator[Band]:
        """The label map of one tile, band by band."""
        with contextlib.closing(self.open(paths)) as reading:
            yield from self.bands_of(reading)

    def bands_of(self, reading: "Reading") -> Iterator[Band]:
        """The same of a tile that is open.

        Pixels are read in one thread, the net runs in another; what is done with a band holds up neither.
        """
        self.net.eval()
        with contextlib.closing(Ahead(self._parts(reading))) as parts:
            for row, col, labels, probabilities in parts:
                labels, probabilities = labels(), probabilities()
                valid = reading.tile.valid(Window(row, col, *labels.shape))
                if valid is not None:
                    labels[~valid] = NO_DATA
                classes = self.net.classes
                variance = probabilities[classes] if len(probabilities) > classes else None
                band = Band(row, labels, probabilities[:classes], col, variance)
                if reading.area is None:
                    yield band
                elif (inside := reading.inside(band)) is not None:
                    yield inside

    def _parts(self, reading: "Reading") -> Iterator[tuple]:
        """(row, column, labels, probabilities) of finished parts, the arrays on their way here."""
        parts = predict(self.forward, reading.plan, reading.batches, self.device, reading.share)
        if self.resize is not None:
            parts = enlarged(parts, reading.plan.shape, reading.tile.shape)
        with contextlib.closing(parts):
            for part in parts:
                labels = self.device.fetch(self.choose(part.probabilities))
                yield part.row, part.col, labels, self.device.fetch(part.probabilities)

    def work(self, crew: Crew, job: Job) -> Iterator[Part]:
        """What a process that is not the first one does for a tile: the sums of its share of the sections."""
        self.net.eval()
        with contextlib.closing(self.open(job.paths, crew, job)) as reading:
            yield from sums(self.forward, job.plan, reading.batches, self.device)

    def choose(self, probabilities: Tensor) -> Tensor:
        """The labels (rows x width, uint8) of class probabilities (classes x rows x width; further planes have no part)."""
        if self.threshold is None:
            return probabilities[: self.net.classes].max(0).indices.byte()
        return (probabilities[1] > self.threshold).byte()

    def labels(self, paths: Mapping[str, str | Path]) -> np.ndarray:
        """The label map of one tile: h x w, uint8, NO_DATA where a modality has no data."""
        with contextlib.closing(self.open(paths)) as reading:
            labels = np.empty(reading.tile.shape, np.uint8)
            for band in self.bands_of(reading):
                labels[band.window.slices] = band.labels
        return labels

    def confusion(self, paths: Mapping[str, str | Path], truth: np.ndarray) -> np.ndarray:
        """The confusion matrix of one tile against its labels (h x w)."""
        return confusion(truth, self.labels(paths), self.net.classes)


@dataclass(frozen=True)
class Reading:
    """A tile that is being labelled: its pixels, the same as the net sees them, how it is worked on, batches of its windows,
    made ahead, and by whom."""

    tile: TileReader
    seen: TileReader
    plan: Plan
    batches: Ahead[Batch]
    share: Share
    area: PlacedArea | None = None

    def inside(self, band: Band) -> Band | None:
        """What of a band is in the window around the area, placed in that window; without labels outside the area."""
        part, window = self.tile.part or Window(0, 0, *self.tile.shape), self.area.window
        row, col = band.row + part.row, band.col + part.col
        top, left = max(row, window.row), max(col, window.col)
        bottom, right = (
            min(row + len(band.labels), window.row + window.height),
            min(col + band.labels.shape[1], window.col + window.width),
        )
        if bottom <= top or right <= left:
            return None
        here = Window(top, left, bottom - top, right - left)
        rows, cols = here.shifted(-row, -col).slices
        labels = np.where(self.area.mask(here), band.labels[rows, cols], NO_DATA).astype(np.uint8)
        variance = None if band.variance is None else band.variance[rows, cols].copy()
        return Band(top - window.row, labels, band.probabilities[:, rows, cols].copy(), left - window.col, variance)

    def close(self) -> None:
        """Read no more."""
        self.batches.close()
        self.tile.__exit__()
        self.seen.__exit__()


def prepared(net: nn.Module, device: Device) -> nn.Module:
    """The net on the device, with batch norm folded into the convolutions: the same labels, sooner."""
    return device.place(net.fuse()).eval()


def make_labeller(
    inference: InferenceSettings, net: nn.Module, inputs: list[Input], device: Device, windows: Windows | None = None, *,
    resize: Size | None,
) -> Labeller:  # fmt: skip
    """A `prepared` net, ready to label tiles as the config says; windows: instead of the config's. resize: RESIZE."""
    windows, batch, threshold = windows or windows_for(inference, net), inference.TEST_BATCH_SIZE, inference.THRESHOLD
    return Labeller(net, inputs, windows, batch, device, threshold, inference.BLEND, inference.MEMORY_MB, resize)
