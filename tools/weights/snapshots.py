"""Snapshots: `net_iter_N.safetensors` (weights and all that rebuilds the net) and `net_iter_N.solverstate` (all that goes on).

Beside them lie the weights of the best validations, `net_best_loss.safetensors` and its like, of the same form. No file can
run code: safetensors holds numbers alone, the solverstate is read with PyTorch's `weights_only`.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import nets
from tools.base.errors import UserError, listing
from tools.base.folders import whole_file
from tools.base.forms import fault, parse
from tools.weights.about import check_about

T = TypeVar("T")
_STATE = {"iteration": int, "optimizer": {"state": dict}, "random": Tensor, "pretrained": [str], "losses": Tensor}
ASIDE = ".before"  # in the folder of a run that replaces another: the other one, until the first snapshot
_NAME = re.compile(r"net_iter_(\d+)\.safetensors")


def save_net(path: str | Path, net: nn.Module, about: dict[str, Any]) -> None:
    """Write weights and, as metadata, how to build the net and what it is for.

    about: JSON values: name, inputs, classes, palette, ignored, ... as the scripts use them.
    """
    with whole_file(path) as temporary:
        write_net(temporary, net, about)


def write_net(path: Path, net: nn.Module, about: dict[str, Any]) -> None:
    """The same as it comes, for a file that gets its name later."""
    weights = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    path.touch()
    mode = path.stat().st_mode
    save_file(weights, path, {"net": nets.describe(net)} | {k: json.dumps(v) for k, v in about.items()})
    path.chmod(mode)  # as other files are: safetensors' own can be read by nobody else


def load_net(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The net in a snapshot, and what `save_net` was told about it. Raises UserError where the file is none of ours."""
    weights, metadata = read_weights(path)
    if "net" not in metadata:
        raise UserError(f"{path} has weights but not the net they are of: give a snapshot (net_iter_N.safetensors).")
    try:
        about = {k: parse(v) for k, v in metadata.items() if k not in ("format", "net")}
        check_about(about, needed=())
        net = nets.rebuild(metadata["net"])
        load_strictly(net, weights)
        return net, about
    except (UserError, ValueError) as error:
        raise UserError(f"{path} cannot be made into a net: {str(error).rstrip('.')}.") from None


def load_labeller(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The same, once all is there that is needed to label with it. Raises UserError if it is not."""
    net, about = load_net(path)
    try:
        check_about(about)
    except ValueError as error:
        raise UserError(f"{path} cannot be used to label: {error}.") from None
    return net, about


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file. Raises UserError where it is missing, cut off or something else."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: name a snapshot in it, such as {Path(path) / 'net_iter_1000.safetensors'}.")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        remedy = "weights of other kinds go through INIT_MODEL or --init"
        if Path(path).suffix == ".pt2":
            remedy = "a program of tools.export is for others, name the snapshot that it was made of"
        raise UserError(f"{path} is no whole safetensors file ({error}): {remedy}.") from None


def read_about(path: Path) -> dict[str, Any]:
    """What a weights file says of itself, without its tensors; {} where it cannot be read."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        return {name: json.loads(value) for name, value in metadata.items() if name not in ("net", "format")}
    except (SafetensorError, OSError, ValueError):
        return {}


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

    Both files are whole before either has its name. The solverstate gets its own last: where it stands, the snapshot is whole,
    and it never stands beside weights that it does not belong to. Raises DiskFullError where there is no room for both.
    """
    path = folder / f"net_iter_{iteration}.safetensors"
    solverstate = path.with_suffix(".solverstate")
    with whole_file(solverstate) as temporary:
        torch.save(state, temporary)
        with whole_file(path) as weights:
            write_net(weights, net, about | {"iteration": iteration})
            solverstate.unlink(missing_ok=True)  # that of a run which got here before
    return path


def save_best(folder: Path, criterion: str, iteration: int, net: nn.Module, about: dict[str, Any]) -> Path:
    """Write the weights of the best validation by a criterion (loss, iou, ...), in place of the best one before."""
    path = best_of(folder, criterion)
    save_net(path, net, about | {"iteration": iteration})
    return path


def best_of(folder: Path, criterion: str) -> Path:
    """Where the weights of the best validation by a criterion lie."""
    return folder / f"net_best_{criterion}.safetensors"


def bests(folder: Path) -> list[Path]:
    """The weights of the best validations in a folder."""
    return sorted(folder.glob("net_best_*.safetensors"))


def adopt_bests(source: Path, folder: Path) -> None:
    """Copy the best weights of a run to the folder in which it goes on; nothing where that is the same."""
    for path in bests(source) if source.resolve() != folder.resolve() else []:
        with whole_file(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def later(folder: Path, iteration: int) -> list[str]:
    """The names of weights in a folder that are of later iterations: of a run that went further before it was restored."""
    numbered = [path for path in found(folder) if iteration_of(path) > iteration]
    return [p.name for p in [*numbered, *(b for b in bests(folder) if _iteration_inside(b) > iteration)]]


def _iteration_inside(path: Path) -> int:
    """The iteration that weights say they are of; 0 where they are broken."""
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {}).get("iteration", 0))
    except (SafetensorError, OSError, ValueError):
        return 0


def load_state(path: str | Path) -> dict[str, Any]:
    """What `save` was given as `state`. Raises UserError where the file is missing, cut off or not of our making."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no solverstate of ours, or it breaks off: restore another snapshot.")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever the damage makes PyTorch stumble over
        raise UserError(f"{path} is damaged or holds more than numbers ({reason(error)}): restore another snapshot.") from None
    if wrong := fault(state, _STATE):
        raise UserError(f"{path} is not a solverstate that training.py wrote ({wrong}): restore another snapshot.")
    return state


