"""Labels tiles by sliding windows: label maps, colour maps, pictures, class statistics, and scores where there is ground truth.

    python inference.py 32 34                                # tiles of the config, the best weights of its run
    python inference.py 16 32 --weights net_iter_40000.safetensors --dir results/
    python inference.py --images flight/*.tif --dir maps/    # any files, folders or lists; no ground truth needed
    python inference.py --images city/ --dir maps/ --confidence --polygons 20 --cog --resume
    python inference.py --images city.tif --dir maps/ --area zones.gpkg --area-attribute name    # classes by zone, zones.csv
    python inference.py 32 --clean 2m2 --polygons --simplify 0.3 --square building    # tidy polygons, in the classes' colours
    python inference.py 32 --tta d4 --weights a.safetensors b.safetensors    # nets and views are averaged
    torchrun --nproc-per-node 2 inference.py 32                              # several processes share the work

Without ids or --images, all test tiles are labelled. Each tile's files appear when they are whole; a file of --images that
breaks off is named at the end (exit code 1), and --resume does what is still to do.
"""

import tools  # noqa: F401 (first of all: Ctrl-C while the others load is one word)

# isort: split
import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.base import commands
from tools.base.contents import nested
from tools.base.errors import PartlyFailedError, UserError, listing, run
from tools.base.locks import locked
from tools.compute import options
from tools.compute.waiting import choose_waiting
from tools.data.dataset import tile_name
from tools.inference.settings import AUTO
from tools.maps import choice
from tools.settings import Settings, read_settings

if TYPE_CHECKING:  # PyTorch loads when work begins, not for --help
    from torch import nn

    from tools.compute.device import Device
    from tools.compute.distributed import Ranks
    from tools.inference.labeller import Labeller
    from tools.inference.ranks import Crew
    from tools.inference.tile_list import Tile
    from tools.maps.choice import Choice
    from tools.maps.results import Results
    from tools.maps.writer import Mapmaker


def main():
    args = arguments()
    threshold = [] if args.threshold is None else [f"THRESHOLD={args.threshold}"]
    label(read_settings(args.config, commands.with_run(args) + threshold), args)


def label(settings: Settings, args: argparse.Namespace) -> None:
    """Label tiles, as the config and the command line (what `arguments` gives, but --threshold) say."""
    choose_waiting()

    from tools.compute import device, distributed
    from tools.export import onnx_engine
    from tools.inference import averages
    from tools.inference.ranks import PATIENCE
    from tools.record.choose import choose
    from tools.weights.caffe import is_caffemodel

    args = argparse.Namespace(**vars(args))  # the caller's stay as they are, for another run
    if args.tta:
        args.tta, args.samples, more = averages.read_looks(args.tta)
        args.tiles = args.tiles + more  # ids that stood behind it
    else:
        args.tta = settings.inference.TTA
    ids = set(map(tile_name, settings.data.all_ids))
    if swallowed := [str(path) for path in args.weights or [] if str(path) in ids and not path.exists()]:
        raise UserError(f"--weights takes all words after it, {listing(swallowed)} too: name the tiles first.")
    chosen = choose(args.weights or [], settings.snapshots)
    weights = [one.path for one in chosen]
    ranks = distributed.from_environment()
    for note in (one.note for one in chosen if one.note and ranks.writer):
        print(note)
    if args.images and args.tiles:
        raise UserError(f"{listing(args.tiles)}: give ids of the dataset's tiles or --images, not both.")
    onnx = args.engine in ("onnxruntime", "openvino") or any(path.suffix == ".onnx" for path in weights)
    if onnx and (args.precision != "auto" or args.samples):
        raise UserError("--precision and --tta dropout are for PyTorch: leave them out, or give a snapshot and --engine torch.")
    # Caffe computes in fp32: what its weights were tuned with, labels near ties come out as there.
    precision = "fp32" if args.precision == "auto" and any(map(is_caffemodel, weights)) else args.precision
    where = onnx_engine.processor(args.device, args.engine) if onnx else device.choose(ranks.device(args.device), precision)
    with distributed.joined(ranks, where.device, PATIENCE):
        label_tiles(args, settings, weights, where, ranks)


def label_tiles(args: argparse.Namespace, settings: Settings, weights: list[Path], where: "Device", ranks: "Ranks") -> None:
    """All of the work, or this rank's share of it."""
    from tools.inference.labeller import prepared
    from tools.inference.load import Asked, check_resampling, load_all
    from tools.inference.ranks import Crew
    from tools.inference.tile_list import dataset_tiles, given_tiles, touched
    from tools.labels.palette import Palette
    from tools.maps.writer import Mapmaker

    data, area = settings.data, choice.area_of(args)
    tiles = given_tiles(args.images, data.modalities) if args.images else dataset_tiles(data, args.tiles)
    tiles = touched(tiles, area) if area else tiles
    net, about = load_all(Asked(data, settings.classes, settings.net), weights, tiles[0], args.engine)
    check_resampling(args.resample, about, weights[0])
    folder, size = args.dir or settings.results, about.get("pixel_size") if args.resample else None
    labeller = ready(args, settings, prepared(net, where), about, where)
    palette = Palette(about["classes"], {int(k): tuple(v) for k, v in about["palette"].items()})
    wanted = replace(choice.chosen(args, palette.names), variance=bool(args.samples))
    maps, crew = Mapmaker(labeller, palette, wanted, folder, size), Crew(ranks, where.device)
    if ranks.writer:
        with crew.employed():
            lead(args, weights, tiles, about, maps, crew)
    else:
        maps.help(crew)


