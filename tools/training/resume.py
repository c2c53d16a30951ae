"""Where a run begins: anew, in a folder that is cleared, or at a snapshot that it goes on from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

import nets
from tools.base.errors import UserError, listing
from tools.data.inputs import Input
from tools.record import earlier, provenance
from tools.record.log import Log
from tools.weights import snapshots
from tools.weights.about import check_about
from tools.weights.caffe import refuse_solverstate
from tools.weights.snapshots import Snapshot

T = TypeVar("T")


def to_restore(
    restore: Path | None, init: str | None, folder: Path, overwrite: bool, log: Log, use: Callable[[Snapshot], T]
) -> tuple[Snapshot | None, T | None]:
    """The snapshot that a run is to go on from, if it is, and what `use` made of it; folder: where its own go.

    restore, init, overwrite: what the command line says. Raises UserError where they contradict each other or what is there.
    """
    if not restore:
        refuse_held(folder, overwrite)
        return None, None
    if init:
        raise UserError("--init and --restore do not go together: a restored run has its weights already.")
    if blocked := [path for path in snapshots.files(folder) if path.is_dir()]:
        raise UserError(f"{blocked[0]} is a folder where a snapshot belongs: remove it, or choose another --snapshot.")
    if restore != folder and not restore.exists():
        raise UserError(f"{restore} does not exist: name a snapshot or its folder, or leave out its name.")
    elsewhere = not same_folder(restore if restore.is_dir() else restore.parent, folder)
    if elsewhere and snapshots.files(folder) and not overwrite:
        raise UserError(f"{folder} holds another run than {restore} is of: choose another --snapshot, or add --overwrite.")
    if restore == folder or restore.is_dir():
        return snapshots.load_newest(restore, log.warn, use)
    refuse_solverstate(restore)
    before = snapshots.load(restore)
    return before, use(before)


def refuse_held(folder: Path, overwrite: bool) -> None:
    """Raise UserError where a folder holds a run that may not be replaced."""
    held = snapshots.files(folder)
    if not held or overwrite:
        return
    if snapshots.found(folder):
        what = "snapshots: go on with --restore"
    elif held == snapshots.bests(folder):
        what = "best weights (net_best_*): move them"
    else:
        what = f"{listing(path.name for path in held)}, which is no whole snapshot: move it"
    raise UserError(f"{folder} holds {what}, choose another --snapshot, or add --overwrite.")


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder."""
    return one.resolve() == other.resolve()


def check_same(before: Snapshot, net: nn.Module, inputs: list[Input], name: str) -> None:
    """Raise UserError where a snapshot is not of the net, called `name`, and the inputs that the config asks for."""
    try:
        check_about(before.about, ["name", "inputs"])
    except ValueError as error:
        raise UserError(f"{before.path} belongs to damaged weights: {error}.") from None
    if nets.describe(before.net) != nets.describe(net) or [Input.from_dict(i) for i in before.about["inputs"]] != inputs:
        raise UserError(
            f"{before.path} is of the net {before.about['name']} with the inputs"
            f" {', '.join(i['name'] for i in before.about['inputs'])}, which is not what the config builds ({name}):"
            " restore with the config that it was trained with, and with its training tiles where they were."
        )


def go_on(made_with: Mapping[str, Any], folder: Path, before: Snapshot, log: Log) -> None:
    """Log what a restored run should know, and see to its folder; made_with: what provenance says of the run now."""
    iteration = before.state["iteration"]
    log.say(f"restored from {before.path}, iteration {iteration}")
    if odd := provenance.changed(before.state.get("made_with", {}), made_with):
        log.warn(f"the snapshot was made with other settings, so that this will be another run: {'; '.join(odd)}.")
    clear(folder, overwrite=not same_folder(before.path.parent, folder))
    snapshots.adopt_bests(before.path.parent, folder)
    if later := snapshots.later(folder, iteration):
        log.warn(f"{folder} holds later weights, which stay until this run replaces them: {listing(later)}.")


def clear(folder: Path, overwrite: bool) -> None:
    """Set an earlier run aside; called when nothing else in the config can be wrong."""
    if overwrite:
        earlier.set_aside(folder)
    snapshots.remove_halves(folder)
