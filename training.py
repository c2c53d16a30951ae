"""Trains the config's net on the LMDBs: snapshots, the best weights by the validation tiles, and records of how it went.

    python training.py --niter 40000
    python training.py --niter 40000 --init weights/vgg16_features.safetensors
    python training.py --niter 80000 --restore
    python training.py --niter 80000 --restore data/vaihingen_snapshots_segnet/net_iter_40000.solverstate
    python training.py --niter 40000 --folds 5
    python training.py --minutes 30 --run quick
    torchrun --nproc-per-node 2 training.py --niter 40000

Ctrl-C or SIGTERM write a snapshot, validate and stop, SIGHUP writes one and goes on; --restore continues as if never stopped.
Records are metrics.json, training.log, loss.png, net.png, and tensorboard/ for `tensorboard --logdir`.
"""

import tools  # noqa: F401 (first of all: Ctrl-C while the others load is one word)

# isort: split
import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.compute import options
from tools.compute.waiting import choose_waiting
from tools.data.dataset import SPLITS, tile_name
from tools.settings import Settings, read_settings
from tools.solver.deadline import BY_THE_CLOCK, STEPS

if TYPE_CHECKING:  # PyTorch loads when work begins, not for --help
    from tools.compute.device import Device
    from tools.compute.distributed import Ranks
    from tools.data.loader import Patches
    from tools.record.history import Records, Validation
    from tools.record.log import Log
    from tools.record.recorder import Recorder, Watcher
    from tools.record.selection import Selection
    from tools.training.run_setup import Setup
    from tools.training.trainer import Trainer
    from tools.weights.snapshots import Snapshot

NEWEST = Path("the newest snapshot")  # --restore without a name


def main():
    args = arguments()
    learn(read_settings(args.config, commands.with_run(args)), args)


def learn(settings: Settings, args: argparse.Namespace, watchers: Sequence["Watcher"] = ()) -> None:
    """Train one net, or one for each fold, as the config and the command line (what `arguments` gives) say.

    watchers: are told how the run goes, beside TensorBoard.
    """
    args.watchers = watchers
    args.niter = args.niter or (None if args.minutes else settings.training.NITER)
    if not args.niter and not args.minutes:
        raise UserError("say how many iterations to train for: --niter N or --minutes N, or NITER in the config.")
    every = settings.training.SNAPSHOT_EVERY or (None if args.niter else BY_THE_CLOCK)
    settings = replace(settings, training=replace(settings.training, SNAPSHOT_EVERY=every).for_run(args.niter or STEPS))
    print_solver(settings)
    choose_waiting()

    from tools.compute import compilation, device, distributed
    from tools.final.__main__ import check_test
    from tools.record import earlier
    from tools.training.run_setup import check_compilable

    if args.deterministic:
        device.be_deterministic()
    ranks = distributed.from_environment()
    ranks.divide(settings.training.BATCH_SIZE)
    if args.test and (args.folds or ranks.count > 1):
        raise UserError("--test is for one net, trained by one process: leave it out, and run python -m tools.final --test.")
    if args.test:
        check_test(settings)
    if args.compile:
        check_compilable(settings.training, ranks)
    where = device.choose(ranks.device(args.device), args.precision)
    with distributed.joined(ranks, where.device), device.told_if_not_deterministic(), compilation.told_if_it_fails():
        if args.folds:
            cross_validate(settings, args, where, ranks)
        else:
            folder = args.snapshot or settings.snapshots
            with earlier.replaced(folder, lambda: [folder], ranks.writer):
                train(settings, args, where, ranks)


def print_solver(settings: Settings) -> None:
    """What a solver.prototxt sets, a line each, and what of it has no part."""
    path = settings.origins["SOLVER"]
    if not path.endswith(".prototxt"):
        return
    from tools.solver.solver_prototxt import read_solver

    for name, value in settings.values().items():
        if settings.origins[name] == path:
            print(f"{path}: {name} = {value!r}")
    if left_out := read_solver(path).left_out:
        print(f"{path}: of no part here: {', '.join(left_out)}")


