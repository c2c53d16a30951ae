"""Labelling an image of any size by sliding windows: batched through the net, probabilities averaged, memory bounded."""

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tools.device import Device
from tools.loader import as_tensor
from tools.patches import reflect
from tools.pipeline import ahead
from tools.windows import Window, positions

Read = Callable[[Window], list[np.ndarray]]  # the pixels of a window inside the image, channels x h x w per input
Pass = Callable[[list[Tensor]], Tensor]  # from N x channels x h x w raw pixels per input to N x classes x h x w probabilities
PART = 32 * 2**20  # bytes of probabilities that are given at a time; several parts are on their way at once
STRIP = 256  # pixels; strips begin at multiples of it, as the blocks of tiled GeoTIFFs do


class Part(NamedTuple):
    """A finished part of an image: its upper left corner, and classes x rows x columns probabilities, float32."""

    row: int
    col: int
    probabilities: Tensor


class Batch(NamedTuple):
    """Windows that go through the net together, and their pixels: N x channels x h x w per input."""

    windows: tuple[Window, ...]
    pixels: list[Tensor]


class Passed(NamedTuple):
    """Windows that went through the net together, and their N x classes x h x w probabilities, float32, on the device."""

    windows: tuple[Window, ...]
    probabilities: Tensor


class Share(NamedTuple):
    """How several processes work on an image: how many they are, and what makes of a strip and our own passes those of all.

    Ours are every `count`-th batch, from the first one on.
    """

    count: int
    passes: Callable[[tuple[int, int], Iterator[Passed]], Iterator[Passed]]


class Sliding(NamedTuple):
    """Sliding windows over an image.

    size, step: of the window (height, width), in pixels. batch: windows that go through the net together. blend: how much each
    pixel of a window counts, one of TAPERS, when the probabilities of all windows over a pixel are averaged. memory: megabytes
    that the sums of probabilities may take; where whole rows would take more, column strips are worked on one by one.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    batch: int
    blend: str = "flat"
    memory: float = 256

    def strips(self, width: int, classes: int) -> list[tuple[int, int]]:
        """(first column, end) of the column strips of an image, from left to right."""
        most = int(self.memory * 2**20 / (4 * classes * self.size[0]))
        most = max(most // STRIP * STRIP, -(-self.size[1] // STRIP) * STRIP)
        count = -(-width // most)
        even = -(-width // (count * STRIP)) * STRIP  # the last one is not much narrower than the others
        return [(first, min(first + even, width)) for first in range(0, width, even)]

    def columns(self, width: int, strip: tuple[int, int]) -> list[int]:
        """Where the windows of an image stand that reach into a strip of it: the same for any strips."""
        cols = positions(width, self.size[1], self.step[1])
        return [col for col in cols if col < strip[1] and col + self.size[1] > strip[0]]


def predict(
    forward: Pass,
    classes: int,
    read: Read,
    shape: tuple[int, int],
    sliding: Sliding,
    device: Device,
    share: Share | None = None,
) -> Iterator[Part]:
    """Class probabilities of an image, part by part: finished rows, from top to bottom, of each column strip.

    forward: gives the probabilities of a batch, on the device, float32. read: gives the raw pixels of a window inside the
    image. shape: height and width of the image. An image smaller than the window is continued by its mirror image. No more
    than a window's height of rows is held, of one strip. Pixels are read ahead in a thread of their own. share: where
    this process is not the only one that works on the image.
    """
    for strip in sliding.strips(shape[1], classes):
        canvas = Canvas(classes, shape, strip, sliding, device.device)
        own = passes(forward, batches(read, shape, strip, sliding, device, 0, share.count if share else 1))
        with contextlib.closing(share.passes(strip, own) if share else own) as done:
            for windows, probabilities in done:
                canvas.weigh(probabilities)
                for window, values in zip(windows, probabilities, strict=True):
                    yield from canvas.finished_above(window.row)
                    canvas.add(window, values)
        yield from canvas.finished_above(shape[0])


def passes(forward: Pass, ready: Iterator[Batch]) -> Iterator[Passed]:
    """The batches' probabilities; the pixels of the next batches are made meanwhile."""
    with contextlib.closing(ahead(ready)) as stream:
        for windows, pixels in stream:
            yield Passed(windows, forward(pixels))


