"""Labelling an image of any size by sliding windows: batched through the net, probabilities averaged, memory bounded."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import nn

from tools.device import Device
from tools.inputs import Input
from tools.loader import as_tensor
from tools.patches import reflect
from tools.windows import Window, positions, sliding

Read = Callable[[Window], list[np.ndarray]]  # the pixels of a window, channels x h x w per input


def predict(
    net: nn.Module,
    inputs: list[Input],
    read: Read,
    shape: tuple[int, int],
    size,
    step,
    batch: int,
    device: Device,
    blend: str = "flat",
) -> Iterator[tuple[int, np.ndarray]]:
    """Class probabilities of an image, in bands of finished rows: (first row, classes x rows x width, float32).

    read: gives the raw pixels of a window inside the image. shape: height and width of the image. size, step: of the sliding
    window (height, width), in pixels. batch: windows that go through the net together. blend: how much each pixel of a window
    counts, one of TAPERS, when the softmax probabilities of all windows over a pixel are averaged. An image smaller than the
    window is continued by its mirror image. No more than a window's height of rows is held.
    """
    net = net.eval()
    windows = sliding(max(shape[0], size[0]), max(shape[1], size[1]), size, step)
    canvas = RowBuffer(net.classes, shape, size, step, blend)
    queue = iter(windows)
    while chunk := list(islice(queue, batch)):
        for window, probabilities in zip(chunk, _forward(net, inputs, read, shape, chunk, device), strict=True):
            yield from canvas.finished_above(window.row)
            canvas.add(window, probabilities)
    yield from canvas.finished_above(shape[0])


class RowBuffer:
    """The sum of the windows' probabilities over the rows that are still being worked on, and their mean once they are done.

    classes: of the net. shape: of the image. size, step: of the windows, which must come row by row. blend: one of TAPERS.
    """

    def __init__(self, classes: int, shape: tuple[int, int], size: tuple[int, int], step: tuple[int, int], blend="flat"):
        self.height, self.width = shape
        self.row = 0  # of the image, that the buffer begins at
        self.total = np.zeros((classes, size[0], max(shape[1], size[1])), np.float32)
        down, across = TAPERS[blend](size[0]), TAPERS[blend](size[1])
        self.weight = None if blend == "flat" else down[:, None] * across[None, :]
        # Windows stand in a grid, so the weights over a pixel add up to a number of its row times a number of its column.
        self.over_rows = _cover(max(shape[0], size[0]), down, step[0])
        self.over_cols = _cover(max(shape[1], size[1]), across, step[1])

    def add(self, window: Window, probabilities: np.ndarray) -> None:
        """Add what the net says of one window, classes x h x w."""
        rows = slice(window.row - self.row, window.row - self.row + window.height)
        self.total[:, rows, window.col : window.col + window.width] += (
            probabilities if self.weight is None else probabilities * self.weight
        )

    def finished_above(self, row: int) -> Iterator[tuple[int, np.ndarray]]:
        """Give and forget the rows above `row`, which no further window reaches."""
        done = min(row, self.height) - self.row
        if done <= 0:
            return
        cover = self.over_rows[self.row : self.row + done, None] * self.over_cols[None, : self.width]
        yield self.row, self.total[:, :done, : self.width] / cover
        self.total = np.roll(self.total, -done, axis=1)
        self.total[:, self.total.shape[1] - done :] = 0
        self.row += done


def _cover(length: int, taper: np.ndarray, step: int) -> np.ndarray:
    """The weights of all windows over each position of an axis, added up."""
    cover = np.zeros(length, np.float32)
    for start in positions(length, len(taper), step):
        cover[start : start + len(taper)] += taper
    return cover


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


def _forward(net, inputs: list[Input], read: Read, shape, windows: list[Window], device: Device) -> np.ndarray:
    """Softmax probabilities of some windows: N x classes x h x w, float32."""
    pixels = [read(inside(window, shape)) for window in windows]
    size = windows[0].height, windows[0].width
    with torch.inference_mode(), device.autocast():
        images = []
        for i, spec in enumerate(inputs):
            stack = np.stack([reflect(p[i], size) for p in pixels])
            images.append(spec.normalise(device.send(as_tensor(stack))).contiguous(memory_format=device.memory_format))
        return net(*images).float().softmax(1).cpu().numpy()


def inside(window: Window, shape: tuple[int, int]) -> Window:
    """The part of a window that lies inside an image."""
    height, width = min(window.height, shape[0] - window.row), min(window.width, shape[1] - window.col)
    return Window(window.row, window.col, height, width)