def train(
    settings: Settings, args: argparse.Namespace, where: "Device", ranks: "Ranks", held_out: Sequence = (),
    held_cells: Sequence[str] = (), make_room: Callable[[Path, bool], None] | None = None,
) -> tuple["Records", bool]:  # fmt: skip
    """Train as the config and the command line (what `arguments` gives) say.

    held_out, held_cells: tiles, or cells of a grid, in the database that this run shall not see. make_room: removes what an
    earlier run left in the folder of the snapshots, if it may be replaced. Returns what is on record of the run, and whether a
    signal stopped it.
    """
    from tools.compute.signals import Signals
    from tools.solver.deadline import Deadline
    from tools.training import resume, run_setup
    from tools.training.loop import Loop
    from tools.training.progress import Progress

    training, lmdb = settings.training, settings.data.folder("lmdb")
    setup, patches = learnt_from(settings, args, where, ranks, held_out, held_cells)
    with contextlib.closing(patches):  # whatever is wrong with the rest: who trains from Python may try again
        scored = how_scored(settings, patches, held_cells)
        log, before, trainer = begin(settings, args, setup, patches, scored)
        deadline = Deadline(args.minutes)
        deadline.lead(trainer.solver.schedule, trainer.iteration, ranks.count)
        recorder, made_with = record(settings, args, log, trainer, before, make_room or resume.clear)
        if ranks.writer:  # metrics.json keeps them too
            print(f"settings, and where each came from:\n{settings.as_text()}")
        log.say(f"{settings.net.NET} on {where}: {len(patches):,} patches, {length(args, trainer)}")
        selection = run_setup.make_selection(len(settings.classes.label_values), training.PATIENCE, before, log)
        order, feed = run_setup.feed(setup, settings.augmentation, patches, trainer.iteration, args.niter)
        about = run_setup.about_net(setup, settings.about(), lmdb)
        loop = Loop(trainer, training, args.niter, deadline, scored, selection, recorder, about, made_with)
        progress = Progress(trainer, args.niter, training.patches_per_iteration, args.update)
        with log, run_setup.told_which_patches(patches, order), Signals() as signals, progress:
            loop.run(feed, progress, signals)
    loop.check_end()
    stopped = signals.stop and not selection.exhausted
    if ranks.writer and not args.folds and not stopped:  # who stops a run wants it to end
        tell_scores(settings, args, where, recorder, selection)
    return recorder.records, stopped


def tell_scores(
    settings: Settings, args: argparse.Namespace, where: "Device", recorder: "Recorder", selection: "Selection"
) -> None:
    """Print the scores of the best weights by class: those of their validation, or, with --test, on the tiles of all splits."""
    from tools.final.__main__ import report
    from tools.final.table import as_text
    from tools.record.choose import choose

    if args.test:
        (best,) = choose([], recorder.folder)
        report(settings, best.path, SPLITS, where)
    elif "iou" in selection.best:
        iteration, _ = selection.best["iou"]
        found = next((v for v in recorder.records.validation if v["iteration"] == iteration), {})
        if "dice" in found:  # histories of earlier versions have less
            ignored = [settings.classes.label_values[i] for i in settings.classes.ignored]
            print(f"the best weights by mean IoU, of iteration {iteration}:\n{as_text({'val': found}, ignored)}")


def learnt_from(
    settings: Settings, args: argparse.Namespace, where: "Device", ranks: "Ranks", held_out: Sequence, held_cells: Sequence[str]
) -> tuple["Setup", "Patches"]:
    """What a trainer is made from, and the patches that it learns from, once the databases are what the config asks for."""
    from tools.data.loader import Patches
    from tools.labels.pictures import refuse_others
    from tools.training import run_setup

    for picture in filter(None, (args.plot, args.graph)):
        refuse_others(picture)
    data, training, lmdb = settings.data, settings.training, settings.data.folder("lmdb")
    inputs = run_setup.check_database(data, settings.patches, settings.classes, held_out)
    without = {*map(tile_name, held_out), *held_cells}
    patches = Patches(lmdb, "train", inputs, without, settings.classes.colours.check_labels)
    if held_cells:
        inputs = patches.inputs = run_setup.inputs_of_cells(data, patches)
    run_setup.check_batch(training, patches, lmdb)
    return run_setup.Setup(
        settings.net, training, settings.classes, data.SEED, settings.sample_size, inputs, where, ranks, args.compile
    ), patches


def length(args: argparse.Namespace, trainer: "Trainer") -> str:
    """How long a run is to be, in words."""
    end = f"to {args.niter}" if args.niter else f"on, for {args.minutes:g} minutes"
    return f"iterations {trainer.iteration} {end}"


def how_scored(settings: Settings, patches: "Patches", held_cells: Sequence[str]) -> Callable | None:
    """How the net is validated: on a grid's cells where there are some for it, else on whole tiles; None: not at all."""
    from tools.data.loader import Patches
    from tools.training import run_setup

    lmdb = settings.data.folder("lmdb")
    if held_cells:
        return partial(validate_cells, settings, patches.straight(held_cells))
    if run_setup.cells_in(lmdb)["val"]:
        return partial(validate_cells, settings, Patches(lmdb, "val", patches.inputs))
    return partial(validate, settings) if settings.data.val_ids else None


