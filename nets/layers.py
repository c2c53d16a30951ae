"""The vocabulary of the tables: each function is one kind of layer.

In a table, `conv("conv1_1", "data", 64)` is one row: the layer's name, the blobs it reads, then its arguments. The function
behind a kind receives what is known of the blobs it reads (`Blob`: channels and stride) and its arguments; it returns the
module that computes the layer and the `Blob`, or blobs by suffix, that the layer writes. A new kind of layer is one such
function with `@layer` above it; rows, checks, printing, snapshots and Caffe's formats follow from it.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.base.errors import UserError, nearest

ONE_VALUE = "batch norm cannot learn from one value per plane: set BATCH_SIZE to 2 or more, so that it sees several images."


@dataclass(frozen=True)
class Blob:
    """What is known of a blob before any image is seen.

    channels: number of planes; stride: input pixels per blob pixel (1 at the input, 32 after five poolings).
    """

    channels: int
    stride: Fraction = Fraction(1)


@dataclass(frozen=True)
class Row:
    """One line of a table. `lr_mult` and `decay_mult` hold Caffe's multipliers in the order weight, bias, gamma, beta."""

    kind: str
    name: str
    reads: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    lr_mult: tuple[float, ...] | None = None
    decay_mult: tuple[float, ...] | None = None

    def build(self, blobs: list[Blob]) -> tuple[nn.Module, dict[str, Blob]]:
        """The module of this row and the blobs it writes, by name, given the blobs it reads."""
        module, written = KINDS[self.kind](*blobs, **self.args)
        if isinstance(written, Blob):
            written = {"": written}
        return module, {self.name + suffix: blob for suffix, blob in written.items()}

    def __str__(self) -> str:
        words = [repr(self.name), *map(repr, self.reads), *(f"{k}={v!r}" for k, v in self.args.items())]
        return f"{self.kind}({', '.join(words)})"


KINDS: dict[str, Callable] = {}  # name of the kind -> its function
ANY_SIZE: set[str] = {"resize", "enlarge", "surround"}  # kinds that take images of any size, or round up as Caffe does


def layer(function: Callable) -> Callable[..., Row]:
    """Turn a kind's function into the function that writes its row. Parameters annotated `Blob` are the blobs it reads."""
    parameters = list(inspect.signature(function).parameters.values())
    blobs = [p for p in parameters if p.annotation is Blob]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in blobs)
    options = [p.name for p in parameters if p.annotation is not Blob]
    KINDS[function.__name__] = function

    @functools.wraps(function)
    def row(name: str, *words, lr_mult=None, decay_mult=None, **named) -> Row:
        count = len(words) if any_number else len(blobs)
        reads, values = words[:count], words[count:]
        if len(reads) < len(blobs) or not all(isinstance(r, str) for r in reads) or len(values) > len(options):
            raise UserError(f"layer '{name}': {function.__name__} is written {_usage(function.__name__, blobs, options)}.")
        for key in named:
            if key not in options:
                raise UserError(
                    f"layer '{name}': {function.__name__} has no option '{key}' (it has {', '.join(options)})."
                    + nearest(key, options)
                )
        args = dict(zip(options, values, strict=False)) | named
        return Row(function.__name__, name, tuple(reads), args, lr_mult, decay_mult)

    return row


def _usage(kind: str, blobs: list[inspect.Parameter], options: list[str]) -> str:
    reads = [f'"{p.name} it reads"' + (", ..." if p.kind is p.VAR_POSITIONAL else "") for p in blobs]
    words = ['"name"', *reads, *options]
    return f"{kind}({', '.join(words)})"


# ---------------------------------------------------------------------------------------------------------------- inputs


@layer
def data(channels: int):
    """An input of the net: N x channels x H x W."""
    return nn.Identity(), Blob(channels)


# ---------------------------------------------------------------------------------------------- layers that have weights


SIX = 6  # the highest value behind a ReLU6


