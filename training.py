"""Trains the config's net on the LMDBs: snapshots, the best weights by the validation tiles, and records of how it went.

    python training.py --niter 40000
    python training.py --niter 40000 --init weights/vgg16_features.safetensors
    python training.py --niter 80000 --restore
    python training.py --niter 80000 --restore data/vaihingen_snapshots_segnet/net_iter_40000.solverstate
    python training.py --niter 40000 --folds 5
    torchrun --nproc-per-node 2 training.py --niter 40000

Ctrl-C or SIGTERM write a snapshot and stop, SIGHUP writes one and goes on; --restore continues as if never stopped. Records
are metrics.json, training.log, loss.png, net.png, and tensorboard/ for `tensorboard --logdir`.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import nets
from nets.net import check_size
from tools import commands, compilation, device, distributed, folds, pictures, records, snapshots, validation
from tools import recorder as recorder_tools
from tools.augmentation import Augmentation, bands_of, record_weights
from tools.caffe import refuse_solverstate
from tools.class_weights import class_weights
from tools.dataset import Dataset, tile_name
from tools.distributed import Ranks
from tools.errors import UserError, listing, run
from tools.folders import read_details, require, write_json
from tools.inputs import Input, make_inputs
from tools.loader import BatchOrder, Patches, batches, workers_for
from tools.log import Log
from tools.losses import Loss
from tools.palette import Palette
from tools.pretrained import initialise
from tools.progress import Progress
from tools.recorder import Recorder
from tools.records import Records
from tools.selection import Selection
from tools.settings import Settings, read_settings
from tools.signals import Signals
from tools.snapshots import Snapshot
from tools.solver import Solver
from tools.sync_norm import synchronise
from tools.tiles import Labeller
from tools.trainer import NotFiniteError, Trainer
from tools.validation import Truth
from tools.windows import step_in_pixels

NEWEST = Path("the newest snapshot")  # --restore without a name


def main():
    args = arguments()
    settings = read_settings(args.config)
    if args.deterministic:
        device.be_deterministic()
    ranks = distributed.from_environment()
    ranks.divide(settings.BATCH_SIZE)
    where = device.choose(ranks.device(args.device), args.precision)
    with distributed.joined(ranks, where.device), device.told_if_not_deterministic(), compilation.told_if_it_fails():
        if args.folds:
            cross_validate(settings, args, where, ranks)
        else:
            train(settings, args, where, ranks)


def cross_validate(settings: Settings, args: argparse.Namespace, where: device.Device, ranks: Ranks) -> None:
    """Train once for each fold of the training tiles, scored on those that it holds out, and say what all folds found."""
    check_folds(args)
    home = args.snapshot or settings.snapshots.with_name(settings.snapshots.name + "_folds")
    found = []
    for number, held_out in enumerate(folds.divide(settings.train_ids, args.folds, settings.SEED), 1):
        kept = [tile for tile in settings.train_ids if tile not in held_out]
        own = replace(settings, train_ids=kept, val_ids=held_out)
        print(f"\nfold {number} of {args.folds} holds out {listing(map(tile_name, held_out))}")
        scores = train_fold(own, args, where, ranks, home / f"fold_{number}")
        if scores is None:
            print(f"stopped in fold {number}; go on with --folds {args.folds} --restore")
            return
        found.append(scores)
    summary = folds.summary(found)
    if ranks.writer:
        write_json(home / folds.SUMMARY, summary)
    print(f"\n{args.folds} folds, each scored on the tiles that it held out:\n{folds.as_text(summary)}\n{home / folds.SUMMARY}")


def check_folds(args: argparse.Namespace) -> None:
    """Raise UserError for options that mean one run."""
    if args.plot or args.graph:
        raise UserError("--plot and --graph name one file, but --folds trains several nets: leave them out.")
    if args.restore not in (None, NEWEST):
        raise UserError(f"--restore {args.restore}: with --folds, --restore alone goes on where the folds stopped.")


def train_fold(settings: Settings, args: argparse.Namespace, where: device.Device, ranks: Ranks, folder: Path) -> dict | None:
    """The scores of a fold on its val_ids, which it holds out, or None where it was told to stop."""
    made_with = records.made_with(settings, fingerprint(settings))
    if args.restore and (scores := folds.result_of(folder, args.niter, made_with)):
        print(f"{folder} is done already")
        return scores
    restore = NEWEST if args.restore and snapshots.found(folder) else None
    own = argparse.Namespace(**vars(args) | {"snapshot": folder, "restore": restore})
    history, stopped = train(settings, own, where, ranks, settings.val_ids)
    return None if stopped else history.validation[-1]


def train(
    settings: Settings, args: argparse.Namespace, where: device.Device, ranks: Ranks, held_out: Sequence = ()
) -> tuple[Records, bool]:
    """Train as the config and the command line (what `arguments` gives) say.

    held_out: tiles in the database that this run shall not see. What is on record of the run comes back, and whether a signal
    stopped it.
    """
    folder = args.snapshot or settings.snapshots
    inputs = check_database(settings, held_out)
    patches = Patches(settings.folder("lmdb"), "train", inputs, set(map(tile_name, held_out)))
    check_batch(settings, patches)
    loss = make_loss(settings, patches)
    log = Log(folder / recorder_tools.LOG if ranks.writer else None)
    before = to_restore(args, folder, log)
    begin = restored if before else fresh
    trainer = begin(settings, inputs, where, loss, before or args.init, ranks, args.compile)
    check_validation(settings, trainer.net)
    check_iterations(args.niter, trainer)
    if ranks.writer:
        go_on(settings, folder, before, log) if before else clear(folder, args.overwrite)
        pictures.net_graph(args.graph or folder / "net.png", trainer.net, settings.NET)
    selection = make_selection(settings, before)
    recorder = make_recorder(settings, folder, args, log, trainer, before)
    log.say(f"{settings.NET} on {where}: {len(patches):,} patches, iterations {trainer.iteration} to {args.niter}")
    order, augmentation = drawn_how(settings, patches, trainer, args.niter)
    workers = workers_for(where.device, augmentation) if settings.WORKERS is None else settings.WORKERS
    feed = batches(patches, order, workers, where.device.type == "cuda", augmentation)
    progress = Progress(trainer, args.niter, batch_size(settings), args.update)
    with log, contextlib.closing(patches), told_which_patches(patches, order), Signals() as signals, progress:
        for images, labels in feed:
            trainer.step(images, labels)
            ranks.agree(signals)
            if seen := progress.show():
                recorder.add(seen)
            with progress.paused():
                if validated := validation_is_due(settings, trainer, args.niter):
                    validate(settings, trainer, selection, recorder)
                    signals.stop |= is_enough(selection, log)
                if snapshot_is_due(settings, trainer, args.niter, signals):
                    snapshot(settings, trainer, selection, recorder)
                elif validated:
                    recorder.write(trainer.losses, selection)
            if signals.stop:
                break
    if ranks.writer:
        check_end(folder, trainer)
        log.say(f"newest snapshot: {snapshots.newest(folder)}")
    return recorder.records, signals.stop and not selection.exhausted


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("--niter", type=commands.whole_number(1), required=True, metavar="N", help="iterations in all")
    parser.add_argument(
        "--update",
        type=commands.whole_number(1),
        default=10,
        metavar="K",
        help="iterations between looks at the loss (default: 10)",
    )
    parser.add_argument("--init", metavar="WEIGHTS", help="initial weights, instead of the config's INIT_MODEL")
    parser.add_argument(
        "--restore",
        nargs="?",
        type=Path,
        const=NEWEST,
        metavar="SNAPSHOT",
        help="go on from this snapshot, or from the newest one of this folder; alone: of the folder where snapshots go",
    )
    parser.add_argument(
        "--folds",
        type=commands.whole_number(2),
        metavar="K",
        help="train K nets, each without a K-th of the training tiles, and score each on those",
    )
    parser.add_argument("--snapshot", type=Path, metavar="FOLDER", help="where snapshots go")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="the loss plot (default: loss.png beside the snapshots)")
    parser.add_argument("--graph", type=Path, metavar="PNG", help="the picture of the net (default: net.png there)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: CUDA where there is one)")
    parser.add_argument(
        "--precision",
        choices=device.PRECISIONS,
        default="auto",
        help="of the arithmetic (default: bf16 where the device is made for it, else fp32; tf32 is for CUDA)",
    )
    parser.add_argument("--compile", action="store_true", help="have PyTorch compile the net, which takes a minute or more")
    parser.add_argument("--deterministic", action="store_true", help="the same weights to the bit on CUDA, too; slower")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def check_database(settings: Settings, held_out: Sequence = ()) -> list[Input]:
    """The net's inputs, once the databases are what the config asks for; held_out: tiles in them that are not trained on."""
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
    return make_inputs(settings.parts, details["modalities"], settings.MEAN_PIXEL, settings.normalisation, settings.BGR)


