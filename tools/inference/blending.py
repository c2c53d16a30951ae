"""Labelling an image of any size by sliding windows: batched through the net, probabilities averaged, memory bounded.

The rows of windows are taken in sections, each of which is summed up by itself; where two sections overlap, their sums are
added. So several processes may take a section each, and the numbers are the same as if one had done them all.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tools.base.pipeline import Ahead
from tools.compute.device import Device
from tools.data.loader import as_tensor
from tools.data.patches import reflect
from tools.geo.windows import Window, positions

Read = Callable[[Window], list[np.ndarray]]  # the pixels of a window inside the image, channels x h x w per input
Pass = Callable[[list[Tensor]], Tensor]  # from N x channels x h x w raw pixels per input to N x classes x h x w probabilities
PART = 16 * 2**20  # bytes of probabilities that are given at a time; several parts are on their way at once
STRIP = 256  # pixels; strips begin at multiples of it, as the blocks of tiled GeoTIFFs do
SECTION = 2**22  # pixels of the windows of a section at least: 256 windows of 128x128, as many as a GPU takes at once


class Part(NamedTuple):
    """A part of an image: its upper left corner, and classes x rows x columns probabilities, float32 (or sums of them)."""

    row: int
    col: int
    probabilities: Tensor

    @property
    def end(self) -> int:
        """The row below it."""
        return self.row + self.probabilities.shape[1]


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
    """How an image is worked on: its height and width, the net's classes, the windows, and so the sections."""

    shape: tuple[int, int]
    classes: int
    sliding: Sliding

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


Take = Callable[[int], Part]  # gives the next sums of the section of this number
Share = Callable[[Iterator[Part]], contextlib.AbstractContextManager[Take]]  # adds those of others to our own sums


@contextlib.contextmanager
def alone(own: Iterator[Part]) -> Iterator[Take]:
    """All sums are our own."""
    with contextlib.closing(own) as parts:
        yield lambda number: next(parts)


def predict(forward: Pass, plan: Plan, ready: Ahead[Batch], device: Device, share: Share = alone) -> Iterator[Part]:
    """Class probabilities of an image, part by part: finished rows, from top to bottom, of each column strip.

    forward: gives the probabilities of a batch, on the device, float32. ready: the `batches` of the image, or of our share
    of its sections, made ahead. Of one strip, no more is held than a window's height of rows and the sums of the section above
    that reach into the present one. share: where this process is not the only one that works on the image.
    """
    with device.current(), torch.inference_mode(), share(sums(forward, plan, ready, device)) as take:
        yield from means(plan, take, device)


def sums(forward: Pass, plan: Plan, ready: Ahead[Batch], device: Device) -> Iterator[Part]:
    """The windows' weighed probabilities, added up by section."""
    canvas = None
    with contextlib.closing(ready), device.current(), torch.inference_mode(), device.autocast():
        for section, group in groupby(ready, lambda batch: batch.section):
            if canvas is None or canvas.strip != section.strip:
                canvas = None  # its memory goes before the next one's is taken
                canvas = Canvas(plan, section.strip, device.device)
            canvas.begin(section.rows[0])
            for batch in group:
                probabilities = canvas.weigh(forward(batch.pixels))
                for window, values in zip(batch.windows, probabilities, strict=True):
                    yield from canvas.finished_above(window.row)
                    canvas.add(window, values)
            yield from canvas.finished_above(section.bottom)


def means(plan: Plan, take: Take, device: Device) -> Iterator[Part]:
    """The mean probabilities of all windows over each pixel, from the sums of the sections."""
    cover, above = Cover(plan, device.device), None
    for number, section in enumerate(plan.sections):
        row, kept = section.rows[0], []
        while row < section.bottom:
            part = take(number)
            if above is not None:
                over = above[:, row - section.rows[0] :][:, : part.end - row]
                part.probabilities[:, : over.shape[1]] += over
            finished, rest = part.probabilities.split_with_sizes(_split(part, section.below), 1)
            if finished.shape[1]:
                yield cover.mean(Part(row, part.col, finished))
            if rest.shape[1]:
                kept.append(rest.clone())  # it would hold the memory of the whole part
            row = part.end
        above = torch.cat(kept, 1) if kept else None


def _split(part: Part, row: int) -> list[int]:
    """How many rows of a part are above a row of the image, and how many are not."""
    above = min(max(row - part.row, 0), part.end - part.row)
    return [above, part.end - part.row - above]


def batches(read: Read, plan: Plan, sections: Sequence[Section], device: Device) -> Iterator[Batch]:
    """The windows of sections, row by row, in batches with their pixels.

    read: gives the raw pixels of a window inside the image. An image smaller than the window is continued by its mirror image.
    """
    for section, group in groupby(_windows(read, plan, sections), lambda item: item[0]):
        while chunk := list(islice(group, plan.sliding.batch)):
            _, windows, pixels = zip(*chunk, strict=True)
            stacks = [as_tensor(np.stack(of_one_input)) for of_one_input in zip(*pixels, strict=True)]
            yield Batch(section, windows, [device.stage(stack) for stack in stacks])


def _windows(read: Read, plan: Plan, sections: Sequence[Section]) -> Iterator[tuple]:
    """(section, window, channels x h x w per input) for all windows of sections."""
    height, width = plan.sliding.size
    for section, row, rows in _row_slabs(read, plan, sections):
        cols = plan.columns(section.strip)
        for col in cols:
            yield section, Window(row, col, height, width), [slab[:, :, col - cols[0] : col - cols[0] + width] for slab in rows]


