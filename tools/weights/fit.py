"""Whether a source's tensors are those of a net's layers, and how they get there."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.base.errors import UserError, listing, nearest
from tools.weights import snapshots
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


# ------------------------------------------------------------------------------------------------------- joining trained nets

_OF_INPUT = ("bands", "bgr", "mean", "deviation", "clip", "picks")  # what decides which numbers a branch sees


def join(net: nn.Module, sources: Mapping[str, str], inputs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Fill each branch of a table net, whose layers are called INPUT_LAYER, with the weights of a snapshot of a net for it.

    sources: a snapshot by input. inputs: what the net reads, as JSON values. Returns the layers that were filled, and notes.
    Raises UserError, before anything is filled, for an input that the net lacks, or a snapshot that does not fit its branch.
    """
    own, filling, notes = net.state_dict(), {}, []
    known = {about["name"]: about for about in inputs}
    for name, path in sources.items():
        if name not in known:
            raise UserError(f"INIT_MODEL names the input '{name}', which INPUTS lacks.{nearest(name, known)}")
        found, unused = _branch(own, name, path)
        filling |= found
        notes += [f"{name}: {len(unused)} layers of {path} are not in its branch: {listing(unused, 4)}"] if unused else []
        notes += _other_input(known[name], name, path)
    net.load_state_dict(own | filling)
    return list(dict.fromkeys(_layer(name) for name in filling)), notes


def _branch(own: Mapping[str, Tensor], name: str, path: str) -> tuple[dict[str, Tensor], list[str]]:
    """What a snapshot gives to the branch of an input, by our names, and its layers that have no place there."""
    tensors, _ = snapshots.read_weights(path)
    found = {f"{name}_{theirs}": value for theirs, value in tensors.items() if f"{name}_{theirs}" in own}
    if not found:
        raise UserError(
            f"INIT_MODEL['{name}'] = '{path}': none of its layers ({listing(dict.fromkeys(map(_layer, tensors)), 3)}) has a"
            f" place in a branch called {name}_...: join nets whose tables are those of the branches."
        )
    for target, value in found.items():
        if own[target].shape != value.shape:
            raise UserError(
                f"INIT_MODEL['{name}'] = '{path}': {_layer(target)} has the shape {tuple(value.shape)}, the net wants"
                f" {tuple(own[target].shape)}: train both with the same classes, bands and planes."
            )
    return found, list(dict.fromkeys(_layer(t) for t in tensors if f"{name}_{t}" not in own))


def _other_input(wanted: Mapping[str, Any], name: str, path: str) -> list[str]:
    """A note if a snapshot saw its input with another mean or scale than its branch will."""
    theirs = (snapshots.read_about(Path(path)).get("inputs") or [{}])[0]
    other = [key for key in _OF_INPUT if theirs and theirs.get(key) != wanted.get(key)]
    return (
        [f"warning: {name}: {path} was trained with another {' and '.join(other)}, so its branch begins askew"] if other else []
    )


def _layer(tensor: str) -> str:
    return tensor.split(".")[0]