class Unit(nn.Conv2d):
    """Convolution, then batch norm and ReLU where asked: parameters weight, bias, bn.weight (gamma), bn.bias (beta).

    relu: True, or SIX for ReLU6.
    """

    def __init__(self, *args, norm: bool, relu: bool | int, eps: float = 1e-5, **kwargs):
        super().__init__(*args, **kwargs)
        self.bn = nn.BatchNorm2d(self.out_channels, eps) if norm else None
        self.relu = relu
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")  # Caffe's "msra": N(0, sqrt(2 / fan_in))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn is None:
            x = self.convolve(x, self.weight, self.bias)
        elif self.training and not self.bn.training:  # a batch norm that stands still while the net learns
            x = self.convolve(x, *self.folded())
        else:
            x = self.convolve(x, self.weight, self.bias)
            if self.training and not torch.compiler.is_compiling() and x.numel() == x.shape[1]:
                raise UserError(ONE_VALUE)
            x = self.bn(x)
        if self.relu == SIX:
            return F.relu6(x, inplace=True)
        return F.relu(x, inplace=True) if self.relu else x

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution alone, with these weights."""
        return self._conv_forward(x, weight, bias)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that convolve and normalise by the running statistics at once; all of it can learn."""
        times = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        bias = self.bn.bias - self.bn.running_mean * times
        return self.weight * times[:, None, None, None], bias if self.bias is None else bias + self.bias * times


class TensorFlowUnit(Unit):
    """A unit that pads as TensorFlow's "SAME", to ceil(size / stride) rows and columns; the odd pixel goes below and right."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling() or x.is_meta or self.stride != (2, 2) or x.shape[2] % 2 or x.shape[3] % 2:
            return F.conv2d(self._padded(x), weight, bias, self.stride, 0, self.dilation, self.groups)
        # At even sizes TensorFlow pads (k - 3) / 2 above. Two pixels more there move the windows by one step: the first row and
        # column that are written are cut off, which is quicker than to copy the larger map that is read.
        pad = tuple(d * (k - 1) // 2 + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        return F.conv2d(x, weight, bias, self.stride, pad, self.dilation, self.groups)[:, :, 1:, 1:]

    def _padded(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride, dilation in zip(
            reversed(x.shape[2:]), self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True
        ):
            missing = ((size + stride - 1) // stride - 1) * stride + dilation * (kernel - 1) + 1 - size
            pads += [missing // 2, missing - missing // 2]
        return F.pad(x, pads)


@layer
def conv(
    x: Blob,
    channels: int,
    kernel=3,
    stride=1,
    dilation=1,
    groups: int = 1,
    bias=True,
    norm=True,
    relu=True,
    pad=None,
    eps: float = 1e-5,
):
    """A unit of SegNet and its kind: convolution (He initialisation), batch norm, ReLU.

    relu: True, or 6 for ReLU6. kernel, stride, dilation, pad: a number, or a pair of height and width. pad: None for "same";
    "tensorflow" for TensorFlow's "SAME", which differs from it at strides above 1. eps: of the batch norm.
    """
    kernel, stride, dilation = pair(kernel), pair(stride), pair(dilation)
    unit, pad = (TensorFlowUnit, 0) if pad == "tensorflow" else (Unit, same_pad(kernel, dilation) if pad is None else pair(pad))
    module = unit(
        x.channels, channels, kernel, stride, pad, dilation, groups, bias=bias, norm=norm, relu=relu, eps=eps
    )  # fmt: skip
    return module, Blob(channels, x.stride * stride[0])


def pair(value: int | Iterable[int]) -> tuple[int, int]:
    """(height, width) from one number for both or from a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def same_pad(kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """The padding with which a convolution of stride 1 and an odd kernel keeps the size."""
    return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))


def score(name: str, x: str, classes: int, kernel: int = 3, **options) -> Row:
    """The last layer: a bare convolution that writes one plane of raw scores (logits) per class."""
    return conv(name, x, classes, kernel, norm=False, relu=False, **options)


# ------------------------------------------------------------------------------------------------- pooling and unpooling


