"""What a run is made from: databases that are what the config asks for, a trainer, and how patches are drawn and changed."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nets.caffe.prototxt_write import caffe_layers
from nets.net import check_windows
from tools.base.errors import UserError, listing
from tools.base.folders import require
from tools.compute.compilation import compiled
from tools.compute.device import Device
from tools.compute.distributed import Ranks
from tools.compute.frozen_batch_norm import freeze_norms, frozen_norms, norms_with_statistics
from tools.compute.sync_batch_norm import synchronise
from tools.data import sources
from tools.data.augmentation import Augmentation, bands_of, record_weights
from tools.data.dataset import tile_name
from tools.data.inputs import Input
from tools.data.loader import BatchOrder, Patches, batches, workers_for
from tools.data.patches import read_about
from tools.data.settings import DataSettings, PatchSettings
from tools.data.statistics import by_modality, measure
from tools.labels.class_weights import class_weights, count_record
from tools.labels.settings import ClassSettings
from tools.record.log import Log
from tools.record.selection import Selection
from tools.solver.losses import Loss
from tools.solver.solver import CAFFES, Solver
from tools.training import cells
from tools.training.pretrained import begin_with
from tools.training.resume import check_same
from tools.training.settings import TrainingSettings
from tools.training.trainer import NotFiniteError, Trainer
from tools.weights import snapshots
from tools.weights.caffe import table_net
from tools.weights.settings import NetSettings
from tools.weights.snapshots import Snapshot


@dataclass(frozen=True)
class Setup:
    """What a trainer is made from.

    net, training, classes: sections of the config; seed: SEED. sample_size: height and width of what the net learns from.
    inputs: of the net. device, ranks: where it computes. compile: whether PyTorch compiles the net.
    """

    net: NetSettings
    training: TrainingSettings
    classes: ClassSettings
    seed: int
    sample_size: tuple[int, int]
    inputs: list[Input]
    device: Device
    ranks: Ranks
    compile: bool

    def build(self) -> nn.Module:
        """The config's net with fresh weights."""
        return self.net.build(self.inputs, len(self.classes.label_values))


# ---------------------------------------------------------------------------------------------------------- the databases


def check_database(data: DataSettings, patches: PatchSettings, classes: ClassSettings, held_out: Sequence = ()) -> list[Input]:
    """The net's inputs, once the databases are what the config asks for.

    held_out: tiles in the databases that are not trained on; they have no part in the normalisation either.
    """
    lmdb = data.folder("lmdb")
    if not lmdb.exists():
        raise UserError(f"{lmdb} does not exist: make it with create_db.py.")
    details = read_about(lmdb)
    require(
        details | {"train_ids": sorted(details["splits"]["train"]["tiles"])}, lmdb, "create_db.py", dataset=data.DATASET,
        patch_size=list(patches.patch_size), classes=list(classes.label_values), bgr=data.BGR,
        train_ids=sorted(map(tile_name, [*data.train_ids, *held_out])),  # else val tiles may be among the trained ones
    )  # fmt: skip
    sources.check(details.get("sources"), data, classes, lmdb)
    missing = [m for m in data.modalities if m not in details["modalities"]]
    if missing:
        raise UserError(f"{lmdb} has no {', '.join(missing)}: make it again, with extract_images.py and create_db.py.")
    about = details["modalities"]
    if held_out and not details.get("grid"):  # the cells of a grid are measured one by one, and not from file to file
        about = about | own_statistics(data, about, patches.tile_memory)
    return data.inputs(about)


def cells_in(lmdb: Path) -> dict[str, int]:
    """How many patches of a grid's cells each split of a database has; 0 if it was cut by windows."""
    details = read_about(lmdb)
    return {split: about["patches"] if details.get("grid") else 0 for split, about in details["splits"].items()}


def windows_of_cells(lmdb: Path) -> dict[str, list[int]]:
    """Where the cells of a grid lie in their tiles, by name; {} in databases of earlier versions."""
    return (read_about(lmdb).get("grid") or {}).get("windows", {})


def inputs_of_cells(data: DataSettings, patches: Patches) -> list[Input]:
    """The inputs, normalised by these patches of a grid's cells alone."""
    return data.inputs(cells.own_statistics(data, read_about(data.folder("lmdb"))["modalities"], patches))


def notes(data: DataSettings) -> list[str]:
    """What to warn of about the databases, and settings that have no effect."""
    lmdb = data.folder("lmdb")
    return [*data.unused, *sources.notes(read_about(lmdb).get("sources"), data, lmdb)]


