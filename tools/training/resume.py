"""Where a run begins: anew, in a folder that is cleared, or at a snapshot that it goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import nets
from tools.base.errors import UserError, listing
from tools.data.inputs import Input
from tools.record import provenance, recorder
from tools.record.log import Log
from tools.weights import snapshots
from tools.weights.caffe import refuse_solverstate
from tools.weights.snapshots import Snapshot


def to_restore(restore: Path | None, init: str | None, folder: Path, overwrite: bool, log: Log) -> Snapshot | None:
    """The snapshot that a run is to go on from, if it is; folder: where its own go.

    restore, init, overwrite: what the command line says. Raises UserError where they contradict each other or what is there.
    """
    if not restore:
        refuse_held(folder, overwrite)
        return None
    if init:
        raise UserError("--init and --restore do not go together: a restored run has its weights already.")
    elsewhere = not same_folder(restore if restore.is_dir() else restore.parent, folder)
    if elsewhere and (snapshots.found(folder) or snapshots.bests(folder)) and not overwrite:
        raise UserError(f"{folder} holds another run than {restore} is of: choose another --snapshot, or add --overwrite.")
    if restore == folder or restore.is_dir():
        return snapshots.load_newest(restore, log.warn)
    refuse_solverstate(restore)
    return snapshots.load(restore)


def refuse_held(folder: Path, overwrite: bool) -> None:
    """Raise UserError where a folder holds a run that may not be replaced."""
    if (snapshots.found(folder) or snapshots.bests(folder)) and not overwrite:
        held = "snapshots: go on with --restore" if snapshots.found(folder) else "best weights (net_best_*): move them"
        raise UserError(f"{folder} holds {held}, choose another --snapshot, or add --overwrite.")


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder."""
    return one.resolve() == other.resolve()


def check_same(before: Snapshot, net: nn.Module, inputs: list[Input], name: str) -> None:
    """Raise UserError where a snapshot is not of the net, called `name`, and the inputs that the config asks for."""
    if nets.describe(before.net) != nets.describe(net) or [Input.from_dict(i) for i in before.about["inputs"]] != inputs:
        raise UserError(
            f"{before.path} is of the net {before.about['name']} with the inputs"
            f" {', '.join(i['name'] for i in before.about['inputs'])}, which is not what the config builds ({name}):"
            " restore with the config that it was trained with."
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
    """Remove what an earlier run left; called when nothing else in the config can be wrong."""
    if overwrite:
        snapshots.remove(folder)
        recorder.remove(folder)
    snapshots.remove_halves(folder)
