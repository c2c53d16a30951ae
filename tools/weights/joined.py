"""Two or more trained nets, joined as the branches of one: residual correction and fusion as in the papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tools.base.errors import UserError, listing, nearest
from tools.weights import snapshots

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