def own_statistics(data: DataSettings, about: Mapping[str, dict], memory: int) -> dict[str, dict]:
    """What details.json says of the modalities that statistics normalise, with those of the config's training tiles alone.

    memory: bytes that a tile may take while it is measured.
    """
    given = {m for m, values in data.MEAN_PIXEL.items() if values and data.normalisation.get(m) == "mean"}
    measured = [m for m in data.modalities if m not in given and data.normalisation[m] != "imagenet"]
    files = [(m, data.dataset.seen(m, tile)) for m in measured for tile in data.train_ids]
    shown = tqdm(files, "measuring", leave=False, unit="tile", delay=1)
    moments = by_modality((modality, measure(path, memory, modality in data.dataset.any_band)) for modality, path in shown)
    return {m: about[m] | {"fill": about[m]["mean"]} | moments[m].to_dict() for m in measured}


def check_batch(training: TrainingSettings, patches: Patches, lmdb: Path) -> None:
    """Raise UserError if an iteration would see a patch twice; two crops of a patch are two samples."""
    if training.patches_per_iteration > len(patches) and "crop" not in training.AUGMENTATION:
        raise UserError(
            f"BATCH_SIZE = {training.BATCH_SIZE} x ITER_SIZE = {training.ITER_SIZE} is more than the {len(patches)} patches in"
            f" {lmdb}: lower them, or extract more patches with a smaller step_size."
        )


# -------------------------------------------------------------------------------------------------------------- the trainer


def check_compilable(training: TrainingSettings, ranks: Ranks) -> None:
    """Raise UserError if batch norm does what compiled code cannot."""
    if (name := training.SOLVER["name"]) in CAFFES:
        raise UserError(f"--compile and SOLVER '{name}' do not go together, as its batch norm changes each time: take 'sgd'.")
    if training.SYNC_BATCH_NORM and ranks.count > 1:
        raise UserError(
            "--compile and SYNC_BATCH_NORM do not go together, as compiled code would stop at each batch norm for the other"
            " processes: leave one of them out."
        )


def fresh(setup: Setup, loss: Loss, init: str | None) -> Trainer:
    """A net at iteration 0; init: the weights that it begins with, instead of INIT_MODEL."""
    torch.manual_seed(setup.seed)
    net = setup.build()
    report = begin_with(net, init, setup.net, setup.inputs)
    print(report or "all layers begin with random weights")
    if setup.training.FROZEN_NORM:
        freeze_norms(net, norms_with_statistics(net, report.loaded if report else []))
        if kept := frozen_norms(net):
            print(f"{len(kept)} batch norms keep the statistics that came with their weights")
        else:
            print("no batch norm came with statistics, so FROZEN_NORM does nothing")
    for note in getattr(net, "notes", ()):
        print(f"note: {setup.net.NET}: {note}")
    setup.ranks.own_random_numbers(setup.seed)
    return make_trainer(setup, net, loss, report.loaded if report else [])


def check_frozen_norm(trainer: Trainer, given: Mapping[str, Any]) -> None:
    """Raise UserError where no batch norm could be frozen, though the user asked for it; given: what they wrote of it."""
    if given.get("FROZEN_NORM") and not frozen_norms(trainer.net):
        raise UserError(
            "FROZEN_NORM = True, but no batch norm begins with statistics from elsewhere (INIT_MODEL, --init): set it to False."
        )


def restored(setup: Setup, loss: Loss, before: Snapshot) -> Trainer:
    """The run as it stood at a snapshot."""
    check_same(before, setup.build(), setup.inputs, setup.net.NET)
    if setup.training.FROZEN_NORM:
        freeze_norms(before.net, before.state.get("frozen_norms", []))
    setup.ranks.own_random_numbers(setup.seed)  # for ranks that there were not before
    trainer = make_trainer(setup, before.net, loss, before.state["pretrained"])
    trainer.restore(before.state)
    return trainer


def make_trainer(setup: Setup, net: nn.Module, loss: Loss, pretrained: list[str]) -> Trainer:
    """The net on its device, with the config's solver; pretrained: the layers whose weights come from elsewhere."""
    training, device, ranks = setup.training, setup.device, setup.ranks
    check_windows(net, *setup.sample_size)
    if "caffemodel" in training.SNAPSHOT_FORMATS:
        caffe_layers(table_net(net), None)  # refuses a net that Caffe's files cannot hold
    net = device.place(net)
    if training.SYNC_BATCH_NORM and ranks.count > 1:
        synchronise(net)
    solver = Solver(
        net, training.BASE_LR, training.LR_POLICY, training.SOLVER, pretrained, training.MULTIPLIERS,
        training.GRADIENT_CLIP, training.FREEZE_ITERATIONS, training.PRETRAINED_RATE,
    )  # fmt: skip
    forward = ranks.parallel(net, compiled(net, device.device) if setup.compile else net, device.device)
    ignored = setup.classes.ignored
    return Trainer(net, solver, setup.inputs, ignored, device, loss, training.ITER_SIZE, training.EMA_DECAY, ranks, forward)


