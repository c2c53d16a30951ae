"""The one sliding window: where extraction cuts its patches and where inference looks."""

from typing import NamedTuple


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


def positions(length: int, size: int, step: int) -> list[int]:
    """Where windows of `size` pixels begin along an axis of `length` pixels, `step` apart; the last is pushed inward.

    Every pixel is inside a window and no position stands twice. An axis shorter than the window has one position, 0.
    """
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def sliding(height: int, width: int, size: tuple[int, int], step: tuple[int, int]) -> list[Window]:
    """The windows of (height, width) `size`, `step` pixels apart, that cover an image, row by row."""
    return [
        Window(row, col, *size) for row in positions(height, size[0], step[0]) for col in positions(width, size[1], step[1])
    ]