def ready(args: argparse.Namespace, settings: Settings, net: "nn.Module", about: dict, where: "Device") -> "Labeller":
    """The net, ready to label tiles as the config and the command line say; about: what the weights say of themselves."""
    import torch

    from nets.net import check_windows
    from tools.data.inputs import Input
    from tools.export import onnx_engine
    from tools.inference import averages
    from tools.inference.labeller import make_labeller
    from tools.inference.window_size import MOST, windows_for

    only, most = onnx_engine.fixed_size(net), MOST if args.window == AUTO else args.window
    if only and most:
        raise UserError(f"--window chooses a size, but the net was exported for {only}x{only} pixels alone: leave it out.")
    windows = windows_for(settings.inference, net, most, only)
    check_windows(net, *windows.size)
    onnx_engine.check_windows(net, windows.size)
    if args.samples:
        torch.manual_seed(settings.data.SEED)  # the same map each time
        net = averages.Sampled(net, args.samples)
    elif only and args.tta == "scales":
        raise UserError(
            f"TTA scales has windows of three sizes, but the net was exported for {only}x{only} alone: choose flips."
        )
    elif args.tta:
        averages.check(args.tta, windows.size, net.multiple)
        net = averages.Augmented(net, args.tta)
    return make_labeller(
        settings.inference, net, [Input.from_dict(i) for i in about["inputs"]], where, windows, resize=settings.data.RESIZE
    )


def lead(
    args: argparse.Namespace, weights: list[Path], tiles: list["Tile"], about: dict, maps: "Mapmaker", crew: "Crew"
) -> None:
    """Find out what there is to do, have it done, and print what came of it."""
    files = [file for tile in tiles for file in [*tile.paths.values(), *tile.truths.values()]]
    words = [word.partition("=")[2] or word for word in args.images or []]
    if fault := nested(maps.folder, [*files, *words, *weights, args.config]):
        raise UserError(fault)
    with locked(maps.folder):
        lead_alone(args, weights, tiles, about, maps, crew)


def lead_alone(
    args: argparse.Namespace, weights: list[Path], tiles: list["Tile"], about: dict, maps: "Mapmaker", crew: "Crew"
) -> None:
    """The same, once no other run can write into the folder."""
    from tools.inference import familiar
    from tools.maps.results import Results
    from tools.maps.tile_checks import check_images, check_names, check_tiles, print_notes
    from tools.report.page import write_report

    inputs, palette, wanted, where = maps.labeller.inputs, maps.palette, maps.choice, maps.labeller.device
    area = next((tile.area for tile in tiles if tile.area), None)
    check_names(tiles, wanted)
    made_with = details(args, weights, about, maps.labeller, wanted) | {"area_sha256": area and area.digest}
    results = Results(maps.folder, made_with, args.overwrite, args.resume)
    todo = [tile for tile in tiles if not (args.resume and results.done(tile))]
    some_done = len(todo) < len(tiles)
    failed = check_images(todo, inputs, wanted, some_done) if args.images else check_tiles(todo, palette, inputs, wanted)
    print(f"{' and '.join(map(str, weights))} ({about['name']}, iteration {about['iteration']}) on {where}")
    if maps.labeller.windows.grid:
        print(maps.labeller.windows)
    for note in about.get("notes", ()):
        print(f"note: {about['name']}: {note}")
    print_notes(todo, failed, len(tiles), about.get("pixel_size"), args.resample, maps.labeller.resize)
    known = [tile for tile in todo if tile.name not in failed]
    for line in familiar.warnings(known, about.get("statistics", {}), about.get("folders", {})):
        print(f"warning: {line}")
    with results.open():
        todo = [tile for tile in todo if tile.name not in failed]
        failed |= replace(maps, folder=results.folder).make_together(todo, crew)
        statistics, scored = results.complete(tiles, failed, palette, about["ignored"], str(where), seen(args, tiles, about))
        write_report(results.folder)
    print_results(statistics, scored, [palette.names[i] for i in about["ignored"]], args.matrix)
    print_end(results, len(tiles), failed)


def seen(args: argparse.Namespace, tiles: list["Tile"], about: dict) -> list[str]:
    """The tiles that the net was trained on, as far as it knows."""
    return [] if args.images else [tile.name for tile in tiles if tile.name in about.get("trained_on", [])]


