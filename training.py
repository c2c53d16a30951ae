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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tools.base import commands
from tools.base.errors import UserError, run
from tools.compute import compilation, device, distributed
from tools.compute.distributed import Ranks
from tools.compute.signals import Signals
from tools.data.dataset import tile_name
from tools.data.loader import Patches, batches, workers_for
from tools.inference.labeller import make_labeller, prepared
from tools.inference.tile_list import tiles_of
from tools.record import plots, provenance
from tools.record.history import Records
from tools.record.log import Log
from tools.record.recorder import GRAPH, LOG, Recorder
from tools.settings import Settings, read_settings
from tools.training import folds, validation
from tools.training.progress import Progress
from tools.training.resume import NEWEST, clear, go_on, refuse_held, to_restore
from tools.training.run_setup import (
    about_net,
    check_batch,
    check_compilable,
    check_database,
    check_iterations,
    drawn_how,
    fresh,
    make_loss,
    make_recorder,
    make_selection,
    restored,
    told_which_patches,
)
from tools.training.selection import Selection
from tools.training.trainer import Trainer
from tools.weights import snapshots


def main():
    args = arguments()
    settings = read_settings(args.config)
    if args.deterministic:
        device.be_deterministic()
    ranks = distributed.from_environment()
    ranks.divide(settings.BATCH_SIZE)
    if args.compile:
        check_compilable(settings, ranks)
    where = device.choose(ranks.device(args.device), args.precision)
    with distributed.joined(ranks, where.device), device.told_if_not_deterministic(), compilation.told_if_it_fails():
        if args.folds:
            cross_validate(settings, args, where, ranks)
        else:
            train(settings, args, where, ranks)


def cross_validate(settings: Settings, args: argparse.Namespace, where: device.Device, ranks: Ranks) -> None:
    """Train and score one net for each fold."""
    check_folds(args)
    home = args.snapshot or settings.snapshots.with_name(settings.snapshots.name + "_folds")
    for folder in folds.folders(home) if not args.restore else ():
        refuse_held(folder, args.overwrite)
    folds.cross_validate(settings, args.folds, home, partial(train_fold, args, where, ranks), ranks.writer)


def check_folds(args: argparse.Namespace) -> None:
    """Raise UserError for options that mean one run."""
    if args.plot or args.graph:
        raise UserError("--plot and --graph name one file, but --folds trains several nets: leave them out.")
    if args.restore not in (None, NEWEST):
        raise UserError(f"--restore {args.restore}: with --folds, --restore alone goes on where the folds stopped.")


def train_fold(args: argparse.Namespace, where: device.Device, ranks: Ranks, settings: Settings, folder: Path) -> dict | None:
    """The scores of a fold on its val_ids, which it holds out, or None where it was told to stop."""
    if args.restore and (scores := folds.result_of(folder, args.niter, settings)):
        print(f"{folder} is done already")
        return scores
    restore = NEWEST if args.restore and snapshots.found(folder) else None
    anew = args.overwrite or (args.restore and not restore)  # it may have been killed before its first snapshot
    own = argparse.Namespace(**vars(args) | {"snapshot": folder, "restore": restore, "overwrite": anew})
    make_room = clear if args.restore else folds.clear
    history, stopped = train(settings, own, where, ranks, settings.val_ids, make_room)
    return None if stopped else history.validation[-1]


def train(
    settings: Settings, args: argparse.Namespace, where: device.Device, ranks: Ranks, held_out: Sequence = (),
    make_room: Callable[[Path, bool], None] = clear,
) -> tuple[Records, bool]:  # fmt: skip
    """Train as the config and the command line (what `arguments` gives) say.

    held_out: tiles in the database that this run shall not see. make_room: removes what an earlier run left in the folder of
    the snapshots, if it may be replaced. What is on record of the run comes back, and whether a signal stopped it.
    """
    folder = args.snapshot or settings.snapshots
    inputs = check_database(settings, held_out)
    patches = Patches(settings.folder("lmdb"), "train", inputs, set(map(tile_name, held_out)))
    check_batch(settings, patches)
    loss = make_loss(settings, patches)
    log = Log(folder / LOG if ranks.writer else None)
    before = to_restore(args.restore, args.init, folder, args.overwrite, log)
    begin = restored if before else fresh
    trainer = begin(settings, inputs, where, loss, before or args.init, ranks, args.compile)
    validation.check(settings, trainer.net)
    check_iterations(args.niter, trainer)
    if ranks.writer:
        go_on(settings, folder, before, log) if before else make_room(folder, args.overwrite)
        plots.net_graph(args.graph or folder / GRAPH, trainer.net, settings.NET)
    selection = make_selection(settings, before, log)
    recorder = make_recorder(settings, folder, args, log, trainer, before)
    log.say(f"{settings.NET} on {where}: {len(patches):,} patches, iterations {trainer.iteration} to {args.niter}")
    order, augmentation = drawn_how(settings, patches, trainer, args.niter)
    workers = workers_for(where.device, augmentation) if settings.WORKERS is None else settings.WORKERS
    feed = batches(patches, order, workers, where.device.type == "cuda", augmentation)
    progress = Progress(trainer, args.niter, settings.patches_per_iteration, args.update)
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
                    recorder.write(trainer.losses, selection.best, selection.exhausted)
            if signals.stop:
                break
    if ranks.writer:
        snapshots.check_end(folder, trainer.iteration)
        log.say(f"newest snapshot: {snapshots.newest(folder)}")
    return recorder.records, signals.stop and not selection.exhausted


