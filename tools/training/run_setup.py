"""What a run learns from: databases that are what the config asks for; how their patches are drawn, changed and weighed."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import nets
from nets.net import check_windows
from tools.base.errors import UserError, listing
from tools.base.folders import read_details, require
from tools.compute import compilation, device
from tools.compute.distributed import Ranks
from tools.compute.sync_batch_norm import synchronise
from tools.data.augmentation import Augmentation, bands_of, record_weights
from tools.data.dataset import Dataset, tile_name
from tools.data.inputs import Input, make_inputs
from tools.data.loader import BatchOrder, Patches
from tools.data.statistics import by_modality, measure
from tools.labels.class_weights import class_weights
from tools.record import provenance
from tools.record.log import Log
from tools.record.recorder import PLOT, Recorder
from tools.settings import Settings
from tools.training.losses import Loss
from tools.training.pretrained import initialise
from tools.training.resume import check_same
from tools.training.selection import Selection
from tools.training.solver import Solver
from tools.training.trainer import NotFiniteError, Trainer
from tools.weights import snapshots
from tools.weights.snapshots import Snapshot


def check_database(settings: Settings, held_out: Sequence = ()) -> list[Input]:
    """The net's inputs, once the databases are what the config asks for; held_out: tiles in them that are not trained on.

    Where some are held out, they have no part in the normalisation either.
    """
    lmdb = settings.folder("lmdb")
    if not lmdb.exists():
        raise UserError(f"{lmdb} does not exist: make it with create_db.py.")
    details = read_details(lmdb)
    require(
        details | {"train_ids": sorted(details["splits"]["train"]["tiles"])}, lmdb, "create_db.py", dataset=settings.DATASET,
        patch_size=list(settings.patch_size), classes=list(settings.label_values), bgr=settings.BGR,
        train_ids=sorted(map(tile_name, [*settings.train_ids, *held_out])),  # else val tiles may be among the trained ones
    )  # fmt: skip
    missing = [m for m in settings.modalities if m not in details["modalities"]]
    if missing:
        raise UserError(f"{lmdb} has no {', '.join(missing)}: make it again, with extract_images.py and create_db.py.")
    about = details["modalities"]
    if held_out and not details.get("grid"):  # the cells of a grid are measured one by one, and not from file to file
        about = about | own_statistics(settings, about)
    return make_inputs(settings.parts, about, settings.MEAN_PIXEL, settings.normalisation, settings.BGR)


def own_statistics(settings: Settings, about: Mapping[str, dict]) -> dict[str, dict]:
    """What details.json says of the modalities that statistics normalise, with those of the config's training tiles alone."""
    given = {m for m, values in settings.MEAN_PIXEL.items() if values and settings.normalisation.get(m) == "mean"}
    measured = [m for m in settings.modalities if m not in given and settings.normalisation[m] != "imagenet"]
    dataset = Dataset(settings.DATASET_DIR, settings.folders)
    files = [(m, dataset.path(m, tile)) for m in measured for tile in settings.train_ids]
    shown, memory = tqdm(files, "measuring", leave=False, unit="tile", delay=1), settings.TILE_MEMORY_MB * 1_000_000
    moments = by_modality((modality, measure(path, memory)) for modality, path in shown)
    return {m: about[m] | {"fill": about[m]["mean"]} | moments[m].to_dict() for m in measured}


def about_net(settings: Settings, inputs: list[Input]) -> dict:
    """What the weights file of a net that learns from the databases says of itself."""
    size = read_details(settings.folder("lmdb")).get("pixel_size")
    return {"name": settings.NET, **settings.about(), "pixel_size": size, "inputs": [i.to_dict() for i in inputs]}


def check_batch(settings: Settings, patches: Patches) -> None:
    """Raise UserError where an iteration would see a patch twice."""
    if settings.patches_per_iteration > len(patches):
        raise UserError(
            f"BATCH_SIZE = {settings.BATCH_SIZE} x ITER_SIZE = {settings.ITER_SIZE} is more than the {len(patches)} patches in"
            f" {settings.folder('lmdb')}: lower them, or extract more patches with a smaller step_size."
        )


def make_loss(settings: Settings, patches: Patches) -> Loss:
    """The config's loss, with class weights from the labels that are to be learned."""
    records = tqdm(patches.all_labels(), "counting labels", len(patches), leave=False, unit="patch", delay=1)
    return Loss(settings.LOSS, class_weights(settings.CLASS_WEIGHTS, records, len(settings.label_values), settings.ignored))


def drawn_how(settings: Settings, patches: Patches, trainer: Trainer, niter: int) -> tuple[BatchOrder, Augmentation | None]:
    """The order of the patches from the trainer's iteration to the last, and what is done to them; None for nothing."""
    recipe, weights, ranks = settings.recipe, None, trainer.ranks
    if "rare" in recipe:
        records = tqdm(patches.all_labels(), "weighing patches", len(patches), leave=False, unit="patch", delay=1)
        weights = record_weights(records, len(settings.label_values), settings.ignored, **recipe["rare"])
    order = BatchOrder(
        len(patches), settings.patches_per_iteration, settings.SEED, trainer.iteration, niter, weights, settings.ITER_SIZE,
        ranks.rank, ranks.count,
    )  # fmt: skip
    if not recipe:
        return order, None
    bands = bands_of(read_details(settings.folder("lmdb"))["modalities"], patches.inputs)
    return order, Augmentation(recipe, bands, settings.colours.no_label, settings.SEED)