def begin(
    settings: Settings, args: argparse.Namespace, setup: "Setup", patches: "Patches", scored: Callable | None
) -> tuple["Log", "Snapshot | None", "Trainer"]:
    """The log, the snapshot that the run goes on from if there is one, and the net with its solver."""
    from nets.net import check_size
    from tools.inference.window_size import windows_for
    from tools.record.log import Log
    from tools.record.recorder import LOG
    from tools.training import resume, run_setup, validation

    folder, training = args.snapshot or settings.snapshots, settings.training
    loss = run_setup.make_loss(training, settings.classes, patches)
    log = Log(folder / LOG if setup.ranks.writer else None)
    restore = folder if args.restore == NEWEST else args.restore
    for note in run_setup.notes(settings.data):
        log.warn(note)
    if absent := run_setup.absent_classes(settings.classes, patches):
        log.warn(f"training has no pixel of {listing(absent)}: no map will show it; move a tile that has it into train_ids.")
    if scored is None and (unused := settings.given("VAL_EVERY").get("VAL_EVERY")):
        log.warn(f"VAL_EVERY = {unused} has no effect, as there are no validation tiles: val_ids is empty.")
    use = partial(run_setup.restored, setup, loss)
    before, trainer = resume.to_restore(restore, args.init, folder, args.overwrite, log, use)
    if not trainer:
        trainer = run_setup.fresh(setup, loss, args.init)
        run_setup.check_frozen_norm(trainer, settings.given("FROZEN_NORM"))
    palette = settings.classes.colours
    if scored and scored.func is validate_cells:
        check_size(*settings.patches.patch_size, trainer.net.multiple)
    else:
        window = windows_for(settings.inference, trainer.net).size
        validation.check(settings.data, palette, window, trainer.net, training.PATIENCE)
    run_setup.check_schedule(trainer, args.niter, scored is not None)
    return log, before, trainer


def record(
    settings: Settings, args: argparse.Namespace, log: "Log", trainer: "Trainer", before: "Snapshot | None",
    make_room: Callable[[Path, bool], None],
) -> tuple["Recorder", dict]:  # fmt: skip
    """Where the run is written down, and what makes it the run that it is; an earlier run makes room."""
    from tools.record import plots, provenance
    from tools.record.recorder import GRAPH, PLOT, Recorder
    from tools.training import resume

    name, folder, lmdb = settings.net.NET, args.snapshot or settings.snapshots, settings.data.folder("lmdb")
    made_with = provenance.made_with(settings.with_effect(), lmdb)
    if trainer.ranks.writer:
        if before:
            resume.go_on(made_with, folder, before, log)
        else:
            make_room(folder, args.overwrite)
        plots.net_graph(args.graph or folder / GRAPH, trainer.net, name)
    made_of = provenance.about(name, trainer.net, trainer.device, lmdb, args.niter, settings.values(), settings.origins)
    if trainer.loss.weights is not None:
        made_of["class weights"] = dict(zip(settings.classes.label_values, trainer.loss.weights.tolist(), strict=True))
        log.say(f"class weights, {settings.training.CLASS_WEIGHTS}: {in_words(made_of['class weights'])}")
    title, came_from = f"{name} on {settings.data.DATASET}", before and before.path.parent
    plot, watchers = args.plot or folder / PLOT, args.watchers if trainer.ranks.writer else None
    return Recorder(folder, plot, log, made_of, title, trainer.iteration, came_from, watchers), made_with


def in_words(weights: dict[str, float]) -> str:
    """Class weights on one line."""
    return ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())


def validate(settings: Settings, trainer: "Trainer") -> "Validation":
    """What the net, as it stands, is worth on the validation tiles, labelled as inference would by one look (no TTA)."""
    from tools.inference.labeller import make_labeller, prepared
    from tools.inference.tile_list import tiles_of
    from tools.training import validation

    net, inputs, device = prepared(trainer.net, trainer.device), trainer.inputs, trainer.device
    labeller = make_labeller(settings.inference, net, inputs, device, resize=settings.data.RESIZE)
    tiles = tiles_of(settings.data, settings.data.val_ids)
    classes = settings.classes
    return validation.validate(labeller, tiles, classes.colours, classes.ignored, trainer.ranks, trainer.loss)


def validate_cells(settings: Settings, patches: "Patches", trainer: "Trainer") -> "Validation":
    """What the net, as it stands, is worth on these patches of a grid's cells."""
    from tools.inference.forward import Forward
    from tools.inference.labeller import prepared
    from tools.training import cells

    classes, chosen, net = settings.classes, settings.inference, prepared(trainer.net, trainer.device)
    forward = Forward(net, patches.inputs, trainer.device, chosen.TEST_BATCH_SIZE, settings.patches.patch_size)
    return cells.validate(forward, patches, chosen.THRESHOLD, classes.colours, classes.ignored, trainer.ranks, trainer.loss)