def reason(error: Exception) -> str:
    """What PyTorch says of a file that it cannot read, in a few words, without its advice to read files that run code."""
    text = str(error).split("weights_only")[0].strip()
    if len(text) < len(str(error).strip()):
        return "it holds other things than numbers, which could run code"
    return (text or type(error).__name__).splitlines()[0][:200].rstrip(".")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read: the path of its solverstate, the net, what it is for (`load_net`), its state (`load_state`)."""

    path: Path
    net: nn.Module
    about: dict[str, Any]
    state: dict[str, Any]


def load(path: Path) -> Snapshot:
    """A snapshot, by one of its two files. Raises UserError where one of them is missing or broken."""
    solverstate = path.with_suffix(".solverstate")
    state = load_state(solverstate)
    return Snapshot(solverstate, *load_net(path.with_suffix(".safetensors")), state)


def load_newest(folder: Path, warn: Callable[[str], None], use: Callable[[Snapshot], T]) -> tuple[Snapshot, T]:
    """The newest snapshot in a folder that can be read and used, and what `use` made of it; `warn` is told of each newer one.

    Raises UserError if there is none: what was wrong with the newest one if all could be read.
    """
    newest(folder)  # says so if there is none at all
    broken, unfit = [], []
    for path in reversed(found(folder)):
        try:
            snapshot = load(path)
        except UserError as error:
            broken.append((path, error))
            continue
        try:
            used = use(snapshot)
        except UserError as error:
            unfit.append((path, error))
            continue
        _warn_of(sorted(broken + unfit, reverse=True), warn)
        return snapshot, used
    _warn_of(broken, warn)
    if unfit:
        raise unfit[0][1]
    raise UserError(f"none of the snapshots in {folder} can be read: restore another one, or begin anew with --overwrite.")


def _warn_of(faults: Iterable[tuple[Path, UserError]], warn: Callable[[str], None]) -> None:
    for path, error in faults:
        warn(f"the snapshot of iteration {iteration_of(path)} is broken, the one before it is taken: {error}")


def found(folder: Path) -> list[Path]:
    """The weights of all whole snapshots in a folder, oldest first."""
    files = [p for p in folder.glob("net_iter_*.safetensors") if _NAME.fullmatch(p.name)]
    whole = [p for p in files if p.with_suffix(".solverstate").exists()]
    return sorted(whole, key=iteration_of)


def iteration_of(path: Path) -> int:
    """The iteration that is written in the name of a snapshot's weights."""
    return int(_NAME.fullmatch(path.name)[1])


def newest(folder: Path) -> Path:
    """The weights of the newest whole snapshot in a folder. Raises UserError where there is none."""
    snapshots = found(folder)
    if not snapshots:
        raise UserError(f"{folder} has no snapshot (net_iter_N.safetensors){_halves(folder)}.")
    return snapshots[-1]


def _halves(folder: Path) -> str:
    """What there is instead of a snapshot, and what can be done with it."""
    if weights := [path.name for path in files(folder) if path.suffix == ".safetensors"]:
        return (
            f" with its solverstate: to label, name weights with --weights ({listing(weights, 3)} lies there); to train on from"
            " them, begin a new run with --init and another --snapshot"
        )
    if (folder / ASIDE).is_dir():
        return f": a run that replaces another has none yet; that of the other one is in {folder / ASIDE} until then"
    return ": train first, or name a file"


def check_end(folder: Path, iteration: int) -> None:
    """Raise UserError where the snapshot of a run's last iteration found no room."""
    whole = found(folder)
    if iteration not in map(iteration_of, whole):
        last = f"the newest is of iteration {iteration_of(whole[-1])}" if whole else "there is none at all"
        raise UserError(
            f"the disk is full at {folder}: iteration {iteration}, the last one, is in no snapshot ({last}); free some"
            " space and go on with --restore."
        )


def prune(folder: Path, keep: int, iteration: int) -> None:
    """Remove all but the newest `keep` snapshots up to the one of an iteration.

    Later ones are of a run that went further before it was restored, and stay. The solverstate goes first: weights alone are
    no snapshot.
    """
    until_now = [path for path in found(folder) if iteration_of(path) <= iteration]
    for path in until_now[:-keep]:
        path.with_suffix(".solverstate").unlink()
        path.with_suffix(".caffemodel").unlink(missing_ok=True)
        path.unlink()


def files(folder: Path) -> list[Path]:
    """The snapshots in a folder, whole or not, and the best weights."""
    numbered = [p for kind in ("safetensors", "solverstate", "caffemodel") for p in folder.glob(f"net_iter_*.{kind}")]
    return sorted([*numbered, *bests(folder)])


def remove(folder: Path) -> None:
    """Remove the snapshots in a folder, whole or not, and the best weights; nothing else."""
    for path in files(folder):
        path.unlink()


def remove_halves(folder: Path) -> None:
    """Remove what a run that was killed while it wrote has left under temporary names."""
    for path in folder.glob(".net_*.partial.*"):
        path.unlink()
