"""Caffe's kinds of layers that nets/layers.py lacks, with Caffe's arithmetic: sizes rounded up, its indices, its coefficients.

Sizes are numbers or pairs of height and width. Caffe's source (include/caffe/layers) is the reference for all of them.
"""

import itertools
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.layers import ANY_SIZE, NO_PIXELS, Blob, layer, pair, scatter
from tools.base.errors import UserError


class InnerProduct(nn.Linear):
    """A fully connected layer over all values of an image."""

    def forward(self, x: Tensor) -> Tensor:
        if x[0].numel() != self.in_features:
            shape = " x ".join(map(str, x.shape[1:]))
            raise UserError(
                f"a fully connected layer reads {self.in_features} values, but gets {shape}: give images of the size that"
                " the net was made for."
            )
        return super().forward(x.flatten(1))


@layer
def inner_product(x: Blob, channels: int, values: int | None = None, bias=True):
    """A fully connected layer. values: how many it reads of an image; None where each plane is down to one."""
    module = InnerProduct(values or x.channels, channels, bias)
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if bias:
        nn.init.zeros_(module.bias)
    return module, Blob(channels, NO_PIXELS)


class Upsample(nn.Module):
    """Unpooling to a size that is given, or some times as large: see `upsample`."""

    def __init__(self, scale: tuple[int, int], size: tuple[int, int] | None, pad_out: tuple[bool, bool]):
        super().__init__()
        self.scale, self.size, self.pad_out = scale, size, pad_out

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = self.size or [n * s - p for n, s, p in zip(x.shape[2:], self.scale, self.pad_out, strict=True)]
        if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.max() >= height * width:
            raise UserError(
                f"a mask names positions outside of {height}x{width} pixels: the unpooling must undo the pooling that wrote"
                " the mask; give images whose height and width are multiples of the net's stride, or set upsample_h and _w."
            )
        return scatter(x, mask, height, width)


@layer
def upsample(x: Blob, mask: Blob, scale=2, size=None, pad_out=False):
    """Caffe's Upsample: zeros, and each value of x at the flat index that the mask names.

    size: height and width that it writes; without it, `scale` times x, less one row or column where `pad_out` is true.
    """
    if x.channels != mask.channels:
        raise UserError(f"it unpools {x.channels} planes by a mask of {mask.channels}: they must be as many")
    scale, pad_out = pair(scale), pair(pad_out)
    module = Upsample(scale, tuple(size) if size else None, pad_out)
    return module, Blob(x.channels, x.stride / scale[0])


class Slice(nn.Module):
    """A blob cut into several: see `slice_blob`."""

    def __init__(self, cuts: int | tuple[int, ...], axis: int):
        super().__init__()
        self.cuts, self.axis = cuts, axis

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.cuts, int) and x.shape[self.axis] % self.cuts:
            raise UserError(f"{x.shape[self.axis]} cannot be cut into {self.cuts} equal parts: give images of another size.")
        return torch.tensor_split(x, self.cuts, self.axis)