def details(
    args: argparse.Namespace, weights: list[Path], about: dict, labeller: "Labeller", wanted: "Choice"
) -> dict[str, Any]:
    """All that the maps depend on beside the tiles, for details.json."""
    from tools.inference.load import OF_CONFIG
    from tools.maps.results import fingerprint

    return {
        "weights": weights if len(weights) > 1 else weights[0], "weights_sha256": [fingerprint(path) for path in weights],
        "net": about["name"], "iteration": about["iteration"], "engine": args.engine or "by the weights", "tta": args.tta,
        "passes": args.samples or None, "precision": None if args.precision == "auto" else args.precision,
        **labeller.windows.to_dict(), "blend": labeller.blend, "threshold": labeller.threshold, "resize": labeller.resize,
        "resampled_to": about.get("pixel_size") if args.resample else None, **wanted.to_dict(),
        "area": args.area, "area_attribute": args.area_attribute,
        **{name: about.get(name) for name in OF_CONFIG},  # none for weights that know it themselves
    }  # fmt: skip


def print_results(statistics: dict, result: dict, ignored_names: list[str], matrix: bool) -> None:
    """Classes and scores over all tiles, as tables; matrix: the confusion matrix too."""
    from tools.geo.gaps import Gaps
    from tools.labels import scores
    from tools.maps import class_statistics, zones

    print(f"\n{_tiles(len(statistics['tiles']))}:\n{class_statistics.as_text(statistics['all']['classes'])}")
    if "zones" in statistics:
        print(f"\n{len(statistics['zones'])} zones:\n{zones.as_text(statistics['zones'])}")
    if ious := statistics["squared"]:
        print(f"\n{len(ious)} polygons became rectangles; mean IoU with their pixels: {sum(ious) / len(ious):.3f}")
    for modality, gaps in statistics["all"]["no_data"].items():
        if line := Gaps.from_dict(gaps).describe():
            print(f"{modality}: {line}")
    titles = {"labels": "against the ground truth", "labels_eroded": "against the eroded ground truth"}
    for kind, found in result.items():
        print(f"\n{_tiles(len(found['tiles']))} {titles[kind]}:\n{scores.as_text(found['all'], ignored_names)}")
        if "unseen" in found:
            print(f"without the tiles trained on ({listing(found['seen'])}):\n{scores.as_text(found['unseen'], ignored_names)}")
        elif found["seen"]:
            print(f"note: {listing(found['seen'])} was trained on: these scores say little about other places.")
        if matrix:
            print(f"\n{scores.matrix_as_text(found['all'])}")


def _tiles(count: int) -> str:
    return f"{count} tile{'s' * (count != 1)}"


def print_end(results: "Results", count: int, failed: dict[str, str]) -> None:
    """Where the maps are. Raises PartlyFailedError that names the tiles which could not be labelled."""
    from tools.report.page import REPORT

    here, folder = Path.cwd(), results.folder
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    print(f"\nmaps of {_tiles(count - len(failed))} in {folder}; report: {folder / REPORT}")
    if failed:
        raise PartlyFailedError(
            f"{len(failed)} of {count} tiles could not be labelled: {' '.join(list(failed.values())[:20])} Mend them and add"
            " --resume to label these too."
        )


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    parser.add_argument("tiles", nargs="*", metavar="ID", help="tiles of the dataset, such as 16 or 2_10")
    parser.add_argument("--weights", nargs="*", type=Path, metavar="FILE",
                        help="best, newest, a file, or a run's folder; several are averaged (default: the best weights of the"
                             " config's run by its validation tiles, else its newest snapshot)")  # fmt: skip
    parser.add_argument("--tta", nargs="+", metavar="LOOKS",
                        help="average several looks at each window: flips (4), d4 (8, turned too), scales (3), or dropout N:"
                             " N passes with dropout on, whose variance is written, too; none: one look (default: the config's"
                             " TTA)")  # fmt: skip
    parser.add_argument("--window", type=whole_number_or_auto, metavar="N",
                         help="windows of up to NxN pixels (auto: 512) that suit each tile and overlap by as far as the net"
                              " looks (64 pixels to each side at most), in place of the config's")  # fmt: skip
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="where the maps go")
    parser.add_argument("--images", nargs="+", metavar="FILE",
                        help="label these instead: files, folders, 'patterns*.tif', lists (list.txt), addresses (https://, s3://);"
                             " where the net reads several modalities: irrg=top/ dsm=heights/")  # fmt: skip
    choice.add_options(parser)
    parser.add_argument("--threshold", type=float, metavar="P", help="of two classes, instead of the config's THRESHOLD")
    parser.add_argument("--matrix", action="store_true", help="also print the confusion matrix; it is in scores.json always")
    parser.add_argument("--resample", action="store_true",
                        help="read tiles at the pixel size that the net was trained on; so are their maps")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep the tiles that are finished and label the others")
    parser.add_argument("--engine", choices=["torch", "onnxruntime", "openvino"],
                        help="what computes (default: onnxruntime for .onnx files of tools.export, else torch); openvino, an"
                             " optional package, can be quickest on Intel's processors")  # fmt: skip
    options.add_device(parser)
    commands.add_run(parser)
    options.add_precision(parser)
    commands.add_overwrite(parser)
    commands.add_config(parser)
    parser.set_defaults(samples=0)
    return parser.parse_args(argv)


def whole_number_or_auto(word: str) -> int | str:
    """What --window takes."""
    return AUTO if word == AUTO else commands.whole_number(1)(word)


if __name__ == "__main__":
    run(main)