def batches(
    read: Read, shape: tuple[int, int], strip: tuple[int, int], sliding: Sliding, device: Device, turn: int = 0, of: int = 1
) -> Iterator[Batch]:
    """The windows that reach into a strip, row by row, in batches with their pixels: every `of`-th from the `turn`-th on."""
    queue = _windows(read, shape, strip, sliding)
    chunks = iter(lambda: list(islice(queue, sliding.batch)), [])
    for chunk in islice(chunks, turn, None, of):
        windows, pixels = zip(*chunk, strict=True)
        stacks = [as_tensor(np.stack(of_one_input)) for of_one_input in zip(*pixels, strict=True)]
        yield Batch(windows, [device.stage(stack) for stack in stacks])


def _windows(read: Read, shape: tuple[int, int], strip: tuple[int, int], sliding: Sliding) -> Iterator[tuple]:
    """(window, channels x h x w per input) for all windows that reach into a strip; each pixel is read once."""
    height, width = sliding.size
    cols = sliding.columns(shape[1], strip)
    for row, rows in _row_slabs(read, shape, sliding, cols):
        for col in cols:
            yield Window(row, col, height, width), [slab[:, :, col - cols[0] : col - cols[0] + width] for slab in rows]


def _row_slabs(read: Read, shape: tuple[int, int], sliding: Sliding, cols: list[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(row, channels x window's height x columns per input) for each row of windows, those that stand at `cols`."""
    end, slabs = 0, []
    for row in positions(shape[0], sliding.size[0], sliding.step[0]):
        below = min(row + sliding.size[0], shape[0])
        new = read(Window(end, cols[0], below - end, min(cols[-1] + sliding.size[1], shape[1]) - cols[0]))
        if row:
            kept = [slab[:, slab.shape[1] - (end - row) :] for slab in slabs]
            new = [np.concatenate(both, 1) for both in zip(kept, new, strict=True)]
        slabs = new
        end = below
        yield row, [reflect(slab, sliding.size) for slab in slabs]


class Canvas:
    """The sum of the windows' probabilities over the rows that are still being worked on, and their mean once they are done.

    classes: of the net. shape: of the image. strip: the columns (first, end) that are held. Windows must come row by row.
    """

    def __init__(self, classes: int, shape: tuple[int, int], strip: tuple[int, int], sliding: Sliding, device="cpu"):
        (height, width), step, taper = sliding.size, sliding.step, TAPERS[sliding.blend]
        down, across = taper(height), taper(width)
        self.height, self.strip, self.row = shape[0], strip, 0  # row of the image: those above are finished
        self.total = torch.zeros(classes, height, strip[1] - strip[0], device=device)  # row r of the image is row r % height
        self.weight = None if sliding.blend == "flat" else torch.from_numpy(np.outer(down, across)).to(device)
        # Windows stand in a grid, so the weights over a pixel add up to a number of its row times a number of its column.
        self.over_rows = _cover(max(shape[0], height), down, step[0]).to(device)
        self.over_cols = _cover(max(shape[1], width), across, step[1])[strip[0] : strip[1]].to(device)

    def weigh(self, probabilities: Tensor) -> None:
        """Multiply N x classes x h x w probabilities, in place, by how much the pixels of a window count."""
        if self.weight is not None:
            probabilities.mul_(self.weight)

    def add(self, window: Window, weighed: Tensor) -> None:
        """Add what the net says of one window, classes x h x w."""
        first, end = max(window.col, self.strip[0]), min(window.col + window.width, self.strip[1])
        inside = weighed[:, :, first - window.col : end - window.col]
        for ring, rows in self._pieces(window.row, window.height):
            self.total[:, ring, first - self.strip[0] : end - self.strip[0]] += inside[:, rows]

    def finished_above(self, row: int) -> Iterator[Part]:
        """Give and forget the rows above `row`, which no further window reaches."""
        most = max(1, PART // (4 * self.total.shape[0] * self.total.shape[2]))
        while self.row < min(row, self.height):
            first, end = self.row, min(row, self.height, self.row + most)
            done = torch.cat([self.total[:, ring] for ring, _ in self._pieces(first, end - first)], 1)
            for ring, _ in self._pieces(first, end - first):
                self.total[:, ring] = 0
            self.row = end
            yield Part(first, self.strip[0], done.div_(self.over_rows[first:end, None] * self.over_cols))

    def _pieces(self, row: int, count: int) -> list[tuple[slice, slice]]:
        """Where `count` rows of the image from `row` on stand in the ring, and which of them stand there."""
        begin = row % self.total.shape[1]
        before = min(count, self.total.shape[1] - begin)
        pieces = [(slice(begin, begin + before), slice(0, before)), (slice(0, count - before), slice(before, count))]
        return pieces if before < count else pieces[:1]


def _cover(length: int, taper: np.ndarray, step: int) -> Tensor:
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
