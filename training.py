"""Trains the config's net on the LMDBs: snapshots, a loss plot, a picture of the net, scores on the validation tiles.

    python training.py --niter 40000
    python training.py --niter 40000 --init weights/vgg16_features.safetensors
    python training.py --niter 80000 --restore data/vaihingen_snapshots_segnet/net_iter_40000.solverstate

Ctrl-C or SIGTERM write a snapshot and stop, SIGHUP writes one and goes on; --restore continues as if never stopped.
"""

from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import nets
from nets.net import check_size
from tools import commands, device, pictures, scores, snapshots
from tools.caffe import refuse_solverstate
from tools.class_weights import class_weights
from tools.dataset import Dataset, tile_name
from tools.errors import UserError, run
from tools.folders import read_details, require
from tools.inputs import Input, make_inputs
from tools.loader import BatchOrder, Patches, batches
from tools.losses import Loss
from tools.palette import Palette
from tools.pretrained import initialise
from tools.progress import Progress
from tools.raster import read_labels
from tools.settings import Settings, read_settings
from tools.signals import Signals
from tools.solver import Solver
from tools.tiles import Labeller
from tools.trainer import Trainer


def main():
    args = arguments()
    settings = read_settings(args.config)
    where = device.choose(args.device)
    folder = args.snapshot or settings.snapshots
    inputs = check_database(settings)
    patches = Patches(settings.folder("lmdb"), "train", inputs)
    loss = make_loss(settings, patches)
    begin = restored if args.restore else fresh
    trainer = begin(settings, inputs, where, folder, loss, args)
    if args.niter <= trainer.iteration:
        raise UserError(f"--niter {args.niter}: {trainer.iteration} iterations are done already; give a larger number.")
    trainer.solver.schedule.check(args.niter)
    pictures.net_graph(args.graph or folder / "net.png", trainer.net, settings.NET)
    print(f"{settings.NET} on {where}: {len(patches):,} patches, iterations {trainer.iteration} to {args.niter}")
    with Signals() as signals, Progress(trainer, args.niter, batch_size(settings), args.update) as progress:
        for images, labels in feed(settings, patches, trainer, args.niter):
            trainer.step(images, labels)
            progress.show()
            if snapshot_is_due(settings, trainer, args.niter, signals):
                snapshot(settings, trainer, folder, args.plot or folder / "loss.png")
                progress.pause()
            if signals.stop:
                break
    print(f"newest snapshot: {snapshots.newest(folder)}")


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
    parser.add_argument("--restore", type=Path, metavar="SOLVERSTATE", help="go on from this snapshot")
    parser.add_argument("--snapshot", type=Path, metavar="FOLDER", help="where snapshots go")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="the loss plot (default: loss.png beside the snapshots)")
    parser.add_argument("--graph", type=Path, metavar="PNG", help="the picture of the net (default: net.png there)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: CUDA where there is one)")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def check_database(settings: Settings) -> list[Input]:
    """The net's inputs, once the databases are what the config asks for."""
    lmdb = settings.folder("lmdb")
    if not lmdb.exists():
        raise UserError(f"{lmdb} does not exist: make it with create_db.py.")
    details = read_details(lmdb)
    require(
        details | {"train_ids": details["splits"]["train"]["tiles"]}, lmdb, "create_db.py", dataset=settings.DATASET,
        patch_size=list(settings.patch_size), classes=list(settings.label_values), bgr=settings.BGR,
        train_ids=list(map(tile_name, settings.train_ids)),  # else validation tiles may be among the trained ones
    )  # fmt: skip
    missing = [m for m in settings.modalities if m not in details["modalities"]]
    if missing:
        raise UserError(f"{lmdb} has no {', '.join(missing)}: make it again, with extract_images.py and create_db.py.")
    return make_inputs(settings.parts, details["modalities"], settings.MEAN_PIXEL, settings.normalisation, settings.BGR)


def fresh(settings: Settings, inputs: list[Input], where: device.Device, folder: Path, loss: Loss, args) -> Trainer:
    """A net at iteration 0, perhaps with weights from elsewhere."""
    if snapshots.found(folder) and not args.overwrite:
        raise UserError(f"{folder} holds snapshots: go on with --restore, choose another --snapshot, or add --overwrite.")
    torch.manual_seed(settings.SEED)
    net = build(settings, inputs)
    source = args.init or settings.INIT_MODEL
    report = initialise(net, source, inputs) if source else None
    print(report or "all layers begin with random weights")
    trainer = make_trainer(settings, net, inputs, where, loss, report.loaded if report else [])
    check_validation(settings, net)
    snapshots.remove(folder)  # last, when nothing else in the config can be wrong
    return trainer


def restored(settings: Settings, inputs: list[Input], where: device.Device, folder: Path, loss: Loss, args) -> Trainer:
    """The run as it stood at a snapshot."""
    if args.init:
        raise UserError("--init and --restore do not go together: a restored run has its weights already.")
    refuse_solverstate(args.restore)
    state = snapshots.load_state(args.restore)
    net, about = snapshots.load_net(snapshots.weights_of(args.restore))
    if nets.describe(net) != nets.describe(build(settings, inputs)) or about["inputs"] != [i.to_dict() for i in inputs]:
        raise UserError(
            f"{args.restore} is of the net {about['name']} with the inputs {', '.join(i['name'] for i in about['inputs'])},"
            f" which is not what the config builds ({settings.NET}): restore with the config that it was trained with."
        )
    trainer = make_trainer(settings, net, inputs, where, loss, state["pretrained"])
    check_validation(settings, net)
    trainer.restore(state)
    return trainer


