"""One table of a trained net: loss, IoU and Dice by class on training, validation and, if asked for, test tiles.

    python -m tools.final                           # the best weights of the config's run
    python -m tools.final --test --run low
    python -m tools.final --weights newest --splits val

Tiles are labelled as inference.py --tta none labels them; where a grid's cells were shared out, its scenes are, and scored
inside the cells of each split.
final.json beside the weights holds all scores, and keeps those of other splits as long as the weights are the same. Test
tiles are for the end: look at them once, when all choices are made.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import write_json
from tools.compute import options
from tools.data.dataset import SPLITS, tile_name
from tools.final.table import as_text
from tools.settings import Settings, read_settings

if TYPE_CHECKING:  # PyTorch loads when work begins, not for --help
    from torch import nn

    from tools.compute.device import Device
    from tools.data.inputs import Input
    from tools.geo.area import PlacedArea
    from tools.record.history import Validation
    from tools.solver.losses import Loss

FINAL = "final.json"  # beside the weights


def main():
    args = arguments()
    settings = read_settings(args.config, commands.with_run(args))

    from tools.compute import device
    from tools.record.choose import choose

    (chosen,) = choose([args.weights] if args.weights else [], settings.snapshots)
    print(chosen.note or chosen.path)
    splits = (*args.splits, *(["test"] if args.test else []))
    report(settings, chosen.path, splits, device.choose(args.device, args.precision))


def report(settings: Settings, path: Path, splits: Sequence[str], where: "Device") -> None:
    """Print the table of some weights, and write final.json beside them. Raises UserError where there is nothing to score."""
    from tools.data.inputs import Input
    from tools.inference.labeller import prepared
    from tools.inference.load import Asked, check_agreement
    from tools.maps.results import fingerprint
    from tools.weights import snapshots

    net, about = snapshots.load_net(path)
    inputs = [Input.from_dict(i) for i in about["inputs"]]
    check_agreement(Asked(settings.data, settings.classes, settings.net), about, inputs, path)
    net = prepared(net, where)
    if "test" in splits:
        check_test(settings)
    splits = [split for split in splits if there(settings, split)]
    if not splits:
        raise UserError("none of these splits has tiles with labels: name tiles in the config, or other --splits.")
    loss = loss_of(settings, path)
    found = {split: score(settings, net, inputs, where, split, loss).scores for split in splits}
    print(as_text(found, [settings.classes.label_values[i] for i in settings.classes.ignored]))
    final, digest = path.with_name(FINAL), fingerprint(path)
    found = kept(final, digest) | found
    about_them = {"made by": "tools.final", "weights": path, "weights_sha256": digest, "iteration": about["iteration"]}
    write_json(final, about_them | {split: found[split] for split in SPLITS if split in found})
    print(f"all scores: {final}")


def kept(final: Path, digest: str) -> dict[str, Any]:
    """The scores by split that a final.json holds of the weights with this SHA-256; none where it is of others, or damaged."""
    try:
        before = json.loads(final.read_text(encoding="utf-8"))
        return {split: before[split] for split in SPLITS if split in before} if before["weights_sha256"] == digest else {}
    except (OSError, ValueError, KeyError, TypeError):  # none, or one of earlier versions, which does not say of which weights
        return {}


def loss_of(settings: Settings, path: Path) -> "Loss":
    """The loss that the net in a weights file learned by, with the class weights that its run has on record.

    They were counted in the patches of that run, which need not be there any more. Without a record (weights alone, of another
    program) the numbers of CLASS_WEIGHTS count; a formula's are not known then, which is said.
    """
    from tools.record.history import METRICS
    from tools.solver.losses import Loss

    given = settings.training.CLASS_WEIGHTS
    try:
        record = json.loads(path.with_name(METRICS).read_text(encoding="utf-8"))
        by_name = record.get("class weights")
        weights = by_name and [float(by_name[name]) for name in settings.classes.label_values]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        weights = None if isinstance(given, str) else list(given)
        if isinstance(given, str) and given != "none":
            print(f"note: no {METRICS} beside {path} has the class weights ({given}): the loss is without them.")
    return Loss(settings.training.LOSS, weights)


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


def cells(settings: Settings, split: str) -> list[str]:
    """The cells of a grid that a split of the database has; none if it was not cut by a grid."""
    from tools.training import cells as by_cells

    lmdb = settings.data.folder("lmdb")
    return by_cells.cells_of(lmdb, split) if (lmdb / f"{split}.txt").is_file() else []


def there(settings: Settings, split: str) -> bool:
    """Whether there is anything to score in a split."""
    return bool(cells(settings, split) or settings.data.ids(split))


def check_test(settings: Settings) -> None:
    """Raise UserError where there are no test tiles, so that asking for their scores would be of no effect."""
    if not there(settings, "test"):
        raise UserError(
            "--test: the config's test_ids is empty, and no cells of a grid are for tests: name some, or leave it out."
        )


def score(
    settings: Settings, net: "nn.Module", inputs: "list[Input]", where: "Device", split: str, loss: "Loss"
) -> "Validation":
    """What a net, `prepared` for inference, is worth on a split; loss: that it learned by."""
    from tools.inference.labeller import make_labeller
    from tools.inference.tile_list import tiles_of
    from tools.training import cells as by_cells
    from tools.training import validation

    classes, chosen = settings.classes, settings.inference
    labeller = make_labeller(chosen, net, inputs, where, resize=settings.data.RESIZE)
    names = cells(settings, split)
    areas = areas_of_cells(settings, names) if names else {}
    ids = [tile for tile in settings.data.all_ids if tile_name(tile) in areas] if names else settings.data.ids(split)
    settings.data.dataset.check(settings.data.with_labels, ids, classes.colours)
    tiles = tiles_of(settings.data, ids)
    if names:
        return by_cells.score_by_windows(labeller, tiles, areas, classes.colours, classes.ignored, loss)
    return validation.validate(labeller, tiles, classes.colours, classes.ignored, trained=loss)


def areas_of_cells(settings: Settings, names: list[str]) -> "dict[str, PlacedArea]":
    """Cells by the names of their tiles. Raises UserError where a database of before does not say where they lie."""
    from tools.geo import raster
    from tools.training import cells as by_cells
    from tools.training import run_setup

    windows, data, shapes = run_setup.windows_of_cells(settings.data.folder("lmdb")), settings.data, {}
    if not set(names) <= set(windows):
        raise UserError(f"{data.folder('lmdb')} does not say where the cells of its grid lie: make it again.")
    wanted = set(map(by_cells.tile_of_cell, names))
    for tile in (tile for tile in data.all_ids if tile_name(tile) in wanted):
        files = data.dataset.path(data.modalities[0], tile), data.dataset.seen(data.modalities[0], tile)
        whole, seen = map(raster.inspect, files)
        shapes[tile_name(tile)] = (whole.height, whole.width), (seen.height, seen.width)
    if missing := sorted(wanted - set(shapes)):
        raise UserError(f"cells of the grid lie on {listing(missing)}, which the config's ids do not name: name them.")
    return by_cells.areas_of({name: windows[name] for name in names}, shapes)


if __name__ == "__main__":
    run(main)