def check_schedule(trainer: Trainer, niter: int | None, validated: bool) -> None:
    """Raise UserError if there is nothing left to do, the learning rate would end before, or lacks the scores it goes by."""
    if trainer.solver.schedule.waits_for_scores and not validated:
        raise UserError("LR_POLICY 'plateau' goes by the scores on the validation tiles, but val_ids is empty: name some.")
    if niter is None:
        return
    if niter <= trainer.iteration:
        raise UserError(f"--niter {niter}: {trainer.iteration} iterations are done already; give a larger number.")
    trainer.solver.schedule.check(niter)


def make_selection(classes: int, patience: int | None, before: Snapshot | None, log: Log) -> Selection:
    """The best validations so far, of those whose weights are still there."""
    selection = Selection(classes, patience)
    if before and "selection" in before.state:
        selection.load_state_dict(before.state["selection"])
        gone = [name for name in selection.best if not snapshots.best_of(before.path.parent, name).exists()]
        if gone:
            log.warn(f"no net_best_* lies beside the snapshot for {listing(gone)}: the best so far by that is forgotten.")
        selection.forget(gone)
    return selection


# -------------------------------------------------------------------------------------------------------------- the patches


def make_loss(training: TrainingSettings, classes: ClassSettings, patches: Patches) -> Loss:
    """The config's loss, with class weights from the labels that are to be learned."""
    weights = class_weights(training.CLASS_WEIGHTS, _counting(patches), len(classes.label_values), classes.ignored)
    return Loss(training.LOSS, weights)


def absent_classes(classes: ClassSettings, patches: Patches) -> list[str]:
    """The classes that count and of which no patch has a pixel. Reads as many patches as it takes to see all the others."""
    missing, labels = set(classes.scored), _counting(patches)
    while missing and (record := next(labels, None)) is not None:
        missing -= set(np.flatnonzero(count_record(record, len(classes.label_values), classes.ignored)).tolist())
    return [classes.label_values[label] for label in sorted(missing)]


def _counting(patches: Patches) -> Iterator[np.ndarray]:
    return iter(tqdm(patches.all_labels(), "counting labels", len(patches), leave=False, unit="patch", delay=1))


def feed(
    setup: Setup, augmentation: Mapping[str, Mapping], patches: Patches, iteration: int, niter: int | None
) -> tuple[BatchOrder, Iterable]:
    """The order of the patches from one iteration to the last, and the batches in this order.

    augmentation: the operations that change them, with all their numbers.
    """
    order = _order(setup, augmentation, patches, iteration, niter)
    change = None
    if augmentation:
        bands = bands_of(read_about(patches.folder)["modalities"], setup.inputs)
        change = Augmentation(augmentation, bands, setup.classes.colours.no_label, setup.seed)
    device, workers = setup.device.device, setup.training.WORKERS
    workers = workers_for(device, change) if workers is None else workers
    return order, batches(patches, order, workers, device.type == "cuda", change)


def _order(setup: Setup, augmentation: Mapping, patches: Patches, iteration: int, niter: int | None) -> BatchOrder:
    weights, training, ranks = None, setup.training, setup.ranks
    if "rare" in augmentation:
        records = tqdm(patches.all_labels(), "weighing patches", len(patches), leave=False, unit="patch", delay=1)
        classes = setup.classes
        weights = record_weights(records, len(classes.label_values), classes.ignored, **augmentation["rare"])
    return BatchOrder(
        len(patches), training.patches_per_iteration, setup.seed, iteration, niter, weights, training.ITER_SIZE,
        ranks.rank, ranks.count,
    )  # fmt: skip


def about_net(setup: Setup, about: Mapping[str, Any], lmdb: Path) -> dict[str, Any]:
    """What the weights file of the net says of itself; about: of the data. lmdb: the databases that it learned from."""
    details = read_about(lmdb)
    modalities = [m for i in setup.inputs for m in i.modalities]
    kept = ("mean", "deviation", "low", "high")
    statistics = {m: {name: details["modalities"][m][name] for name in kept} for m in modalities}
    return {
        "name": setup.net.NET, **about, "pixel_size": details.get("pixel_size"), "statistics": statistics,
        "inputs": [i.to_dict() for i in setup.inputs],
    }  # fmt: skip


@contextlib.contextmanager
def told_which_patches(patches: Patches, order: BatchOrder) -> Iterator[None]:
    """Within this block the patches of a batch are named that made loss, gradients or weights infinite or no numbers."""
    try:
        yield
    except NotFiniteError as error:
        batch = listing(patches.names[i] for i in order.records(error.iteration - 1))
        raise UserError(f"{error} Its patches: {batch}.") from None
