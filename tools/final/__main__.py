"""One table of a trained net: loss, IoU and Dice by class on training, validation and, if asked for, test tiles.

    python -m tools.final                           # the best weights of the config's run
    python -m tools.final --test --run low
    python -m tools.final --weights newest --splits val

Tiles are labelled as inference labels them; of a database that was cut by a grid, the patches of its cells are scored instead.
final.json beside the weights holds all scores. Test tiles are for the end: look at them once, when all choices are made.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tools.base import commands
from tools.base.errors import UserError, run
from tools.base.folders import write_json
from tools.compute import options
from tools.data.dataset import SPLITS
from tools.final.table import as_text
from tools.settings import Settings, read_settings

if TYPE_CHECKING:  # PyTorch loads when work begins, not for --help
    from torch import nn

    from tools.compute.device import Device
    from tools.data.inputs import Input
    from tools.record.history import Validation

FINAL = "final.json"  # beside the weights


def main():
    args = arguments()
    settings = read_settings(args.config, commands.with_run(args))

    from tools.compute import device
    from tools.data.inputs import Input
    from tools.inference.labeller import prepared
    from tools.inference.load import Asked, check_agreement
    from tools.record.choose import choose
    from tools.weights import snapshots

    (chosen,) = choose([args.weights] if args.weights else [], settings.snapshots)
    print(chosen.note or chosen.path)
    net, about = snapshots.load_net(chosen.path)
    inputs, where = [Input.from_dict(i) for i in about["inputs"]], device.choose(args.device, args.precision)
    check_agreement(Asked(settings.data, settings.classes, settings.net), about, inputs, chosen.path)
    net = prepared(net, where)
    splits = [split for split in (*args.splits, *(["test"] if args.test else [])) if there(settings, split)]
    if not splits:
        raise UserError("none of these splits has tiles with labels: name tiles in the config, or other --splits.")
    found = {split: score(settings, net, inputs, where, split).scores for split in splits}
    print(as_text(found, [settings.classes.label_values[i] for i in settings.classes.ignored]))
    path = chosen.path.with_name(FINAL)
    write_json(path, {"made by": "tools.final", "weights": chosen.path, "iteration": about["iteration"], **found})
    print(f"all scores: {path}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("--test", action="store_true", help="score the test tiles, too")
    parser.add_argument("--splits", nargs="+", choices=SPLITS[:2], default=list(SPLITS[:2]),
                        help="what else is scored (default: train val)")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE", help="best, newest, a file, or a run's folder (default: best)")
    options.add_device(parser)
    options.add_precision(parser)
    commands.add_run(parser)
    commands.add_config(parser)
    return parser.parse_args()


def cells(settings: Settings, split: str) -> int:
    """How many patches of a grid's cells a split of the database has; 0 if it was not cut by a grid."""
    from tools.training import run_setup

    lmdb = settings.data.folder("lmdb")
    return run_setup.cells_in(lmdb)[split] if lmdb.exists() else 0


def there(settings: Settings, split: str) -> bool:
    """Whether there is anything to score in a split."""
    return bool(cells(settings, split) or settings.data.ids(split))


def score(settings: Settings, net: "nn.Module", inputs: "list[Input]", where: "Device", split: str) -> "Validation":
    """What a net, `prepared` for inference, is worth on a split."""
    from tools.data.loader import Patches
    from tools.inference.forward import Forward
    from tools.inference.labeller import make_labeller
    from tools.inference.tile_list import tiles_of
    from tools.solver.losses import Loss
    from tools.training import cells as by_cells
    from tools.training import validation

    classes, chosen, loss = settings.classes, settings.inference, Loss(settings.training.LOSS)
    if cells(settings, split):
        patches = Patches(settings.data.folder("lmdb"), split, inputs).straight()
        forward = Forward(net, inputs, where, chosen.TEST_BATCH_SIZE, settings.patches.patch_size)
        return by_cells.validate(forward, patches, chosen.THRESHOLD, classes.colours, classes.ignored, trained=loss)
    ids = settings.data.ids(split)
    settings.data.dataset.check(settings.data.with_labels, ids, classes.colours)
    labeller = make_labeller(chosen, net, inputs, where, resize=settings.data.RESIZE)
    return validation.validate(labeller, tiles_of(settings.data, ids), classes.colours, classes.ignored, trained=loss)


if __name__ == "__main__":
    run(main)
