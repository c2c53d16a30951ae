"""Labelling an image of any size by sliding windows: batched through the net, probabilities averaged, memory bounded.

The rows of windows are taken in sections, each of which is summed up by itself; where two sections overlap, their sums are
added. So several processes may take a section each, and the numbers are the same as if one had done them all.
"""

import contextlib
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tools.base.pipeline import Ahead
from tools.compute.device import Device
from tools.geo.windows import TAPERS, Window, positions
from tools.inference.sliding import Batch, Plan

Pass = Callable[[list[Tensor]], Tensor]  # from N x channels x h x w raw pixels per input to N x classes x h x w probabilities
PART = 16 * 2**20  # bytes of probabilities that are given at a time; several parts are on their way at once


class Part(NamedTuple):
    """A part of an image: its upper left corner, and classes x rows x columns probabilities, float32 (or sums of them)."""

    row: int
    col: int
    probabilities: Tensor

    @property
    def end(self) -> int:
        """The row below it."""
        return self.row + self.probabilities.shape[1]


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
                if not batch.windows:
                    continue
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
        most = min(max(1, PART // (4 * self.total.shape[0] * self.total.shape[2])), self.total.shape[1])
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