def check_batch(settings: Settings, patches: Patches) -> None:
    """Raise UserError where an iteration would see a patch twice."""
    if batch_size(settings) > len(patches):
        raise UserError(
            f"BATCH_SIZE = {settings.BATCH_SIZE} x ITER_SIZE = {settings.ITER_SIZE} is more than the {len(patches)} patches in"
            f" {settings.folder('lmdb')}: lower them, or extract more patches with a smaller step_size."
        )


def to_restore(args: argparse.Namespace, folder: Path, log: Log) -> Snapshot | None:
    """The snapshot that the command line asks to go on from, if it does."""
    if not args.restore:
        if (snapshots.found(folder) or snapshots.bests(folder)) and not args.overwrite:
            held = "snapshots: go on with --restore" if snapshots.found(folder) else "best weights (net_best_*): move them"
            raise UserError(f"{folder} holds {held}, choose another --snapshot, or add --overwrite.")
        return None
    if args.init:
        raise UserError("--init and --restore do not go together: a restored run has its weights already.")
    path = folder if args.restore == NEWEST else args.restore
    if path == folder or path.is_dir():
        return snapshots.load_newest(path, log.warn)
    refuse_solverstate(path)
    return snapshots.load(path)


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
    same_inputs = before.about["inputs"] == [i.to_dict() for i in inputs]
    if nets.describe(before.net) != nets.describe(build(settings, inputs)) or not same_inputs:
        raise UserError(
            f"{before.path} is of the net {before.about['name']} with the inputs"
            f" {', '.join(i['name'] for i in before.about['inputs'])}, which is not what the config builds ({settings.NET}):"
            " restore with the config that it was trained with."
        )
    ranks.own_random_numbers(settings.SEED)  # for processes that there were not before
    trainer = make_trainer(settings, before.net, inputs, where, loss, before.state["pretrained"], ranks, compiled)
    trainer.restore(before.state)
    return trainer


