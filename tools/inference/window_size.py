"""How far a net looks, and what that means for windows: how much they should overlap."""

import contextlib
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from nets.net import check_windows
from tools.base.errors import UserError
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.views import Resized, Size
from tools.geo.windows import positions
from tools.inference import resampled
from tools.inference.tile_list import Tile

SHARE = 0.9  # of what a pixel's scores depend on, measured by squared gradients
_LOOKS = 4  # images and directions of the scores that are tried
_WINDOW = 256  # pixels, at least, of the window in which that is measured
_CONTRAST = 50.0  # of the noise that is looked at: about that of bytes less their mean


def effective_radius(net: nn.Module, channels: list[int], device: Device, share: float = SHARE) -> int:
    """Pixels: within a square that reaches so far from a pixel to all sides lies `share` of what its scores depend on.

    Measured by gradients (Luo et al., arXiv 1701.04128), since the field that follows from kernels and strides says only where
    there is any influence at all: SegNet's reaches almost 200 pixels to each side, and uses little of that.

    net: on the device, in evaluation mode. channels: of each of its inputs.
    """
    generator, size = torch.Generator().manual_seed(1), -(-_WINDOW // net.multiple) * net.multiple
    check_windows(net, size, size)  # a net with sizes of its own may take no others
    influence = torch.zeros(size, size)
    for _ in range(_LOOKS):
        noise = [_CONTRAST * torch.randn(1, count, size, size, generator=generator) for count in channels]
        images = [x.to(device.device).requires_grad_() for x in noise]
        scores = net(*images)[0, :, size // 2, size // 2]
        direction = torch.randn(scores.shape, generator=generator).to(scores.device)
        for gradient in torch.autograd.grad((scores * direction).sum(), images):
            influence += gradient[0].square().sum(0).cpu()
    return _radius(influence, share)


def _radius(influence: torch.Tensor, share: float) -> int:
    """The half side of the smallest square around the middle that holds this share of the sum."""
    size = influence.shape[0]
    away = (torch.arange(size) - size // 2).abs()
    rings = torch.zeros(size // 2 + 1, dtype=torch.float64)
    rings.index_add_(0, torch.maximum(away[:, None], away).flatten(), influence.double().flatten())
    within = rings.cumsum(0) / rings.sum()
    return int((within < share).sum())


def step_for(size: int, radius: int, multiple: int) -> int:
    """The largest step, in pixels, at which every pixel is `radius` or more away from the border of some window of this size.

    It is a multiple of `multiple`, so that poolings fall on the same pixels in all windows; a quarter of the window at least.
    """
    wished = max(size - 2 * radius, size // 4)
    return max(wished // multiple * multiple, min(multiple, size))


Windows = tuple[tuple[int, int], tuple[int, int]]  # size and step, in pixels (height, width)


def large_windows(net: nn.Module, inputs: list[Input], device: Device, most: int, shapes: list[tuple[int, int]]) -> Windows:
    """Size and step of windows of up to `most` pixels to a side, that overlap by as far as the net looks.

    shapes: height and width of the tiles; the windows are made as much smaller as lets them cover those with the fewest pixels.
    """
    check_windows(net, most, most)
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


def shapes_of(tiles: Iterable[Tile], pixel_size: float | None = None, resize: Size | None = None) -> list[tuple[int, int]]:
    """Height and width of all tiles that can be read; what is wrong with the others is said where they are checked.

    pixel_size: at which they are to be read (metres), None for their own. resize: the size that they are to be read at, RESIZE.
    """
    shapes = []
    for tile in tiles:
        with contextlib.suppress(UserError):
            about = tile.inspect() if resize is None else raster.inspect(Resized(tile.first, resize))
            other = pixel_size and resampled.differs(tile, pixel_size)
            shapes.append(resampled.shape_at(about, pixel_size) if other else (about.height, about.width))
    return shapes
