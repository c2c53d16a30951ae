"""A net made ready to label tiles as a config says: for validation, while it trains, and for inference."""

import contextlib
from collections.abc import Iterable, Sequence

from torch import nn

from nets.net import check_size
from tools.base.errors import UserError
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.windows import positions, step_in_pixels
from tools.inference import resampled
from tools.inference.labeller import Labeller
from tools.inference.tile_list import Tile
from tools.inference.window_size import effective_radius, step_for
from tools.settings import Settings

Windows = tuple[tuple[int, int], tuple[int, int]]  # size and step, in pixels (height, width)


def prepared(net: nn.Module, device: Device) -> nn.Module:
    """The net on the device, with batch norm folded into the convolutions: the same labels, sooner."""
    return device.place(net.fuse()).eval()


def make_labeller(
    settings: Settings, net: nn.Module, inputs: list[Input], device: Device, windows: Windows | None = None
) -> Labeller:
    """A `prepared` net, ready to label tiles as the config says; windows: instead of the config's."""
    size, step = windows or windows_of(settings)
    batch, threshold = settings.TEST_BATCH_SIZE, settings.THRESHOLD
    return Labeller(net, inputs, size, step, batch, device, threshold, settings.BLEND, settings.MEMORY_MB)


def windows_of(settings: Settings) -> Windows:
    """Size and step of the sliding window, in pixels, as the config says."""
    size = tuple(settings.test_patch_size)
    return size, step_in_pixels(settings.test_step_size, size)


def large_windows(net: nn.Module, inputs: list[Input], device: Device, most: int, shapes: list[tuple[int, int]]) -> Windows:
    """Size and step of windows of up to `most` pixels to a side, that overlap by as far as the net looks.

    shapes: height and width of the tiles; the windows are made as much smaller as lets them cover those with the fewest pixels.
    """
    check_size(most, most, net.multiple)
    radius = effective_radius(net, [spec.channels for spec in inputs], device)
    height, width = (_fitting(lengths, most, radius, net.multiple) for lengths in zip(*shapes, strict=True))
    step = step_for(height, radius, net.multiple), step_for(width, radius, net.multiple)
    print(f"windows of {height}x{width} pixels, {step[0]}x{step[1]} apart: the net looks about {radius} pixels far.")
    return (height, width), step


def _fitting(lengths: Sequence[int], most: int, radius: int, multiple: int) -> int:
    """The side of a window, more than half of `most`, of which the fewest pixels cover axes of these lengths."""
    most = min(most, -(-max(lengths) // multiple) * multiple)

    def cost(side: int) -> tuple[int, int]:
        step = step_for(side, radius, multiple)
        return sum(side * len(positions(length, side, step)) for length in lengths), -side

    return min(range(most, most // 2, -multiple), key=cost)


def shapes_of(tiles: Iterable[Tile], pixel_size: float | None = None) -> list[tuple[int, int]]:
    """Height and width of all tiles that can be read; what is wrong with the others is said where they are checked.

    pixel_size: at which they are to be read (metres), None for their own.
    """
    shapes = []
    for tile in tiles:
        with contextlib.suppress(UserError):
            about = raster.inspect(tile.first)
            other = pixel_size and resampled.differs(tile, pixel_size)
            shapes.append(resampled.shape_at(about, pixel_size) if other else (about.height, about.width))
    return shapes