def go_on(settings: Settings, folder: Path, before: Snapshot, log: Log) -> None:
    """Say what a restored run should know, and see to its folder."""
    iteration = before.state["iteration"]
    log.say(f"restored from {before.path}, iteration {iteration}")
    if odd := records.changed(before.state.get("made_with", {}), records.made_with(settings, fingerprint(settings))):
        log.warn(f"the snapshot was made with other settings, so that this will be another run: {'; '.join(odd)}.")
    snapshots.remove_halves(folder)
    snapshots.adopt_bests(before.path.parent, folder)
    if later := snapshots.later(folder, iteration):
        log.warn(f"{folder} holds later weights, which stay until this run replaces them: {listing(later)}.")


def clear(folder: Path, overwrite: bool) -> None:
    """Remove what an earlier run left; called when nothing else in the config can be wrong."""
    if overwrite:
        snapshots.remove(folder)
        recorder_tools.remove(folder)
    snapshots.remove_halves(folder)


def check_iterations(niter: int, trainer: Trainer) -> None:
    """Raise UserError where there is nothing left to do, or where the learning rate would end before."""
    if niter <= trainer.iteration:
        raise UserError(f"--niter {niter}: {trainer.iteration} iterations are done already; give a larger number.")
    trainer.solver.schedule.check(niter)


def check_validation(settings: Settings, net: nn.Module) -> None:
    """Raise UserError now, and not at the first snapshot, where the validation tiles cannot be labelled."""
    if settings.val_ids:
        check_size(*settings.test_patch_size, net.multiple)
        dataset = Dataset(settings.DATASET_DIR, settings.folders)
        dataset.check([*settings.modalities, "labels"], settings.val_ids, palette_of(settings))
    elif settings.PATIENCE:
        raise UserError(
            f"PATIENCE = {settings.PATIENCE} counts validations, but val_ids is empty: name some tiles, or set None."
        )


def build(settings: Settings, inputs: list[Input]) -> nn.Module:
    """The config's net, for these inputs and its classes."""
    return nets.build(settings.NET, {i.name: i.channels for i in inputs}, len(settings.label_values), **settings.NET_OPTIONS)


def make_trainer(
    settings: Settings, net: nn.Module, inputs: list[Input], where: device.Device, loss: Loss, pretrained: list[str],
    ranks: Ranks, compiled: bool,
) -> Trainer:  # fmt: skip
    """The net on its device, with the config's solver."""
    check_size(*settings.sample_size, net.multiple)
    net = where.place(net)
    if settings.SYNC_BATCH_NORM and ranks.count > 1:
        synchronise(net)
    solver = Solver(
        net, settings.BASE_LR, settings.LR_POLICY, settings.SOLVER, pretrained, settings.MULTIPLIERS,
        settings.GRADIENT_CLIP, settings.FREEZE_ITERATIONS,
    )  # fmt: skip
    if solver.schedule.waits_for_scores and not settings.val_ids:
        raise UserError("LR_POLICY 'plateau' goes by the scores on the validation tiles, but val_ids is empty: name some.")
    if compiled and solver.name == "caffe":
        raise UserError("--compile and SOLVER 'caffe' do not go together, as its batch norm changes each time: take 'sgd'.")
    forward = ranks.parallel(net, compilation.compiled(net, where.device) if compiled else net, where.device)
    return Trainer(net, solver, inputs, settings.ignored, where, loss, settings.ITER_SIZE, settings.EMA_DECAY, ranks, forward)