class MaxPool(nn.Module):
    """Max pooling 2x2 that also gives, for each maximum, its flat index in its plane; the first of equal values wins."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d(x, 2, 2, return_indices=True)


@layer
def pool(x: Blob):
    """Max pooling 2x2, stride 2. Also writes NAME_mask, the positions of the maxima, for `unpool`."""
    blob = Blob(x.channels, x.stride * 2)
    return MaxPool(), {"": blob, "_mask": blob}


class Unpool(nn.Module):
    """Twice the height and width, zeros everywhere but at the positions that the mask names."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return scatter(x, mask, 2 * x.shape[2], 2 * x.shape[3])


def scatter(x: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
    """N x C x height x width zeros with each value of x at the flat index in its plane that the mask names."""
    n, c, h, w = x.shape
    # A scatter gives the values of max_unpool2d, is allowed in deterministic mode and can be exported. Going over
    # N x HW x C is free of copies when the memory is channels_last, as it is wherever speed matters.
    x, mask = x.permute(0, 2, 3, 1).reshape(n, h * w, c), mask.permute(0, 2, 3, 1).reshape(n, h * w, c)
    out = x.new_zeros(n, height * width, c).scatter(1, mask, x)
    return out.view(n, height, width, c).permute(0, 3, 1, 2)


@layer
def unpool(x: Blob, mask: Blob):
    """Unpooling by indices: writes x at twice its size, each value where the pooling found it, zeros elsewhere."""
    if x.channels != mask.channels:
        raise UserError(f"it unpools {x.channels} planes by a mask of {mask.channels}: they must be as many")
    return Unpool(), Blob(x.channels, x.stride / 2)


class Resize(nn.Module):
    """Bilinear resizing: see `resize`."""

    def __init__(self, corners: bool):
        if not isinstance(corners, bool):
            raise UserError(f"corners = {corners!r}: it must be True or False.")
        super().__init__()
        self.corners = corners

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=self.corners)


@layer
def resize(x: Blob, like: Blob, corners=False):
    """x made as high and wide as `like`, bilinearly, by the areas of the pixels; or, with `corners`, corners stay corners."""
    return Resize(corners), Blob(x.channels, like.stride)


class Enlarge(nn.Module):
    """Bilinear enlarging: see `enlarge`."""

    def __init__(self, by: int):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.by, mode="bilinear", align_corners=False)


@layer
def enlarge(x: Blob, by: int = 2):
    """x made `by` times as high and wide, bilinearly, by the areas of the pixels."""
    if not isinstance(by, int) or isinstance(by, bool) or by < 1:
        raise UserError(f"by = {by!r}: it must be a whole number from 1 on.")
    return Enlarge(by), Blob(x.channels, x.stride / by)


class Surround(nn.Module):
    """An image with a margin that mirrors it: see `surround`."""

    def __init__(self, margin: int):
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.margin,) * 4, mode="reflect")


@layer
def surround(x: Blob, margin: int):
    """x with `margin` more rows and columns on each side, mirrored: what nets read whose convolutions are not padded."""
    return Surround(margin), x


@layer
def relu6(x: Blob):
    """max(x, 0), but 6 at the most."""
    return nn.ReLU6(), x


def branch(prefix: str, rows: list[Row]) -> list[Row]:
    """The same rows once more under a prefix; blobs that come from outside `rows` keep their names."""
    inside = {row.name for row in rows} | {row.name + "_mask" for row in rows}

    def rename(name: str) -> str:
        return prefix + name if name in inside else name

    return [
        Row(row.kind, prefix + row.name, tuple(map(rename, row.reads)), row.args, row.lr_mult, row.decay_mult) for row in rows
    ]


def size_multiple(blobs: Iterable[Blob]) -> int:
    """The number that height and width must be a multiple of, for blobs of these strides to have whole sizes."""
    return math.lcm(*(blob.stride.numerator for blob in blobs))


NO_PIXELS = Fraction(2**20)  # the stride of a blob that has one value per plane, whatever the image


# ---------------------------------------------------------------------------------------------- layers that have weights


