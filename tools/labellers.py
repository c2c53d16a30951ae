"""A net made ready to label tiles as a config says: for validation, while it trains, and for inference."""

import contextlib

from torch import nn

from nets.net import check_size
from tools import raster
from tools.batches import Tile
from tools.device import Device
from tools.errors import UserError
from tools.inputs import Input
from tools.receptive_field import effective_radius, step_for
from tools.settings import Settings
from tools.tiles import Labeller
from tools.windows import step_in_pixels

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


def large_windows(net: nn.Module, inputs: list[Input], device: Device, window: int, tiles: list[Tile]) -> Windows:
    """The same of another window (pixels), but none larger than the tiles: windows overlap by as far as the net looks."""
    check_size(window, window, net.multiple)
    window = min(window, -(-_longest_side(tiles) // net.multiple) * net.multiple)
    radius = effective_radius(net, [spec.channels for spec in inputs], device)
    step = step_for(window, radius, net.multiple)
    print(f"windows of {window}x{window} pixels, {step} apart: the net looks about {radius} pixels far.")
    return (window, window), (step, step)


def _longest_side(tiles: list[Tile]) -> int:
    """Pixels, of all tiles that can be read; what is wrong with the others is said where they are checked."""
    sides = [1]
    for tile in tiles:
        with contextlib.suppress(UserError):
            about = raster.inspect(tile.first)
            sides += [about.height, about.width]
    return max(sides)
