"""Probabilities of a tile that was read at another size (RESIZE), brought back to its own size as they come, bilinear."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tools.inference.blending import Part

ROWS = 256  # of the tile that are made at once


class Axis(NamedTuple):
    """Between which two pixels (`low`, `high`) each pixel of the other size lies along one side, and how far on (0 to 1).

    Middles of pixels correspond; beyond the middle of the first and the last pixel, these stand alone.
    """

    low: Tensor
    high: Tensor
    share: Tensor

    @classmethod
    def of(cls, have: int, want: int, device: torch.device) -> "Axis":
        """From `have` pixels to `want` pixels."""
        place = (((torch.arange(want, dtype=torch.float64) + 0.5) * have / want) - 0.5).clamp(0, have - 1)
        low = place.long()
        return cls(*(t.to(device) for t in (low, (low + 1).clamp(max=have - 1), (place - low).float())))

    def known(self, end: int) -> int:
        """How many of the new pixels lie between pixels before `end`."""
        return int(torch.searchsorted(self.high, end))

    def mix(self, pixels: Tensor, dim: int, first: int, chosen: slice) -> Tensor:
        """The chosen new pixels along a dimension; first: the number of the first pixel that is given."""
        low, high, share = (values[chosen] for values in self)
        low, high = (pixels.index_select(dim, (at - first).clamp(min=0)) for at in (low, high))
        return torch.lerp(low, high, share.view(-1, *[1] * (pixels.dim() - 1 - dim)))


def enlarged(parts: Iterator[Part], shape: Sequence[int], whole: Sequence[int]) -> Iterator[Part]:
    """The parts of an image of a `shape` (height, width) as parts of the `whole`, in the same order.

    parts: from top to bottom in each column strip. Of the part above its last row is kept, of the strip to the left its last
    column, so that no seam shows.
    """
    strip, left, right, above, axes = 0, None, [], None, ()
    with contextlib.closing(parts):
        for part in parts:
            here = part.probabilities
            axes = axes or [Axis.of(*pair, here.device) for pair in zip(shape, whole, strict=True)]
            if part.col != strip:
                strip, left, right, above = part.col, torch.cat(right, 1), [], None
            right.append(here[:, :, -1:].clone())
            beside = here[:, :, :1] if left is None else left[:, part.row : part.end]
            block = torch.cat([beside, here], 2)
            block = torch.cat([block[:, :1] if above is None else above, block], 1)
            above = block[:, -1:].clone()
            yield from _pieces(block, part, *axes)


def _pieces(block: Tensor, part: Part, rows: Axis, cols: Axis) -> Iterator[Part]:
    """What a part, to which a row above and a column to the left were added, gives of the whole, some rows at once."""
    left, right = cols.known(part.col), cols.known(part.col + part.probabilities.shape[2])
    top, bottom = rows.known(part.row), rows.known(part.end)
    for row in range(top, bottom if right > left else top, ROWS):
        some = rows.mix(block, 1, part.row - 1, slice(row, min(row + ROWS, bottom)))
        yield Part(row, left, cols.mix(some, 2, part.col - 1, slice(left, right)))