def make_loss(settings: Settings, patches: Patches) -> Loss:
    """The config's loss, with class weights from the labels that are to be learned."""
    records = tqdm(patches.all_labels(), "counting labels", len(patches), leave=False, unit="patch", delay=1)
    return Loss(settings.LOSS, class_weights(settings.CLASS_WEIGHTS, records, len(settings.label_values), settings.ignored))


def batch_size(settings: Settings) -> int:
    """Patches in an iteration."""
    return settings.BATCH_SIZE * settings.ITER_SIZE


def drawn_how(settings: Settings, patches: Patches, trainer: Trainer, niter: int) -> tuple[BatchOrder, Augmentation | None]:
    """The order of the patches from the trainer's iteration to the last, and what is done to them; None for nothing."""
    recipe, weights, ranks = settings.recipe, None, trainer.ranks
    if "rare" in recipe:
        records = tqdm(patches.all_labels(), "weighing patches", len(patches), leave=False, unit="patch", delay=1)
        weights = record_weights(records, len(settings.label_values), settings.ignored, **recipe["rare"])
    order = BatchOrder(
        len(patches), batch_size(settings), settings.SEED, trainer.iteration, niter, weights, settings.ITER_SIZE,
        ranks.rank, ranks.count,
    )  # fmt: skip
    if not recipe:
        return order, None
    bands = bands_of(read_details(settings.folder("lmdb"))["modalities"], patches.inputs)
    return order, Augmentation(recipe, bands, palette_of(settings).no_label, settings.SEED)


@contextlib.contextmanager
def told_which_patches(patches: Patches, order: BatchOrder) -> Iterator[None]:
    """Within this block the patches of a batch are named that made loss, gradients or weights infinite or no numbers."""
    try:
        yield
    except NotFiniteError as error:
        batch = listing(patches.names[i] for i in order.records(error.iteration - 1))
        raise UserError(f"{error} Its patches: {batch}.") from None


def make_selection(settings: Settings, before: Snapshot | None) -> Selection:
    """The best validations so far."""
    selection = Selection(len(settings.label_values), settings.PATIENCE)
    if before and "selection" in before.state:
        selection.load_state_dict(before.state["selection"])
    return selection


def make_recorder(
    settings: Settings, folder: Path, args: argparse.Namespace, log: Log, trainer: Trainer, before: Snapshot | None
) -> Recorder:
    """Where the run is written down, with what it is made of."""
    about = {
        "net": {"name": settings.NET, "learnable values": sum(p.numel() for p in trainer.net.parameters())},
        "device": str(trainer.device),
        "database": {"folder": str(settings.folder("lmdb")), "fingerprint": fingerprint(settings)},
        "versions": records.versions(),
        "git": records.git_state(),
        "iterations": args.niter,
        "settings": records.settings_of(settings),
    }
    title = f"{settings.NET} on {settings.DATASET}"
    came_from = before and before.path.parent
    plot = args.plot or folder / "loss.png"
    return Recorder(folder, plot, log, about, title, trainer.iteration, came_from, trainer.ranks.writer)


def fingerprint(settings: Settings) -> str | None:
    """A number that changes with any pixel and any label of the database; None where an older create_db.py made it."""
    return read_details(settings.folder("lmdb"))["splits"]["train"].get("fingerprint")


def validation_is_due(settings: Settings, trainer: Trainer, niter: int) -> bool:
    """At every VAL_EVERY iterations, and at the end."""
    return bool(settings.val_ids) and (on_beat(settings, trainer) or trainer.iteration == niter)


def on_beat(settings: Settings, trainer: Trainer) -> bool:
    """Whether a run of any length is validated at this iteration."""
    return trainer.iteration % (settings.VAL_EVERY or settings.SNAPSHOT_EVERY) == 0


