"""Labels tiles by sliding windows: label maps, colour maps, pictures, class statistics, and scores where there is ground truth.

    python inference.py 32 34                                # tiles of the config, newest snapshot of its net
    python inference.py 16 32 --weights net_iter_40000.safetensors --dir results/
    python inference.py --images flight/*.tif --dir maps/    # any files, folders or lists; no ground truth needed
    python inference.py --images city/ --dir maps/ --confidence --polygons 20 --cog --resume
    python inference.py 32 --tta d4 --weights a.safetensors b.safetensors    # nets and views are averaged
    torchrun --nproc-per-node 2 inference.py 32                              # several processes share the work

Without ids or --images, all test tiles are labelled. Each tile's files appear when they are whole; a file of --images that
breaks off is named at the end (exit code 1), and --resume does what is still to do.
"""

import argparse
import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

import nets
from nets.net import check_size
from tools import (
    batches,
    class_statistics,
    commands,
    crew,
    device,
    distributed,
    onnx_engine,
    raster,
    resampled,
    scores,
    snapshots,
    tta,
)
from tools.batches import Tile
from tools.caffe import is_caffemodel, load_caffemodel
from tools.dataset import Dataset, tile_id, tile_name
from tools.distributed import Ranks
from tools.ensemble import Ensemble
from tools.errors import DiskFullError, PartlyFailedError, UserError, listing, run
from tools.inputs import Input, make_inputs, modalities_of
from tools.outputs import Choice, TileOutputs
from tools.palette import Palette
from tools.polygons import LeastArea
from tools.receptive_field import effective_radius, step_for
from tools.report import REPORT, write_report
from tools.results import Results, fingerprint
from tools.settings import SPLITS, Settings, read_settings
from tools.tile_checks import check_images, check_tiles
from tools.tiles import Labeller
from tools.windows import step_in_pixels


def main():
    args = arguments()
    settings = chosen(read_settings(args.config), args)
    weights = args.weights or [snapshots.newest(settings.snapshots)]
    ranks = distributed.from_environment()
    if args.resample and ranks.count > 1:
        raise UserError("--resample reads tiles by way of this process's memory: leave torchrun out, or resample them before.")
    onnx = args.engine == "onnxruntime" or any(path.suffix == ".onnx" for path in weights)
    where = onnx_engine.processor(args.device) if onnx else device.choose(ranks.device(args.device))
    with distributed.joined(ranks, where.device):
        label_tiles(args, settings, weights, where, ranks)


