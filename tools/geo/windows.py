"""The one sliding window: where extraction cuts its patches and where inference looks."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tools.base.errors import UserError

ROWS = 1024  # of an image that are worked on together at most, fewer where it is wide
_PIXELS = 8_000_000


class Window(NamedTuple):
    """A rectangle of pixels: its upper left corner and its size."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """For the last two axes of an array."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def shifted(self, rows: int, cols: int) -> "Window":
        """The same rectangle so many pixels further down and to the right."""
        return self._replace(row=self.row + rows, col=self.col + cols)


def positions(length: int, size: int, step: int) -> list[int]:
    """Where windows of `size` pixels begin along an axis of `length` pixels, `step` apart; the last is pushed inward.

    Every pixel is inside a window and no position stands twice. An axis shorter than the window has one position, 0.
    """
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def sliding(height: int, width: int, size: tuple[int, int], step: tuple[int, int]) -> Iterator[Window]:
    """The windows of (height, width) `size`, `step` pixels apart, that cover an image, row by row."""
    cols = positions(width, size[1], step[1])
    return (Window(row, col, *size) for row in positions(height, size[0], step[0]) for col in cols)


def row_windows(height: int, width: int) -> Iterator[Window]:
    """Whole rows of an image, from top to bottom, as many at a time as memory allows."""
    rows = min(ROWS, max(64, _PIXELS // width))
    return (Window(row, 0, min(rows, height - row), width) for row in range(0, height, rows))


def step_in_pixels(step: float | Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """A step in pixels, height and width, that is given so or as a share of the window's size, such as 0.5."""
    if isinstance(step, float):
        return tuple(max(1, int(step * side + 0.5)) for side in size)  # as JavaScript rounds
    return tuple(step)


def check_step(step_name: str, step: float | Sequence[int], size_name: str, size: Sequence[int]) -> None:
    """Raise UserError if windows of `size` that are `step` apart would leave pixels out; the names are the settings'."""
    if any(a < b for a, b in zip(size, step_in_pixels(step, size), strict=True)):
        raise UserError(f"{step_name} = {step} is wider than {size_name} = {size}: pixels would be lost.")


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