@contextlib.contextmanager
def told_which_patches(patches: Patches, order: BatchOrder) -> Iterator[None]:
    """Within this block the patches of a batch are named that made loss, gradients or weights infinite or no numbers."""
    try:
        yield
    except NotFiniteError as error:
        batch = listing(patches.names[i] for i in order.records(error.iteration - 1))
        raise UserError(f"{error} Its patches: {batch}.") from None


def check_compilable(settings: Settings, ranks: Ranks) -> None:
    """Raise UserError where batch norm does what compiled code cannot."""
    if settings.SOLVER["name"] == "caffe":
        raise UserError("--compile and SOLVER 'caffe' do not go together, as its batch norm changes each time: take 'sgd'.")
    if settings.SYNC_BATCH_NORM and ranks.count > 1:
        raise UserError(
            "--compile and SYNC_BATCH_NORM do not go together, as compiled code would stop at each batch norm for the other"
            " processes: leave one of them out."
        )


def fresh(
    settings: Settings, inputs: list[Input], where: device.Device, loss: Loss, init: str | None, ranks: Ranks, compiled: bool
) -> Trainer:
    """A net at iteration 0, perhaps with weights from elsewhere."""
    torch.manual_seed(settings.SEED)
    net = build(settings, inputs)
    source = init or settings.INIT_MODEL
    report = initialise(net, source, inputs) if source else None
    print(report or "all layers begin with random weights")
    ranks.own_random_numbers(settings.SEED)
    return make_trainer(settings, net, inputs, where, loss, report.loaded if report else [], ranks, compiled)


def restored(
    settings: Settings, inputs: list[Input], where: device.Device, loss: Loss, before: Snapshot, ranks: Ranks, compiled: bool
) -> Trainer:
    """The run as it stood at a snapshot."""
    check_same(before, build(settings, inputs), inputs, settings.NET)
    ranks.own_random_numbers(settings.SEED)  # for processes that there were not before
    trainer = make_trainer(settings, before.net, inputs, where, loss, before.state["pretrained"], ranks, compiled)
    trainer.restore(before.state)
    return trainer


def check_iterations(niter: int, trainer: Trainer) -> None:
    """Raise UserError where there is nothing left to do, or where the learning rate would end before."""
    if niter <= trainer.iteration:
        raise UserError(f"--niter {niter}: {trainer.iteration} iterations are done already; give a larger number.")
    trainer.solver.schedule.check(niter)


def build(settings: Settings, inputs: list[Input]) -> nn.Module:
    """The config's net, for these inputs and its classes."""
    return nets.build(settings.NET, {i.name: i.channels for i in inputs}, len(settings.label_values), **settings.NET_OPTIONS)


def make_trainer(
    settings: Settings, net: nn.Module, inputs: list[Input], where: device.Device, loss: Loss, pretrained: list[str],
    ranks: Ranks, compiled: bool,
) -> Trainer:  # fmt: skip
    """The net on its device, with the config's solver."""
    check_windows(net, *settings.sample_size)
    net = where.place(net)
    if settings.SYNC_BATCH_NORM and ranks.count > 1:
        synchronise(net)
    solver = Solver(
        net, settings.BASE_LR, settings.LR_POLICY, settings.SOLVER, pretrained, settings.MULTIPLIERS,
        settings.GRADIENT_CLIP, settings.FREEZE_ITERATIONS,
    )  # fmt: skip
    if solver.schedule.waits_for_scores and not settings.val_ids:
        raise UserError("LR_POLICY 'plateau' goes by the scores on the validation tiles, but val_ids is empty: name some.")
    forward = ranks.parallel(net, compilation.compiled(net, where.device) if compiled else net, where.device)
    return Trainer(net, solver, inputs, settings.ignored, where, loss, settings.ITER_SIZE, settings.EMA_DECAY, ranks, forward)


def make_selection(settings: Settings, before: Snapshot | None, log: Log) -> Selection:
    """The best validations so far, of those whose weights are still there."""
    selection = Selection(len(settings.label_values), settings.PATIENCE)
    if before and "selection" in before.state:
        selection.load_state_dict(before.state["selection"])
        gone = [name for name in selection.best if not snapshots.best_of(before.path.parent, name).exists()]
        if gone:
            log.warn(f"no net_best_* lies beside the snapshot for {listing(gone)}: the best so far by that is forgotten.")
        selection.forget(gone)
    return selection


def make_recorder(
    settings: Settings, folder: Path, args: argparse.Namespace, log: Log, trainer: Trainer, before: Snapshot | None
) -> Recorder:
    """Where the run is written down, with what it is made of."""
    about = provenance.about(settings, trainer.net, trainer.device, args.niter)
    title = f"{settings.NET} on {settings.DATASET}"
    came_from = before and before.path.parent
    plot = args.plot or folder / PLOT
    return Recorder(folder, plot, log, about, title, trainer.iteration, came_from, trainer.ranks.writer)