def validate(settings: Settings, trainer: Trainer, selection: Selection, recorder: Recorder) -> None:
    """Score the validation tiles as inference would label them; keep the weights if they are the best so far."""
    trainer.fetch_losses()  # a net whose loss is no number is not worth a look
    ranks = trainer.ranks
    with trainer.averaged():
        ranks.adopt(trainer.net)
        of_net, tiles, palette = labeller(settings, trainer), val_tiles(settings), palette_of(settings)
        found = validation.validate(of_net, tiles, palette, settings.ignored, ranks)
        better = selection.report(trainer.iteration, found.loss, found.iou, on_beat(settings, trainer))
        recorder.add_validation(trainer.iteration, found, better)
        for criterion in better if ranks.writer else ():
            about = about_net(settings, trainer) | {"scores": found.scores}
            with recorder.log.training_goes_on(f"net_best_{criterion}.safetensors"):
                snapshots.save_best(recorder.folder, criterion, trainer.iteration, trainer.net, about)
    trainer.net.train()
    if on_beat(settings, trainer):  # else the rate would depend on how long the run was meant to be
        trainer.solver.report(found.iou or 0.0)


def labeller(settings: Settings, trainer: Trainer) -> Labeller:
    """The net as it is, ready to label tiles as inference.py would."""
    size, where = tuple(settings.test_patch_size), trainer.device
    step, net = step_in_pixels(settings.test_step_size, size), where.place(trainer.net.fuse())
    batch, threshold, blend = settings.TEST_BATCH_SIZE, settings.THRESHOLD, settings.BLEND
    return Labeller(net, trainer.inputs, size, step, batch, where, threshold, blend, settings.MEMORY_MB)


def val_tiles(settings: Settings) -> list[Truth]:
    """The files of the validation tiles."""
    dataset = Dataset(settings.DATASET_DIR, settings.folders)
    paths = [{m: dataset.path(m, tile) for m in settings.modalities} for tile in settings.val_ids]
    return [Truth(p, dataset.path("labels", tile)) for p, tile in zip(paths, settings.val_ids, strict=True)]


def palette_of(settings: Settings) -> Palette:
    """The config's classes and colours."""
    return Palette(settings.label_values, settings.palette)


def is_enough(selection: Selection, log: Log) -> bool:
    """Whether PATIENCE is at its end, which is then said."""
    if selection.exhausted:
        best = ", ".join(f"{name} at iteration {iteration}" for name, (iteration, _) in selection.best.items())
        log.say(f"stopped early: {selection.waited} validations without a better one (best {best or 'none'}); PATIENCE")
    return selection.exhausted


def snapshot_is_due(settings: Settings, trainer: Trainer, niter: int, signals: Signals) -> bool:
    """At every SNAPSHOT_EVERY iterations, at the end, and when a signal asks for it."""
    asked, signals.snapshot = signals.snapshot or signals.stop, False
    return asked or trainer.iteration % settings.SNAPSHOT_EVERY == 0 or trainer.iteration == niter


def snapshot(settings: Settings, trainer: Trainer, selection: Selection, recorder: Recorder) -> None:
    """Bring the records up to date, write the snapshot, remove the oldest if KEEP_SNAPSHOTS says so."""
    made_with = records.made_with(settings, fingerprint(settings))
    state = trainer.state() | {"selection": selection.state_dict(), "made_with": made_with}
    if not trainer.ranks.writer:
        return
    recorder.write(trainer.losses, selection)  # first: a run that is restored from here finds its history
    with recorder.log.training_goes_on(f"the snapshot of iteration {trainer.iteration}"):
        with trainer.averaged():
            path = snapshots.save(recorder.folder, trainer.iteration, trainer.net, about_net(settings, trainer), state)
        recorder.log.note(f"snapshot: {path}")
        if settings.KEEP_SNAPSHOTS:
            snapshots.prune(recorder.folder, settings.KEEP_SNAPSHOTS, trainer.iteration)


def about_net(settings: Settings, trainer: Trainer) -> dict:
    """What a weights file says of itself."""
    size = read_details(settings.folder("lmdb")).get("pixel_size")
    return {"name": settings.NET, **settings.about(), "pixel_size": size, "inputs": [i.to_dict() for i in trainer.inputs]}


def check_end(folder: Path, trainer: Trainer) -> None:
    """Raise UserError where the last snapshot found no room."""
    found = snapshots.found(folder)
    if trainer.iteration not in map(snapshots.iteration_of, found):
        last = f"the newest is of iteration {snapshots.iteration_of(found[-1])}" if found else "there is none at all"
        raise UserError(
            f"the disk is full at {folder}: iteration {trainer.iteration}, the last one, is in no snapshot ({last}); free some"
            " space and go on with --restore."
        )


if __name__ == "__main__":
    run(main)