def check_validation(settings: Settings, net: nn.Module) -> None:
    """Raise UserError now, and not at the first snapshot, where the validation tiles cannot be labelled."""
    if settings.val_ids:
        check_size(*settings.test_patch_size, net.multiple)
        palette = Palette(settings.label_values, settings.palette)
        dataset = Dataset(settings.DATASET_DIR, settings.folders)
        dataset.check([*settings.modalities, "labels"], settings.val_ids, palette)


def build(settings: Settings, inputs: list[Input]) -> nn.Module:
    """The config's net, for these inputs and its classes."""
    return nets.build(settings.NET, {i.name: i.channels for i in inputs}, len(settings.label_values), **settings.NET_OPTIONS)


def make_trainer(
    settings: Settings, net: nn.Module, inputs: list[Input], where: device.Device, loss: Loss, pretrained: list[str]
) -> Trainer:
    """The net on its device, with the config's solver."""
    net = where.place(net)
    solver = Solver(
        net, settings.BASE_LR, settings.LR_POLICY, settings.SOLVER, pretrained, settings.MULTIPLIERS,
        settings.GRADIENT_CLIP, settings.FREEZE_ITERATIONS,
    )  # fmt: skip
    if solver.schedule.waits_for_scores and not settings.val_ids:
        raise UserError("LR_POLICY 'plateau' goes by the scores on the validation tiles, but val_ids is empty: name some.")
    return Trainer(net, solver, inputs, settings.ignored, where, loss, settings.ITER_SIZE, settings.EMA_DECAY)


def make_loss(settings: Settings, patches: Patches) -> Loss:
    """The config's loss, with class weights from the labels that are to be learned."""
    records = (labels for labels, _ in tqdm(patches.labels, "counting labels", leave=False, unit="patch", delay=1))
    return Loss(settings.LOSS, class_weights(settings.CLASS_WEIGHTS, records, len(settings.label_values), settings.ignored))


def batch_size(settings: Settings) -> int:
    """Patches in an iteration."""
    return settings.BATCH_SIZE * settings.ITER_SIZE


def feed(settings: Settings, patches: Patches, trainer: Trainer, niter: int):
    """The batches from the trainer's iteration to the last."""
    order = BatchOrder(len(patches), batch_size(settings), settings.SEED, trainer.iteration, niter)
    return batches(patches, order, settings.WORKERS, trainer.device.device.type == "cuda")


def snapshot_is_due(settings: Settings, trainer: Trainer, niter: int, signals: Signals) -> bool:
    """At every SNAPSHOT_EVERY iterations, at the end, and when a signal asks for it."""
    asked, signals.snapshot = signals.snapshot or signals.stop, False
    return asked or trainer.iteration % settings.SNAPSHOT_EVERY == 0 or trainer.iteration == niter


def snapshot(settings: Settings, trainer: Trainer, folder: Path, plot: Path) -> None:
    """Score the validation tiles, write the snapshot, draw the loss plot."""
    trainer.fetch_losses()
    if settings.val_ids and trainer.iteration not in trainer.scores:
        with trainer.averaged():
            result = validate(settings, trainer)
        trainer.scores[trainer.iteration] = result["mean_iou_without_ignored"] or 0.0
        accuracy, iou = 100 * (result["overall_accuracy"] or 0.0), 100 * trainer.scores[trainer.iteration]
        if trainer.iteration % settings.SNAPSHOT_EVERY == 0:  # else the rate would depend on where a run was interrupted
            trainer.solver.report(trainer.scores[trainer.iteration])
        tqdm.write(f"iteration {trainer.iteration}: validation accuracy {accuracy:.2f} %, mean IoU {iou:.2f} %")
    about = {"name": settings.NET, **settings.about(), "inputs": [i.to_dict() for i in trainer.inputs]}
    state = trainer.state()
    with trainer.averaged():
        snapshots.save(folder, trainer.iteration, trainer.net, about, state)
    pictures.loss_plot(plot, trainer.losses, trainer.scores, f"{settings.NET} on {settings.DATASET}")


def validate(settings: Settings, trainer: Trainer) -> dict:
    """Scores on the validation tiles, labelled as inference would, without overlap of the windows."""
    size = tuple(settings.test_patch_size)
    batch, threshold = settings.TEST_BATCH_SIZE, settings.THRESHOLD
    labeller = Labeller(trainer.net, trainer.inputs, size, size, batch, trainer.device, threshold)
    dataset = Dataset(settings.DATASET_DIR, settings.folders)
    matrix = 0
    for tile in settings.val_ids:
        paths = {m: dataset.path(m, tile) for m in settings.modalities}
        matrix = matrix + labeller.confusion(paths, read_labels(dataset.path("labels", tile)))
    trainer.net.train()
    return scores.report(matrix, settings.label_values, settings.ignored)


if __name__ == "__main__":
    run(main)
