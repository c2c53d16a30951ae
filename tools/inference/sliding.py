"""The plan of sliding windows over an image: which windows there are, in which batches, strips and sections they are read."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tools.compute.device import Device, as_tensor
from tools.data.patches import reflect
from tools.geo.windows import Window, positions

Read = Callable[[Window], list[np.ndarray]]  # the pixels of a window inside the image, channels x h x w per input
STRIP = 256  # pixels; strips begin at multiples of it, as the blocks of tiled GeoTIFFs do
SECTION = 2**22  # pixels of the windows of a section at least: 256 windows of 128x128, as many as a GPU takes at once


class Section(NamedTuple):
    """Rows of windows in a column strip (first column, end), which are summed up by themselves.

    rows: where the windows begin. bottom: the row of the image below all of them. below: where the next section of the strip
    begins, whose windows reach the rows from there on as well; without a next one, the height of the image.
    """

    strip: tuple[int, int]
    rows: tuple[int, ...]
    bottom: int
    below: int


class Batch(NamedTuple):
    """Windows of a section that go through the net together, and their pixels: N x channels x h x w per input."""

    section: Section
    windows: tuple[Window, ...]
    pixels: list[Tensor]


class Sliding(NamedTuple):
    """Sliding windows over an image.

    size, step: of the window (height, width), in pixels. batch: windows that go through the net together. blend: how much each
    pixel of a window counts, one of TAPERS, when the probabilities of all windows over a pixel are averaged. memory: megabytes
    that the sums of probabilities may take; where whole rows would take more, column strips are worked on one by one. section:
    the least pixels of the windows of a section.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    batch: int
    blend: str = "flat"
    memory: float = 256
    section: int = SECTION

    def strips(self, width: int, classes: int) -> list[tuple[int, int]]:
        """(first column, end) of the column strips of an image, from left to right."""
        held = 2 * self.size[0] - self.step[0]  # rows: of the windows, and of those of the section above that overlap
        most = int(self.memory * 2**20 / (4 * classes * held))
        most = max(most // STRIP * STRIP, -(-self.size[1] // STRIP) * STRIP)
        count = -(-width // most)
        even = -(-width // (count * STRIP)) * STRIP  # the last one is not much narrower than the others
        return [(first, min(first + even, width)) for first in range(0, width, even)]


@dataclass(frozen=True)
class Plan:
    """How an image is worked on: its height and width, the net's classes, the windows, and so the sections.

    skip: the windows (row, column) that nobody wants; where there are no others, the sums of probabilities are 0.
    """

    shape: tuple[int, int]
    classes: int
    sliding: Sliding
    skip: frozenset[tuple[int, int]] = frozenset()

    @cached_property
    def sections(self) -> list[Section]:
        """Those of each strip from top to bottom; none overlaps more than the next one."""
        (size, width), step = self.sliding.size, self.sliding.step[0]
        rows, found = positions(self.shape[0], size, step), []
        for strip in self.sliding.strips(self.shape[1], self.classes):
            least = max(-(-size // step), -(-self.sliding.section // (size * width * len(self.columns(strip)))))
            count = max(1, len(rows) // least)
            cuts = [i * len(rows) // count for i in range(count + 1)]
            for first, end in itertools.pairwise(cuts):
                bottom = min(rows[end - 1] + size, self.shape[0])
                found.append(Section(strip, tuple(rows[first:end]), bottom, rows[end] if end < len(rows) else self.shape[0]))
        return found

    def columns(self, strip: tuple[int, int]) -> list[int]:
        """Where the windows stand that reach into a strip: the same for any strips."""
        size, step = self.sliding.size[1], self.sliding.step[1]
        cols = positions(self.shape[1], size, step)
        return [col for col in cols if col < strip[1] and col + size > strip[0]]


def reach(shape: tuple[int, int], size: tuple[int, int], step: tuple[int, int], window: Window) -> Window:
    """The part of an image that the sliding windows which touch a window of it cover: in it, they stand as in the whole."""
    ends = []
    for length, side, apart, first, wanted in zip(shape, size, step, window[:2], window[2:], strict=True):
        starts = [p for p in positions(length, side, apart) if p < first + wanted and p + side > first]
        ends.append((starts[0], min(starts[-1] + side, length) - starts[0]))
    (row, height), (col, width) = ends
    return Window(row, col, height, width)


def batches(read: Read, plan: Plan, sections: Sequence[Section], device: Device) -> Iterator[Batch]:
    """The windows of sections, row by row, in batches with their pixels.

    read: gives the raw pixels of a window inside the image. An image smaller than the window is continued by its mirror image.
    """
    for section, group in groupby(_windows(read, plan, sections), lambda item: item[0]):
        while chunk := list(islice(group, plan.sliding.batch)):
            _, windows, pixels = zip(*chunk, strict=True)
            if windows == (None,):
                yield Batch(section, (), [])
                continue
            stacks = [as_tensor(np.stack(of_one_input)) for of_one_input in zip(*pixels, strict=True)]
            yield Batch(section, windows, [device.stage(stack) for stack in stacks])


def _windows(read: Read, plan: Plan, sections: Sequence[Section]) -> Iterator[tuple]:
    """(section, window, channels x h x w per input) for all windows of sections; no window for a section without any."""
    height, width = plan.sliding.size
    for section, row, rows in _row_slabs(read, plan, sections):
        if row is None:
            yield section, None, None
            continue
        cols = plan.columns(section.strip)
        for col in (col for col in cols if (row, col) not in plan.skip):
            yield section, Window(row, col, height, width), [slab[:, :, col - cols[0] : col - cols[0] + width] for slab in rows]


def _row_slabs(read: Read, plan: Plan, sections: Sequence[Section]) -> Iterator[tuple[Section, int | None, list[np.ndarray]]]:
    """(section, row, channels x window's height x columns per input) for each row of windows, those of a strip side by side.

    In a strip, each pixel is read once, unless a section between was left out. No row for a section without windows.
    """
    (height, width), strip, end, slabs = plan.sliding.size, None, 0, []
    for section in sections:
        cols = plan.columns(section.strip)
        right = min(cols[-1] + width, plan.shape[1])
        rows = [row for row in section.rows if any((row, col) not in plan.skip for col in cols)]
        if not rows:
            yield section, None, []
        for row in rows:
            overlap = max(0, end - row) if section.strip == strip else 0
            below = min(row + height, plan.shape[0])
            new = read(Window(row + overlap, cols[0], below - row - overlap, right - cols[0]))
            kept = [slab[:, slab.shape[1] - overlap :] for slab in slabs]
            slabs = [np.concatenate(both, 1) for both in zip(kept, new, strict=True)] if overlap else new
            strip, end = section.strip, below
            yield section, row, [reflect(slab, plan.sliding.size) for slab in slabs]