@layer
def deconv(x: Blob, channels: int, kernel, stride=1, pad=0, dilation=1, groups: int = 1, bias=True, bilinear=False):
    """Transposed convolution. bilinear: begin with the weights that interpolate, plane by plane (Caffe's filler)."""
    kernel, stride, pad, dilation = pair(kernel), pair(stride), pair(pad), pair(dilation)
    module = nn.ConvTranspose2d(x.channels, channels, kernel, stride, pad, 0, groups, bias, dilation)
    if bilinear:
        with torch.no_grad():
            module.weight.copy_(_tent(kernel[0])[:, None] * _tent(kernel[1]))
    else:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if bias:
        nn.init.zeros_(module.bias)
    return module, Blob(channels, x.stride / stride[0])


def _tent(size: int) -> Tensor:
    """The weights of linear interpolation by half of `size`, as Caffe's BilinearFiller has them."""
    half = (size + 1) // 2
    centre = (size - 1) / (2 * half)
    return 1 - (torch.arange(size) / half - centre).abs()


# -------------------------------------------------------------------------------------------------------------- pooling


class Pooling(nn.Module):
    """Caffe's pooling: see `pooling`."""

    def __init__(self, kernel, stride, pad, method: str, mask: bool, ceil: bool):
        super().__init__()
        self.kernel, self.stride, self.pad, self.method, self.mask, self.ceil = kernel, stride, pad, method, mask, ceil

    def forward(self, x: Tensor):
        if not self.kernel and not self.mask:  # in a form that torch.export takes with any height and width
            return x.mean((2, 3), keepdim=True) if self.method == "ave" else x.amax((2, 3), keepdim=True)
        if self.kernel and any(2 * p > k for p, k in zip(self.pad, self.kernel, strict=True)):
            return self._widely_padded(x)
        kernel = self.kernel or tuple(x.shape[2:])
        stride, pad = (self.stride, self.pad) if self.kernel else (1, 0)
        if self.method == "ave":
            return F.avg_pool2d(x, kernel, stride, pad, self.ceil, count_include_pad=True)
        return F.max_pool2d(x, kernel, stride, pad, 1, self.ceil, return_indices=self.mask)

    def _widely_padded(self, x: Tensor):
        """The same with more padding than PyTorch's own poolings take, half of the window."""
        (height, width), (top, left) = x.shape[2:], self.pad
        rows, columns = (
            self._length(n, k, s, p)
            for n, k, s, p in zip(x.shape[2:], self.kernel, self.stride, self.pad, strict=True)
        )  # fmt: skip
        around = (left, left, top, top)
        if self.method == "ave":
            pooled = F.avg_pool2d(F.pad(x, around), self.kernel, self.stride, 0, self.ceil)
            return pooled[:, :, :rows, :columns]
        padded = F.pad(x, around, value=torch.finfo(x.dtype).min)  # as Caffe has it where a window lies in the padding alone
        pooled, index = F.max_pool2d(padded, self.kernel, self.stride, 0, 1, self.ceil, return_indices=True)
        pooled, index = pooled[:, :, :rows, :columns], index[:, :, :rows, :columns]
        if not self.mask:
            return pooled
        wide = width + 2 * left
        return pooled, (index // wide - top).clamp(0, height - 1) * width + (index % wide - left).clamp(0, width - 1)

    def _length(self, n: int, kernel: int, stride: int, pad: int) -> int:
        """How many windows there are along an axis of n pixels: the last one begins inside image and first padding."""
        more = stride - 1 if self.ceil else 0
        count = (n + 2 * pad - kernel + more) // stride + 1
        return count - 1 if (count - 1) * stride >= n + pad else count


@layer
def pooling(x: Blob, kernel=None, stride=1, pad=0, method: str = "max", mask=False, ceil=True):
    """Pooling by "max" or "ave" with Caffe's sizes: rounded up, but the last window begins inside image and padding.

    kernel: None for the whole image. mask: also write NAME_mask, the positions of the maxima. "ave" divides by the window's
    size, padding included, less what lies beyond the padding. ceil: False rounds down (round_mode: FLOOR).
    """
    if method not in ("max", "ave"):
        raise UserError(f"it pools by '{method}': 'max' and 'ave' are what there is")
    if mask and method != "max":
        raise UserError("only a pooling by 'max' has a mask")
    size, stride, pad = pair(kernel or 1), pair(stride), pair(pad)
    if kernel and any(p >= k for p, k in zip(pad, size, strict=True)):
        raise UserError(f"its padding {pad} must be less than its window {size}, which would else lie outside of the image")
    blob = replace(x, stride=x.stride * stride[0] if kernel else NO_PIXELS)
    module = Pooling(size if kernel else None, stride, pad, method, mask, ceil)
    return module, {"": blob, "_mask": blob} if mask else blob


# --------------------------------------------------------------------------------------------- joining, cutting, resizing


def _check_sizes(blobs: Iterable[Tensor]) -> None:
    """Raise UserError unless the blobs are of one height and width (a compiled net finds out by itself)."""
    if not torch.compiler.is_compiling() and len({b.shape[2:] for b in blobs}) > 1:
        sizes = " and ".join("x".join(map(str, b.shape[2:])) for b in blobs)
        raise UserError(f"blobs of {sizes} pixels cannot be joined: give images of a rounder size.")


class Eltwise(nn.Module):
    """Blobs joined value by value: see `eltwise`."""

    def __init__(self, operation: str, coeff: tuple[float, ...] | None):
        super().__init__()
        self.operation, self.coeff = operation, coeff

    def forward(self, *blobs: Tensor) -> Tensor:
        _check_sizes(blobs)
        if self.coeff:
            blobs = [b if k == 1 else b * k for b, k in zip(blobs, self.coeff, strict=True)]
        joined = blobs[0]
        for blob in blobs[1:]:
            joined = _OPERATIONS[self.operation](joined, blob)
        return joined


_OPERATIONS = {"sum": torch.add, "prod": torch.mul, "max": torch.maximum}


@layer
def eltwise(*x: Blob, operation: str = "sum", coeff=None):
    """Blobs of one shape joined value by value: "sum" (each times its `coeff`), "prod" or "max"."""
    if operation not in _OPERATIONS:
        raise UserError(f"it joins by '{operation}': 'sum', 'prod' and 'max' are what there is")
    if coeff and (operation != "sum" or len(coeff) != len(x)):
        raise UserError(
            f"it has {len(coeff)} coefficients for a '{operation}' of {len(x)} blobs: only a sum has them, one each"
        )
    if len({b.channels for b in x}) > 1:
        raise UserError(f"it joins blobs of {', '.join(str(b.channels) for b in x)} planes: they must be as many")
    return Eltwise(operation, tuple(coeff) if coeff else None), x[0]


def mean(name: str, *x: str) -> Row:
    """The mean of blobs of one shape, value by value."""
    return eltwise(name, *x, coeff=(1 / len(x),) * len(x))


@layer
def concat(*x: Blob, axis: int = 1):
    """Blobs one after the other along an axis (1: channels)."""
    return Concat(axis), replace(x[0], channels=sum(b.channels for b in x) if axis == 1 else x[0].channels)


class Concat(nn.Module):
    """Blobs one after the other."""

    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis

    def forward(self, *blobs: Tensor) -> Tensor:
        if self.axis == 1:
            _check_sizes(blobs)
        return torch.cat(blobs, self.axis)


# ------------------------------------------------------------------------------------------------------- value by value


@layer
def relu(x: Blob, negative_slope: float = 0.0):
    """max(x, 0) + negative_slope min(x, 0)."""
    return nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU(), x


@layer
def dropout(x: Blob, ratio: float = 0.5, sample=False):
    """In training, values are zeroed with this probability and the others grow accordingly.

    sample: the net is made to be labelled with by several passes that drop values too (Bayesian SegNet's
    sample_weights_test); whether that is done, those who label decide (tools/inference/averages.py).
    """
    module = nn.Dropout(ratio)
    module.sample = sample
    return module, x


# ------------------------------------------------------------------------------------------------------ losses on the way


@layer
def auxiliary(x: Blob, weight: float):
    """Further scores of the classes, which training compares with the labels, too: their loss counts `weight`.

    They may be smaller than the labels, which are then made as small. In use there is nothing of them.
    """
    return nn.Identity(), x
