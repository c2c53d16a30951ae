"""Snapshots: `net_iter_N.safetensors` (weights and all that rebuilds the net) and `net_iter_N.solverstate` (all that goes on).

Neither file can run code: safetensors holds numbers alone, the solverstate is read with PyTorch's `weights_only`.
"""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import nets
from tools.errors import UserError, listing
from tools.folders import whole_file

_NAME = re.compile(r"net_iter_(\d+)\.safetensors")


def save_net(path: str | Path, net: nn.Module, about: dict[str, Any]) -> None:
    """Write weights and, as metadata, how to build the net and what it is for.

    about: JSON values: name, inputs, classes, palette, ignored, ... as the scripts use them.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    metadata = {"net": nets.describe(net)} | {k: json.dumps(v) for k, v in about.items()}
    with whole_file(path) as temporary:
        save_file(weights, temporary, metadata)


def load_net(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The net in a snapshot, and what `save_net` was told about it. Raises UserError where the file is none of ours."""
    weights, metadata = read_weights(path)
    if "net" not in metadata:
        raise UserError(f"{path} has weights but not the net they are of: give a snapshot (net_iter_N.safetensors).")
    try:
        net = nets.rebuild(metadata.pop("net"))
        load_strictly(net, weights)
        return net, {k: json.loads(v) for k, v in metadata.items() if k != "format"}
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be made into a net: {error}") from None


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file. Raises UserError where it is missing, cut off or something else."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is no whole safetensors file ({error}): weights of other kinds go through INIT_MODEL or --init."
        ) from None


def load_strictly(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill a net with weights by name. Raises UserError unless names and shapes are just those of the net."""
    own = net.state_dict()
    missing, unknown = set(own) - set(weights), set(weights) - set(own)
    if missing or unknown:
        raise UserError(f"the net lacks {listing(sorted(unknown), 4) or 'nothing'}, the file {listing(sorted(missing), 4)}.")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise UserError(f"'{name}' has the shape {tuple(value.shape)}, the net wants {tuple(own[name].shape)}.")
    net.load_state_dict(weights)


def save(folder: Path, iteration: int, net: nn.Module, about: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write the snapshot of an iteration; the path of its weights comes back.

    The solverstate comes last: where it stands, the snapshot is whole.
    """
    path = folder / f"net_iter_{iteration}.safetensors"
    save_net(path, net, about | {"iteration": iteration})
    with whole_file(path.with_suffix(".solverstate")) as temporary:
        torch.save(state, temporary)
    return path


def load_state(path: str | Path) -> dict[str, Any]:
    """What `save` was given as `state`. Raises UserError where the file is missing, cut off or not of our making."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no solverstate of ours, or it breaks off: restore another snapshot.")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is damaged or holds more than numbers ({reason}): restore another snapshot.") from None
    if not isinstance(state, dict) or not state.keys() >= {"iteration", "optimizer", "random", "pretrained", "losses"}:
        raise UserError(f"{path} is not a solverstate that training.py wrote.")
    return state


def weights_of(solverstate: str | Path) -> Path:
    """The weights that belong to a solverstate; either of the two files may be named."""
    return Path(solverstate).with_suffix(".safetensors")


def found(folder: Path) -> list[Path]:
    """The weights of all whole snapshots in a folder, oldest first."""
    files = [p for p in folder.glob("net_iter_*.safetensors") if _NAME.fullmatch(p.name)]
    whole = [p for p in files if p.with_suffix(".solverstate").exists()]
    return sorted(whole, key=lambda p: int(_NAME.fullmatch(p.name)[1]))


def newest(folder: Path) -> Path:
    """The weights of the newest whole snapshot in a folder. Raises UserError where there is none."""
    snapshots = found(folder)
    if not snapshots:
        raise UserError(f"{folder} has no snapshot (net_iter_N.safetensors): train first, or name a file.")
    return snapshots[-1]


def remove(folder: Path) -> None:
    """Remove the snapshots in a folder, whole or not; nothing else."""
    for path in [*folder.glob("net_iter_*.safetensors"), *folder.glob("net_iter_*.solverstate")]:
        path.unlink()
