"""Whether a source's tensors are those of a net's layers, and how they get there."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tools.base.errors import listing
from tools.weights.names import own_layers
from tools.weights.torchvision_names import Layers


def misfit(layer: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], any_bands: bool = False) -> str:
    """Why the source's tensors of a layer are not those of the net, or ""; a batch norm that it lacks is no reason.

    any_bands: whether the layer may read other bands there.
    """
    for name in tensors:
        if name not in own:
            return f"layer '{layer}' has no {'batch norm' if name.startswith('bn.') else repr(name)}, but the weights have it"
    for name in (n for n in own if n in tensors):
        mine, theirs = own[name].shape, tensors[name].shape
        if mine != theirs and not (any_bands and name == "weight" and mine[:1] + mine[2:] == theirs[:1] + theirs[2:]):
            return f"layer '{layer}' has a {name} of {shape_of(own[name])}, the weights have {shape_of(tensors[name])}"
    missing = [n for n in own if n not in tensors and not n.startswith("bn.") and n != "num_batches_tracked"]
    return f"the weights of layer '{layer}' lack its {listing(missing)}" if missing else ""


def shape_of(tensor: Tensor) -> str:
    """Its sizes in words."""
    return " x ".join(map(str, tensor.shape)) or "one value"


def of_other_classes(net: nn.Module, misfits: Iterable[str], layers: Layers, own: Layers) -> list[str]:
    """The layers that misfit only because the source tells another number of classes apart; the net's last is among them."""
    counts: dict[str, set[int]] = {}
    for layer in misfits:
        for name, theirs in layers[layer].items():
            mine = own[layer].get(name)
            if mine is None or mine.dim() != theirs.dim():
                counts.setdefault(layer, set()).add(-1)
                continue
            differ = [(a, b) for a, b in zip(mine.shape, theirs.shape, strict=True) if a != b]
            counts.setdefault(layer, set()).update(b if a == net.classes else -1 for a, b in differ)
    last = [layer for layer, tensors in own.items() if tensors][-1]
    theirs = counts.get(last, set())
    return [layer for layer, found in counts.items() if found == theirs] if len(theirs) == 1 and theirs != {-1} else []


def fill(net: nn.Module, filling: Layers) -> None:
    """Copy tensors, which must fit, into the layers of a net."""
    own = own_layers(net, net.state_dict())
    with torch.no_grad():
        for layer, tensors in filling.items():
            for name, value in tensors.items():
                own[layer][name].copy_(value)