@layer
def slice_blob(x: Blob, cuts, axis: int = 1):
    """A blob cut into NAME_0, NAME_1 ... along an axis (1: channels). cuts: how many equal parts, or where they begin."""
    points = cuts if isinstance(cuts, int) else tuple(cuts)
    parts = points if isinstance(points, int) else len(points) + 1
    if axis != 1:
        return Slice(points, axis), {f"_{i}": x for i in range(parts)}
    if isinstance(points, int) and x.channels % points:
        raise UserError(f"it cuts {x.channels} planes into {points} equal parts, which does not come out even")
    edges = [x.channels * i // parts for i in range(parts + 1)] if isinstance(points, int) else [0, *points, x.channels]
    planes = [b - a for a, b in itertools.pairwise(edges)]
    if min(planes) < 1:
        raise UserError(f"it cuts {x.channels} planes at {', '.join(map(str, points))}: the cuts must rise and lie inside")
    return Slice(points, axis), {f"_{i}": replace(x, channels=n) for i, n in enumerate(planes)}


class Crop(nn.Module):
    """A blob cut to the size of another: see `crop`."""

    def __init__(self, axis: int, offset: tuple[int, ...]):
        super().__init__()
        self.axis, self.offset = axis, offset

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        for axis, offset in enumerate(self.offset, self.axis):
            if not torch.compiler.is_compiling() and offset + like.shape[axis] > x.shape[axis]:
                raise UserError(
                    f"it cannot cut {like.shape[axis]} rows, columns or planes from {offset} on out of {x.shape[axis]}: give"
                    " images of another size."
                )
            x = x.narrow(axis, offset, like.shape[axis])
        return x


@layer
def crop(x: Blob, like: Blob, axis: int = 2, offset=0):
    """x cut to the size of `like` along `axis` (2: height) and all axes after it, from `offset` (one, or one per axis) on."""
    axes = 4 - axis
    offset = (offset,) * axes if isinstance(offset, int) else tuple(offset)
    if not 0 <= axis < 4 or len(offset) != axes:
        raise UserError(f"it crops from axis {axis} on with {len(offset)} offsets: there must be one, or one for each axis")
    return Crop(axis, offset), Blob(like.channels if axis < 2 else x.channels, like.stride)


class Interp(nn.Module):
    """Bilinear resizing whose corners stay corners: see `interp`."""

    def __init__(self, size, zoom: int, shrink: int, margins: tuple[int, int]):
        super().__init__()
        self.size, self.zoom, self.shrink, self.margins = size, zoom, shrink, margins

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.margins
        x = x[:, :, first : x.shape[2] - last, first : x.shape[3] - last]
        return F.interpolate(x, self.size or [self._length(n) for n in x.shape[2:]], mode="bilinear", align_corners=True)

    def _length(self, n: int) -> int:
        n = (n - 1) // self.shrink + 1
        return n + (n - 1) * (self.zoom - 1)


@layer
def interp(x: Blob, size=None, zoom: int = 1, shrink: int = 1, margins=(0, 0)):
    """DeepLab's Interp: bilinear, corners stay corners, to `size`, or (n - 1) / shrink + 1 and then n + (n - 1)(zoom - 1).

    margins: rows and columns that are cut off first, before the beginning and after the end (Caffe's -pad_beg, -pad_end).
    """
    module = Interp(tuple(size) if size else None, zoom, shrink, tuple(margins))
    return module, Blob(x.channels, x.stride * shrink / zoom)


@layer
def flatten(x: Blob, values: int | None = None):
    """N x values, plane after plane. values: how many; None where each plane is down to one."""
    return nn.Flatten(), Blob(values or x.channels, NO_PIXELS)


class Tile(nn.Module):
    """A blob several times over: see `tile`."""

    def __init__(self, axis: int, tiles: int):
        super().__init__()
        self.axis, self.tiles = axis, tiles

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.tiles, self.axis)


@layer
def tile(x: Blob, tiles: int, axis: int = 1):
    """A blob `tiles` times over, one after the other along an axis (1: planes, 2: height, 3: width)."""
    if not 1 <= axis < 4 or tiles < 1:
        raise UserError(f"it repeats axis {axis} {tiles} times: axes 1 to 3 once or more often are what there is")
    return Tile(axis, tiles), replace(x, channels=x.channels * tiles if axis == 1 else x.channels)


class Reshape(nn.Module):
    """The same values in another shape: see `reshape`."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        shape = [x.shape[i] if n == 0 and i < x.dim() else n for i, n in enumerate(self.shape)]
        try:
            return x.reshape(shape)
        except RuntimeError:
            given, wanted = (" x ".join(map(str, s)) for s in (x.shape[1:], shape[1:]))
            raise UserError(
                f"{given} values cannot become {wanted}: give images of the size that the net was made for."
            ) from None


@layer
def reshape(x: Blob, shape, channels: int, stride=None):
    """The values of each image in another shape (N first): 0 leaves an axis as it is, -1 makes it as long as it must be.

    channels, stride: of what it writes, which the sizes of the images decide; stride None for that of x.
    """
    return Reshape(tuple(shape)), Blob(channels, x.stride if stride is None else Fraction(stride))


class Padding(nn.Module):
    """Zeros around a blob, or its margins cut off: see `padding`."""

    def __init__(self, first: int, last: int):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.first, self.last, self.first, self.last))


@layer
def padding(x: Blob, first: int = 0, last: int = 0):
    """DeepLab's Padding: so many rows and columns of zeros before the first and after the last ones; negative: cut off."""
    return Padding(first, last), x


ANY_SIZE |= {"deconv", "pooling", "upsample", "crop", "interp", "flatten", "inner_product", "reshape", "tile", "padding"}