def cross_validate(settings: Settings, args: argparse.Namespace, where: "Device", ranks: "Ranks") -> None:
    """Train and score one net for each fold."""
    from tools.data.splits import group_tiles
    from tools.record import earlier
    from tools.training import cells, folds, resume, run_setup

    if not args.niter:
        raise UserError("--folds compares nets that were trained alike: give --niter instead of --minutes.")
    if args.plot or args.graph:
        raise UserError("--plot and --graph name one file, but --folds trains several nets: leave them out.")
    if args.restore not in (None, NEWEST):
        raise UserError(f"--restore {args.restore}: with --folds, --restore alone goes on where the folds stopped.")
    home = args.snapshot or settings.snapshots.with_name(settings.snapshots.name + "_folds")
    data = settings.data
    names = cells.training_cells(data.folder("lmdb"))
    if names:
        groups = cells.groups_of(names, run_setup.windows_of_cells(data.folder("lmdb")), args.folds)
    else:
        first = data.folders[data.modalities[0]]
        groups = data.GROUPS and group_tiles(data.train_ids, data.GROUPS, data.DATASET_DIR, first)
    with earlier.replaced(home, lambda: [home, *folds.folders(home)], ranks.writer):
        for folder in folds.folders(home) if not args.restore else ():
            resume.refuse_held(folder, args.overwrite)
        one = partial(train_fold, settings, args, where, ranks, bool(names))
        folds.cross_validate(names or data.train_ids, args.folds, data.SEED, home, one, ranks.writer, groups)


def train_fold(
    settings: Settings, args: argparse.Namespace, where: "Device", ranks: "Ranks", cells: bool,
    kept: list, held_out: list, folder: Path,
) -> dict | None:  # fmt: skip
    """The scores of a fold on the tiles, or cells of a grid, that it holds out, or None if it was told to stop."""
    from tools.record import provenance
    from tools.training import folds, resume
    from tools.weights import snapshots

    if not cells:
        settings = replace(settings, data=replace(settings.data, train_ids=kept, val_ids=held_out))
    made_with = provenance.made_with(settings.with_effect(), settings.data.folder("lmdb"))
    if args.restore and (scores := folds.result_of(folder, args.niter, made_with, settings.training.PATIENCE)):
        print(f"{folder} is done already")
        return scores
    restore = NEWEST if args.restore and snapshots.found(folder) else None
    anew = args.overwrite or (args.restore and not restore)  # it may have been killed before its first snapshot
    own = argparse.Namespace(**vars(args) | {"snapshot": folder, "restore": restore, "overwrite": anew})
    held = ((), held_out) if cells else (held_out, ())
    history, stopped = train(settings, own, where, ranks, *held, resume.clear if args.restore else folds.clear)
    return None if stopped else history.validation[-1]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    count = commands.whole_number
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--niter", type=count(1), metavar="N", help="iterations in all (default: the config's NITER)")
    end.add_argument("--minutes", type=commands.number(0), metavar="N",
                     help="train for so long instead; a policy that ends goes by the clock then")  # fmt: skip
    parser.add_argument("--update", type=count(1), default=10, metavar="K",
                        help="iterations between looks at the loss (default: 10)")  # fmt: skip
    parser.add_argument("--init", metavar="WEIGHTS", help="initial weights, instead of the config's INIT_MODEL")
    parser.add_argument("--restore", nargs="?", type=Path, const=NEWEST, metavar="SNAPSHOT",
                        help="go on from this snapshot, or from the newest one of this folder; alone: of the folder where"
                             " snapshots go")  # fmt: skip
    parser.add_argument("--folds", type=count(2), metavar="K",
                        help="train K nets, each without a K-th of the training tiles, and score each on those")  # fmt: skip
    parser.add_argument("--test", action="store_true",
                        help="at the end, score the best weights on the test tiles too (tools.final)")  # fmt: skip
    parser.add_argument("--snapshot", type=Path, metavar="FOLDER", help="where snapshots go")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="the loss plot (default: loss.png beside the snapshots)")
    parser.add_argument("--graph", type=Path, metavar="PNG", help="the picture of the net (default: net.png there)")
    options.add_device(parser)
    options.add_precision(parser)
    parser.add_argument("--compile", action="store_true", help="have PyTorch compile the net, which takes a minute or more")
    parser.add_argument("--deterministic", action="store_true", help="the same weights to the bit on CUDA, too; slower")
    commands.add_run(parser)
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