def arguments():
    parser = commands.parser(__doc__)
    count = commands.whole_number
    parser.add_argument("--niter", type=count(1), required=True, metavar="N", help="iterations in all")
    parser.add_argument("--update", type=count(1), default=10, metavar="K",
                        help="iterations between looks at the loss (default: 10)")  # fmt: skip
    parser.add_argument("--init", metavar="WEIGHTS", help="initial weights, instead of the config's INIT_MODEL")
    parser.add_argument("--restore", nargs="?", type=Path, const=NEWEST, metavar="SNAPSHOT",
                        help="go on from this snapshot, or from the newest one of this folder; alone: of the folder where"
                             " snapshots go")  # fmt: skip
    parser.add_argument("--folds", type=count(2), metavar="K",
                        help="train K nets, each without a K-th of the training tiles, and score each on those")  # fmt: skip
    parser.add_argument("--snapshot", type=Path, metavar="FOLDER", help="where snapshots go")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="the loss plot (default: loss.png beside the snapshots)")
    parser.add_argument("--graph", type=Path, metavar="PNG", help="the picture of the net (default: net.png there)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: CUDA where there is one)")
    parser.add_argument("--precision", choices=device.PRECISIONS, default="auto",
                        help="of the arithmetic (default: bf16 where the device is made for it, else fp32; tf32 is for"
                             " CUDA)")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="have PyTorch compile the net, which takes a minute or more")
    parser.add_argument("--deterministic", action="store_true", help="the same weights to the bit on CUDA, too; slower")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def validation_is_due(settings: Settings, trainer: Trainer, niter: int) -> bool:
    """At every VAL_EVERY iterations, and at the end."""
    return bool(settings.val_ids) and (on_beat(settings, trainer) or trainer.iteration == niter)


def on_beat(settings: Settings, trainer: Trainer) -> bool:
    """Whether a run of any length is validated at this iteration."""
    return trainer.iteration % (settings.VAL_EVERY or settings.SNAPSHOT_EVERY) == 0


def validate(settings: Settings, trainer: Trainer, selection: Selection, recorder: Recorder) -> None:
    """Score the validation tiles as inference would label them; keep the weights if they are the best so far."""
    trainer.check_finite()  # a net whose loss or weights are no numbers is not worth a look
    ranks = trainer.ranks
    with trainer.averaged():
        ranks.adopt(trainer.net)
        labeller = make_labeller(settings, prepared(trainer.net, trainer.device), trainer.inputs, trainer.device)
        found = validation.validate(labeller, tiles_of(settings, settings.val_ids), settings.colours, settings.ignored, ranks)
        better = selection.report(trainer.iteration, found.loss, found.iou, on_beat(settings, trainer))
        recorder.add_validation(trainer.iteration, found, list(better))
        about = about_net(settings, trainer.inputs) | {"scores": found.scores}
        for criterion, best in better.items():
            with recorder.log.training_goes_on(f"net_best_{criterion}.safetensors"):
                if ranks.writer:
                    snapshots.save_best(recorder.folder, criterion, trainer.iteration, trainer.net, about)
                selection.best[criterion] = best  # now that its file is there
    trainer.net.train()
    if on_beat(settings, trainer):  # else the rate would depend on how long the run was meant to be
        trainer.solver.report(found.iou or 0.0)


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
    made_with = provenance.made_with(settings)
    state = trainer.state() | {"selection": selection.state_dict(), "made_with": made_with}
    if not trainer.ranks.writer:
        return
    recorder.write(
        trainer.losses, selection.best, selection.exhausted
    )  # first: a run that is restored from here finds its history
    with recorder.log.training_goes_on(f"the snapshot of iteration {trainer.iteration}"):
        with trainer.averaged():
            path = snapshots.save(recorder.folder, trainer.iteration, trainer.net, about_net(settings, trainer.inputs), state)
        recorder.log.note(f"snapshot: {path}")
        if settings.KEEP_SNAPSHOTS:
            snapshots.prune(recorder.folder, settings.KEEP_SNAPSHOTS, trainer.iteration)


if __name__ == "__main__":
    run(main)
