"""How large windows are and how far apart: as the config says, or for each tile what costs least for how far the net looks."""

from dataclasses import dataclass
from math import lcm

from torch import nn

from nets.net import Net, good_size
from nets.receptive import reach
from tools.base.errors import UserError
from tools.geo.windows import positions, step_in_pixels
from tools.inference.settings import AUTO, InferenceSettings

MOST = 512  # pixels, the side of the largest window that is chosen: larger ones take more memory and are hardly cheaper
HALO = 64  # pixels: from there on inwards, the border of a window changes no score by 0.1 points, however far the net looks
_GRID = 32  # pixels, of which chosen sides are multiples: so pooled maps keep whole sizes

Place = tuple[tuple[int, int], tuple[int, int]]  # size and step, in pixels (height, width)


@dataclass(frozen=True)
class Windows:
    """The sliding windows over a tile of any size.

    size: height and width, in pixels; the largest ones if they are `fitted`. step: in pixels, or as a share of the size; None:
    they overlap so that `halo` pixels to each side of a border are another window's. multiple: of the net. grid: of which the
    sides are multiples where each tile has the windows, up to that size, of which the fewest pixels cover it; None: all are of
    one size. Nothing but the tile's own size counts, so that a tile has the same map whatever is labelled with it.
    """

    size: tuple[int, int]
    step: tuple[int, int] | float | None
    halo: int = HALO
    multiple: int = 1
    grid: int | None = None

    def on(self, shape: tuple[int, int]) -> Place:
        """Size and step for a tile of this height and width."""
        if isinstance(self.step, tuple):
            return self.size, self.step
        size = tuple(map(self._fitting, shape, self.size)) if self.grid else self.size
        return size, tuple(map(self._apart, size))

    def to_dict(self) -> dict:
        """The same as JSON values: the largest windows, their step, and what chooses those of a tile, if they are fitted.

        tools/page/label/windows.js chooses by it as well.
        """
        step = self.step if isinstance(self.step, tuple) else tuple(map(self._apart, self.size))
        by = {"grid": self.grid, "multiple": self.multiple, "halo": self.halo, "share": self.step}
        return {"window": self.size, "step": step, "fitted": by if self.grid else None}

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.size))
        if not self.grid:
            return f"windows of {sizes} pixels"
        common = f"{self.halo} pixels to each side" if self.step is None else f"{1 - self.step:.0%}"
        return f"windows of up to {sizes} pixels that suit each tile and overlap by {common}"

    def _apart(self, side: int) -> int:
        """From one window of this side to the next, along one axis."""
        if self.step is not None:
            return step_in_pixels(self.step, (side,))[0]
        wished = max(side - 2 * self.halo, side // 2)
        return max(wished // self.multiple * self.multiple, min(self.multiple, side))

    def _fitting(self, length: int, most: int) -> int:
        """The side, more than half of the largest that is of use, of which the fewest pixels cover an axis of this length."""
        most = min(most, -(-length // self.grid) * self.grid)
        return min(range(most, most // 2, -self.grid), key=lambda side: side * len(positions(length, side, self._apart(side))))


def windows_for(inference: InferenceSettings, net: nn.Module, most: int | None = None, only: int | None = None) -> Windows:
    """The windows that the config asks for, for this net.

    most: the side of the largest window, of --window, in place of the config's size and step. only: the one side that the net
    takes. Raises UserError if the net takes no such windows.
    """
    size, step = (AUTO, AUTO) if most else (inference.test_patch_size, inference.test_step_size)
    far = reach(net)
    halo = HALO if far is None else min(far, HALO)
    apart = None if step == AUTO else step
    if size == AUTO and not only:
        return _chosen(net, most or MOST, apart, halo)
    size = (only, only) if only else tuple(size)
    if only and not isinstance(apart, float | None):
        apart = tuple(step_in_pixels(a / b, (only,))[0] for a, b in zip(apart, inference.test_patch_size, strict=True))
    return Windows(size, apart if apart is None else step_in_pixels(apart, size), halo, net.multiple)


def _chosen(net: nn.Module, most: int, step: float | None, halo: int) -> Windows:
    """Windows up to this side, fitted to each tile; of the one size that suits a net which takes no others."""
    grid = lcm(net.multiple, getattr(net, "pad_to", 1), _GRID)
    if most < grid:
        raise UserError(f"windows of up to {most} pixels are too small to be chosen for this net: {grid} at least.")
    side = most // grid * grid
    if isinstance(net, Net) and not all(net.labels_in_full((n, n)) for n in (side, side - grid) if n):
        if size := good_size(net, (side, side)):
            return Windows(size, step if step is None else step_in_pixels(step, size), halo, net.multiple)
        raise UserError("this net takes windows of some sizes only: say which in test_patch_size.")
    return Windows((side, side), step, halo, net.multiple, grid)