def label_tiles(args: argparse.Namespace, settings: Settings, weights: list[Path], where: device.Device, ranks: Ranks) -> None:
    """All of the work, or this process's share of it."""
    tiles = batches.given_tiles(args.images, settings.modalities) if args.images else dataset_tiles(settings, args.tiles)
    net, about = load_all(settings, weights, tiles[0], args.engine)
    inputs = [Input.from_dict(i) for i in about["inputs"]]
    check_resampling(args.resample, about, weights[0])
    labeller = make_labeller(settings, net, inputs, where, args, tiles)
    if not ranks.writer:
        crew.serve(ranks, labeller.work)
        return
    palette = Palette(about["classes"], {int(k): tuple(v) for k, v in about["palette"].items()})
    choice = Choice(args.confidence, args.probabilities, args.polygons, args.cog)
    made_with = details(weights, about, labeller, choice, args)
    results = Results(args.dir or settings.folder("results"), made_with, args.overwrite, args.resume)
    todo = [tile for tile in tiles if not (args.resume and results.done(tile))]
    failed = check_images(todo, inputs, choice.polygons) if args.images else check_tiles(todo, palette, inputs)
    print(f"{' and '.join(map(str, weights))} ({about['name']}, iteration {about['iteration']}) on {where}")
    print_notes(todo, failed, len(tiles), about.get("pixel_size"), args.resample)
    team = crew.Crew(ranks, where.device)
    labeller = replace(labeller, crew=team if ranks.count > 1 else None)
    with team.employed(), results.open():
        todo = [tile for tile in todo if tile.name not in failed]
        failed |= label(labeller, todo, palette, choice, results, about.get("pixel_size") if args.resample else None)
        statistics, scored = results.complete(tiles, failed, palette, about["ignored"], str(where))
        write_report(results.folder)
    print_results(statistics, scored, [palette.names[i] for i in about["ignored"]])
    print_end(results, len(tiles), failed)


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("tiles", nargs="*", metavar="ID", help="tiles of the dataset, such as 16 or 2_10")
    parser.add_argument("--weights", nargs="*", type=Path, metavar="FILE",
                        help="a snapshot; several are averaged; without FILE, the newest one of the config's net")  # fmt: skip
    parser.add_argument("--tta", choices=list(tta.LOOKS),
                        help="average several looks at each window: 4 mirrored, 8 mirrored and turned, or 3 sizes")  # fmt: skip
    parser.add_argument("--window", type=commands.whole_number(1), metavar="N",
                        help="windows of NxN pixels; they overlap by as far as the net looks")  # fmt: skip
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="where the maps go")
    parser.add_argument("--images", nargs="+", metavar="FILE",
                        help="label these instead: files, folders, 'patterns*.tif', lists (list.txt), addresses (https://, s3://);"
                             " where the net reads several modalities: irrg=top/ dsm=heights/")  # fmt: skip
    for option, what in (("--confidence", "the probability of each label"), ("--probabilities", "those of all classes")):
        parser.add_argument(option, nargs="?", const="uint8", choices=["uint8", "float32"],
                            help=f"also write {what}: in per cent (uint8, the default) or as float32")  # fmt: skip
    parser.add_argument("--polygons", nargs="?", const="0", type=LeastArea.of, metavar="LEAST",
                        help="also write a GeoPackage of polygons, without those below so many m2 (or 50px)")  # fmt: skip
    parser.add_argument("--cog", action="store_true", help="write cloud optimised GeoTIFFs, with overviews")
    parser.add_argument("--threshold", type=float, metavar="P", help="of two classes, instead of the config's THRESHOLD")
    parser.add_argument("--resample", action="store_true",
                        help="read tiles at the pixel size that the net was trained on; so are their maps")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep the tiles that are finished and label the others")
    parser.add_argument("--engine", choices=["torch", "onnxruntime"],
                        help="what computes (default: onnxruntime for .onnx files of tools.export, else torch)")  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: CUDA where there is one)")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def chosen(settings: Settings, args) -> Settings:
    """The config's settings, less what the command line says otherwise."""
    return settings if args.threshold is None else replace(settings, THRESHOLD=args.threshold)


