"""The layers that read a net's inputs, and their weights made for other bands and other units.

A first layer answers (pixel / scale - mean) / deviation. Folded, the same layer answers pixels as our nets see them, just as
it answered those: its weights take up the scale and the deviations, its bias, or the running mean of the batch norm after it,
takes up the means. At the image's edge the two differ, unless the means agree: there zeros are padded, and zero is the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nets.net import Net
from tools.base.errors import UserError
from tools.weights.names import images, readers
from tools.weights.units import Units


@dataclass(frozen=True)
class FirstLayer:
    """A layer that reads an input. name: of its module. input: which one. norm: of the batch norm that reads it alone, or None.

    inside: whether that batch norm is part of the layer, as in our tables.
    """

    name: str
    input: str
    norm: str | None
    inside: bool = False
    foldable: bool = True


def first_layers(net: nn.Module) -> list[FirstLayer]:
    """Those of a table, by its rows; those of a library's net, by looking which convolutions see the image itself."""
    if isinstance(net, Net):
        seen = images(net)
        return [FirstLayer(row.name, seen[row.reads[0]], row.name, inside=True) for row in readers(net)]
    return _seen_to_read(net)


def _seen_to_read(net: nn.Module) -> list[FirstLayer]:
    """The convolutions to which the image itself comes, and the batch norms to which their outputs come, in a trial run."""
    side = max(net.least, 2 * net.pad_to, 64)
    side = -(-side // net.pad_to) * net.pad_to
    (name, channels), found, norms = *net.inputs.items(), {}, {}
    image = torch.zeros(1, channels, side, side)

    def look(module: nn.Module, args: tuple, out: Tensor) -> None:
        if args and args[0] is image and isinstance(module, nn.Conv2d):
            found[module] = out
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            norms.update({conv: module for conv, written in found.items() if args and args[0] is written})

    handles = [m.register_forward_hook(look) for m in net.modules()]
    learning = {m: m.training for m in net.modules()}
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, was in learning.items():
            module.training = was
    names = {m: n for n, m in net.named_modules()}
    return [FirstLayer(names[c], name, names.get(norms.get(c)), foldable="StdConv" not in type(c).__name__) for c in found]


def fold(
    weight: Tensor, units: Units, mean: Sequence[float], deviation: Sequence[float], order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """(weights, constant per plane) of a first layer, made for the bands of an input.

    weight: N x bands x k x k, as the source has them, in its units. mean, deviation: per channel that the net reads: it sees
    (pixel - mean) / deviation. order: for each of these channels, the number of its band in the file.
    """
    raw_mean, raw_deviation = (torch.tensor(v, dtype=torch.float64) for v in (units.raw_mean, units.raw_deviation))
    weight = weight.double() / raw_deviation.view(1, -1, 1, 1)  # answers pixels as the files have them
    constant = -(weight.sum((2, 3)) @ raw_mean)
    if units.bgr:
        weight = weight.flip(1)
    weight = spread(weight, len(order))[:, list(order)]
    constant += weight.sum((2, 3)) @ torch.tensor(mean, dtype=torch.float64)
    return (weight * torch.tensor(deviation, dtype=torch.float64).view(1, -1, 1, 1)).float(), constant.float()


def spread(weight: Tensor, bands: int) -> Tensor:
    """Filters for three planes made into filters for `bands`, whose sum over the bands is the same; others as they are."""
    if bands == weight.shape[1]:
        return weight
    mean = weight.mean(1, keepdim=True)
    planes = [weight, mean.expand(-1, bands - 3, -1, -1)] if bands > 3 else [mean.expand(-1, bands, -1, -1)]
    return torch.cat(planes, 1) * 3 / bands


def take_constant(
    layer: FirstLayer, filling: dict[str, dict[str, Tensor]], constant: Tensor, own: Mapping[str, Mapping]
) -> None:
    """Put the constant of a folded layer where it has its effect. Raises UserError where there is no such place.

    filling: the source's tensors by layer, which are changed. own: the net's.
    """
    tensors = filling[layer.name]
    if "bias" in tensors:
        tensors["bias"] = (tensors["bias"].double() + constant).float()
        return
    home, key = (tensors, "bn.running_mean") if layer.inside else (filling.get(layer.norm, {}), "running_mean")
    if key in home:
        home[key] = (home[key].double() - constant).float()
        return
    is_lost = layer.norm is None or (layer.inside and "bn.running_mean" not in own[layer.name])
    if is_lost and constant.abs().max() > 1e-4 * max(1.0, float(tensors["weight"].abs().sum((1, 2, 3)).max())):
        raise UserError(
            f"the first layer '{layer.name}' has neither bias nor batch norm that could take up the means of its source: set"
            " NORMALISATION to 'imagenet', or to what the source wants."
        )