def _row_slabs(read: Read, plan: Plan, sections: Sequence[Section]) -> Iterator[tuple[Section, int, list[np.ndarray]]]:
    """(section, row, channels x window's height x columns per input) for each row of windows, those of a strip side by side.

    In a strip, each pixel is read once, unless a section between was left out.
    """
    (height, width), strip, end, slabs = plan.sliding.size, None, 0, []
    for section in sections:
        cols = plan.columns(section.strip)
        right = min(cols[-1] + width, plan.shape[1])
        for row in section.rows:
            overlap = max(0, end - row) if section.strip == strip else 0
            below = min(row + height, plan.shape[0])
            new = read(Window(row + overlap, cols[0], below - row - overlap, right - cols[0]))
            kept = [slab[:, slab.shape[1] - overlap :] for slab in slabs]
            slabs = [np.concatenate(both, 1) for both in zip(kept, new, strict=True)] if overlap else new
            strip, end = section.strip, below
            yield section, row, [reflect(slab, plan.sliding.size) for slab in slabs]


class Canvas:
    """The sum of the windows' probabilities over the rows that are still being worked on.

    strip: the columns (first, end) that are held. Sections must `begin`, and their windows come row by row.
    """

    def __init__(self, plan: Plan, strip: tuple[int, int], device="cpu"):
        (height, width), taper = plan.sliding.size, TAPERS[plan.sliding.blend]
        self.strip, self.row = strip, 0  # row of the image: those above are finished
        self.total = torch.zeros(plan.classes, height, strip[1] - strip[0], device=device)  # row r of the image is r % height
        flat = plan.sliding.blend == "flat"
        self.weight = None if flat else torch.from_numpy(np.outer(taper(height), taper(width))).to(device)

    def begin(self, row: int) -> None:
        """The windows of a section that begins at this row of the image come next."""
        self.row = row

    def weigh(self, probabilities: Tensor) -> Tensor:
        """Multiply N x classes x h x w probabilities, in place, by how much the pixels of a window count."""
        return probabilities if self.weight is None else probabilities.mul_(self.weight)

    def add(self, window: Window, weighed: Tensor) -> None:
        """Add what the net says of one window, classes x h x w."""
        first, end = max(window.col, self.strip[0]), min(window.col + window.width, self.strip[1])
        inside = weighed[:, :, first - window.col : end - window.col]
        for ring, rows in self._pieces(window.row, window.height):
            self.total[:, ring, first - self.strip[0] : end - self.strip[0]] += inside[:, rows]

    def finished_above(self, row: int) -> Iterator[Part]:
        """Give and forget the rows above `row`, which no further window of the section reaches."""
        most = max(1, PART // (4 * self.total.shape[0] * self.total.shape[2]))
        while self.row < row:
            first, end = self.row, min(row, self.row + most)
            done = torch.cat([self.total[:, ring] for ring, _ in self._pieces(first, end - first)], 1)
            for ring, _ in self._pieces(first, end - first):
                self.total[:, ring] = 0
            self.row = end
            yield Part(first, self.strip[0], done)

    def _pieces(self, row: int, count: int) -> list[tuple[slice, slice]]:
        """Where `count` rows of the image from `row` on stand in the ring, and which of them stand there."""
        begin = row % self.total.shape[1]
        before = min(count, self.total.shape[1] - begin)
        pieces = [(slice(begin, begin + before), slice(0, before)), (slice(0, count - before), slice(before, count))]
        return pieces if before < count else pieces[:1]


class Cover:
    """How much all windows over a pixel weigh together: they stand in a grid, so its row's number times its column's."""

    def __init__(self, plan: Plan, device="cpu"):
        taper, axes = TAPERS[plan.sliding.blend], zip(plan.shape, plan.sliding.size, plan.sliding.step, strict=True)
        self.rows, self.cols = (_added_up(max(length, size), taper(size), step).to(device) for length, size, step in axes)

    def mean(self, part: Part) -> Part:
        """Divide sums, in place, by the weights."""
        cols = self.cols[part.col : part.col + part.probabilities.shape[2]]
        return part._replace(probabilities=part.probabilities.div_(self.rows[part.row : part.end, None] * cols))


def _added_up(length: int, taper: np.ndarray, step: int) -> Tensor:
    """The weights of all windows over each position of an axis, added up, float32."""
    cover = np.zeros(length)
    for start in positions(length, len(taper), step):
        cover[start : start + len(taper)] += taper
    return torch.from_numpy(cover.astype(np.float32))


def _distance(size: int) -> np.ndarray:
    """From nearly 0 at both ends of a window to nearly 1 in its middle, at the centres of its pixels."""
    return 1 - np.abs(2 * (np.arange(size) + 0.5) / size - 1)


def _tapered(shape: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], np.ndarray]:
    """A taper, float32 and 1 pixel per value, that stays above 0.01 at the ends, where no other window may reach."""
    return lambda size: (0.01 + 0.99 * shape(_distance(size))).astype(np.float32)


TAPERS: dict[str, Callable[[int], np.ndarray]] = {  # how much the pixels along a window's side count
    "flat": lambda size: np.ones(size, np.float32),
    "linear": _tapered(lambda d: d),
    "cosine": _tapered(lambda d: np.sin(np.pi / 2 * d) ** 2),
    "gaussian": _tapered(lambda d: np.exp(-0.5 * ((1 - d) / 0.5) ** 2)),  # deviation: a quarter of the window
}
