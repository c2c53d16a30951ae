"""How far a net looks, computed from its table alone: no weights, no images, the same on every machine."""

import inspect
import math

from torch import nn

from nets.layers import KINDS, NO_PIXELS, Blob, Row, pair
from nets.net import Net

_DEVIATIONS = 2  # of a normal distribution, within which 95 % of it lie
_ASIDE = {"like", "mask"}  # parameters of kinds: blobs whose values do not become part of what is written


def reach(net: nn.Module) -> int | None:
    """Pixels: about so far to each side reaches what the scores of a pixel depend on.

    Of an ensemble's `nets` the farthest; None if one of them has no table and does not say its `reach` as ONNX files do.
    """
    if isinstance(net, Net):
        return _of_table(net)
    of_all = [reach(one) for one in getattr(net, "nets", ())]
    return max(of_all) if of_all and None not in of_all else getattr(net, "reach", None)


def _of_table(net: Net) -> int:
    """The same by the table.

    A kernel whose weights count alike spreads what it reads evenly, and variances add up from layer to layer, so that the whole
    is about normal (Luo et al., arXiv 1701.04128: far smaller than the field in which there is any influence at all). Where
    several blobs meet, their variances are averaged by their channels.
    """
    variances: dict[str, float] = {}
    for row in (row for row in net.rows if row.name in net.needed):
        blobs, written = [net.blobs[name] for name in row.reads], net.blobs[net.writes[row.name][0]]
        spread = _spread(getattr(net, row.name), blobs[0], written) if blobs else 0.0
        variances |= dict.fromkeys(net.writes[row.name], _met(row, blobs, variances) + spread)
    return math.ceil(_DEVIATIONS * math.sqrt(variances[net.output]))


def _met(row: Row, blobs: list[Blob], variances: dict[str, float]) -> float:
    """The variance of what a layer reads; a blob that is read for its size or its places alone has no part in it."""
    alone = len(blobs) > 1 and _ASIDE & set(inspect.signature(KINDS[row.kind]).parameters)
    channels = [blob.channels for blob in blobs[:1] if alone] or [blob.channels for blob in blobs]
    return sum(variances[name] * n for name, n in zip(row.reads, channels, strict=False)) / max(sum(channels), 1)


def _spread(module: nn.Module, read: Blob, written: Blob) -> float:
    """The variance that a layer adds, in pixels of the image squared; of the whole image it tells no place, so none."""
    before, after = float(read.stride), float(written.stride)
    if max(before, after) >= NO_PIXELS:
        return 0.0
    kernel = getattr(module, "kernel_size", None) or getattr(module, "kernel", None)
    if kernel is None and after < before:
        return before**2 / 6  # interpolated between neighbours
    size = max(pair(kernel)) if kernel else after / before
    apart = max(pair(getattr(module, "dilation", 1))) * min(before, after)
    return (size**2 - 1) / 12 * apart**2