def load_all(settings: Settings, weights: list[Path], tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, or an ensemble of several, and what it is for; the inputs of several stand one net's after the other's."""
    loaded = [load(settings, path, tile, engine) for path in weights]
    for path, (_, about) in zip(weights, loaded, strict=True):
        check_agreement(settings, about, [Input.from_dict(i) for i in about["inputs"]], path, alone=len(weights) == 1)
    if len(weights) == 1:
        return loaded[0]
    members, abouts = zip(*loaded, strict=True)
    together = {key: ", ".join(str(about[key]) for about in abouts) for key in ("name", "iteration")}
    together["inputs"] = [spec for about in abouts for spec in about["inputs"]]
    return Ensemble(members, [len(about["inputs"]) for about in abouts]), {**abouts[0], **together}


def load(settings: Settings, weights: Path, tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, in the engine that is to compute it, and what it is for."""
    if weights.suffix == ".onnx":
        if engine == "torch":
            raise UserError(f"{weights} is computed by onnxruntime: leave out --engine torch, or give a snapshot.")
        net = onnx_engine.OnnxNet(weights)
        return net, net.about
    net, about = load_torch(settings, weights, tile)
    if engine == "onnxruntime":
        net = onnx_engine.hosted(net, about)
        return net, net.about
    return net, about


def load_torch(settings: Settings, weights: Path, tile: Tile) -> tuple[nn.Module, dict]:
    """The net, and what it is for: a snapshot knows both; weights of Caffe's go into the net that the config names."""
    if not is_caffemodel(weights):
        return snapshots.load_net(weights)
    about = {m: {"bands": found.bands, "dtype": found.dtype} for m, p in tile.paths.items() if (found := raster.inspect(p))}
    for modality in about:
        if settings.normalisation[modality] != "mean" or not settings.MEAN_PIXEL.get(modality):
            raise UserError(f"{weights} does not know which mean to take off: give the numbers in MEAN_PIXEL['{modality}'].")
    inputs = make_inputs(settings.parts, about, settings.MEAN_PIXEL, settings.normalisation, settings.BGR)
    net = nets.build(settings.NET, {i.name: i.channels for i in inputs}, len(settings.label_values), **settings.NET_OPTIONS)
    report = load_caffemodel(net, weights)
    if report.kept:
        raise UserError(
            f"{weights} lacks the layers {listing(report.kept)} of {settings.NET}, which would label at random: give"
            " weights that were trained with this net."
        )
    return net, {"name": settings.NET, "iteration": "of Caffe's", **settings.about(), "inputs": [i.to_dict() for i in inputs]}


def check_agreement(settings: Settings, about: dict, inputs: list[Input], weights: Path, alone: bool = True) -> None:
    """Raise UserError where the config contradicts what the weights were trained for.

    alone: no other weights are used with them. The nets of an ensemble need not have the same inputs, but the tiles must.
    """
    wanted = {name: [m for m, _ in parts] for name, parts in settings.parts.items()}
    trained = {i.name: list(i.modalities) for i in inputs}
    if list(settings.label_values) != about["classes"]:
        raise UserError(
            f"{weights} knows {len(about['classes'])} classes ({', '.join(about['classes'])}), the config's label_values has"
            f" {len(settings.label_values)} ({', '.join(settings.label_values)}): use the config that it was trained with."
        )
    missing = [m for m in modalities_of(inputs) if m not in settings.modalities]
    if not alone and missing:
        raise UserError(f"{weights} reads {listing(missing)}, which the config's INPUTS lack: name what all the nets read.")
    if alone and (wanted != trained or list(wanted) != list(trained)):
        raise UserError(f"{weights} was trained with INPUTS = {trained}, the config says {wanted}: they must agree.")


def check_resampling(resample: bool, about: dict, weights: Path) -> None:
    """Raise UserError where tiles are to be read at the trained pixel size, but that is not known."""
    if resample and not about.get("pixel_size"):
        raise UserError(f"--resample: {weights} does not say which pixel size it was trained on: resample the tiles yourself.")


def dataset_tiles(settings: Settings, words: list[str]) -> list[Tile]:
    """The tiles that the ids name, or all test tiles, with what ground truth there is of them."""
    dataset = Dataset(settings.DATASET_DIR, settings.folders)
    known = [t for split in SPLITS for t in getattr(settings, f"{split}_ids")]
    ids = [tile_id(word, known) for word in words] or list(settings.test_ids)
    seen = [tile_name(t) for t in ids if t in settings.train_ids]
    if seen:
        print(f"note: {', '.join(seen)} was trained on, so its scores say little about other places.")
    kinds = ["labels", "labels_eroded"]
    return [
        Tile(
            tile_name(t),
            {m: dataset.path(m, t) for m in settings.modalities},
            {kind: dataset.path(kind, t) for kind in kinds if dataset.has(kind, t)},
        )
        for t in ids
    ]


def make_labeller(settings: Settings, net: nn.Module, inputs: list[Input], where: device.Device, args, tiles) -> Labeller:
    """The net, ready to label tiles as the config and the command line say."""
    net = where.place(net.fuse()).eval()  # batch norm folded into the convolutions: the same labels, sooner
    size, step = large_windows(net, inputs, where, args.window, tiles) if args.window else windows(settings)
    check_size(*size, net.multiple)
    for part in net.modules():
        if isinstance(part, onnx_engine.OnnxNet):
            part.check_window(size)
    if args.tta:
        tta.check(args.tta, size, net.multiple)
        net = tta.Augmented(net, args.tta)
    batch, threshold = settings.TEST_BATCH_SIZE, settings.THRESHOLD
    return Labeller(net, inputs, size, step, batch, where, threshold, settings.BLEND, settings.MEMORY_MB)


def windows(settings: Settings) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and step of the sliding window, in pixels, as the config says."""
    size = tuple(settings.test_patch_size)
    return size, step_in_pixels(settings.test_step_size, size)


def large_windows(net: nn.Module, inputs: list[Input], where: device.Device, window: int, tiles: list[Tile]):
    """The same for windows of another size, but none larger than the tiles: they overlap by as far as the net looks."""
    if any(isinstance(part, onnx_engine.OnnxNet) for part in net.modules()):
        raise UserError("--window measures by gradients how far a net looks, which onnxruntime has not: set test_patch_size.")
    check_size(window, window, net.multiple)
    largest = max(max(about.height, about.width) for about in (raster.inspect(tile.first) for tile in tiles))
    window = min(window, -(-largest // net.multiple) * net.multiple)
    radius = effective_radius(net, [spec.channels for spec in inputs], where)
    step = step_for(window, radius, net.multiple)
    print(f"windows of {window}x{window} pixels, {step} apart: the net looks about {radius} pixels far.")
    return (window, window), (step, step)


def details(weights: list[Path], about: dict, labeller: Labeller, choice: Choice, args) -> dict[str, Any]:
    """All that the maps depend on beside the tiles, for details.json."""
    return {
        "weights": weights if len(weights) > 1 else weights[0], "weights_sha256": [fingerprint(path) for path in weights],
        "net": about["name"], "iteration": about["iteration"], "tta": args.tta,
        "window": labeller.size, "step": labeller.step, "blend": labeller.blend, "threshold": labeller.threshold,
        "resampled_to": about.get("pixel_size") if args.resample else None, "confidence": choice.confidence,
        "probabilities": choice.probabilities, "polygons": choice.polygons and str(choice.polygons), "cog": choice.cog,
    }  # fmt: skip


def label(
    labeller: Labeller, tiles: list[Tile], palette: Palette, choice: Choice, results: Results, size: float | None
) -> dict[str, str]:
    """Label the tiles; while one is labelled, the files of the one before are completed. What is wrong comes back, by tile.

    size: of the pixels (metres) at which the tiles are to be read, None for their own.
    """
    failed: dict[str, str] = {}
    finishing: list[Future] = []
    pixels = sum(about.height * about.width for about in (raster.inspect(tile.first) for tile in tiles))
    with ThreadPoolExecutor(1) as other, tqdm(desc="labelling", total=pixels, unit="px", unit_scale=True) as bar:
        for tile in tiles:
            try:
                outputs = label_tile(labeller, tile, palette, choice, results.folder, size, bar)
            except DiskFullError:
                raise
            except UserError as error:
                failed[tile.name] = str(error)
                continue
            finishing.append(other.submit(lambda tile, outputs: results.record(tile, outputs.finish()), tile, outputs))
            if len(finishing) > 1:
                finishing.pop(0).result()
        for last in finishing:
            last.result()
    return failed


def label_tile(labeller: Labeller, tile: Tile, palette: Palette, choice: Choice, folder: Path, size: float | None, bar: tqdm):
    """The outputs of one tile, which are to be finished."""
    tile = resampled.at_pixel_size(tile, size) if resampled.differs(tile, size) else tile
    tags = {"MADE_BY": "orthonets inference.py", "CLASSES": json.dumps(dict(enumerate(palette.names)))}
    outputs = TileOutputs(tile, palette, choice, folder, tags)
    try:
        with closing(labeller.bands(tile.paths)) as bands:
            for band in bands:
                outputs.add(band)
                bar.update(band.labels.size)
    except BaseException:
        outputs.abandon()
        raise
    return outputs


def print_notes(todo: list[Tile], failed: dict[str, str], count: int, trained: float | None, resample: bool) -> None:
    """What a user should know before the work begins."""
    about = {tile.name: raster.inspect(tile.first) for tile in todo if tile.name not in failed}
    if count > len(todo):
        print(f"{count - len(todo)} of {count} tiles are finished already.")
    nowhere = [name for name, found in about.items() if found.crs is None]
    if nowhere:
        print(f"warning: {listing(nowhere)} has no CRS, so its maps have none either.")
    odd = {tile.name: size for tile in todo if tile.name in about and (size := resampled.differs(tile, trained))}
    if odd:
        sizes = listing((f"{name} ({size:.3g})" for name, size in odd.items()), 4)
        remedy = "they are read at that size" if resample else "--resample reads them at that size"
        print(f"warning: the net was trained on pixels of {trained:.3g} m, these tiles have other ones: {sizes}; {remedy}.")


def print_results(statistics: dict, result: dict, ignored_names: list[str]) -> None:
    """Classes and scores over all tiles, as tables."""
    print(f"\n{len(statistics['tiles'])} tiles:\n{class_statistics.as_text(statistics['all']['classes'])}")
    titles = {"labels": "against the ground truth", "labels_eroded": "against the eroded ground truth"}
    for kind, found in result.items():
        print(f"\n{len(found['tiles'])} tiles {titles[kind]}:\n{scores.as_text(found['all'], ignored_names)}")


def print_end(results: Results, count: int, failed: dict[str, str]) -> None:
    """Where the maps are. Raises PartlyFailedError that names the tiles which could not be labelled."""
    print(f"\nmaps of {count - len(failed)} tiles in {results.folder}; report: {results.folder / REPORT}")
    if failed:
        raise PartlyFailedError(
            f"{len(failed)} of {count} tiles could not be labelled: {' '.join(list(failed.values())[:20])} Mend them and add"
            " --resume to label these too."
        )


if __name__ == "__main__":
    run(main)
