"""Labels tiles by sliding windows: label maps, colour maps, pictures, and scores wherever there is ground truth.

    python inference.py 32 34                                # tiles of the config, newest snapshot of its net
    python inference.py 16 32 --weights net_iter_40000.safetensors --dir results/
    python inference.py --images flight/*.tif --dir maps/    # any files or folders, no ground truth needed

Without ids or --images, all test tiles are labelled.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

import nets
from nets.net import check_size
from tools import commands, device, pictures, raster, scores, snapshots
from tools.caffe import is_caffemodel, load_caffemodel
from tools.dataset import Dataset, tile_id, tile_name
from tools.errors import UserError, listing, run
from tools.folders import refuse_existing, whole_folder, write_details, write_json
from tools.inputs import Input, make_inputs
from tools.palette import Palette
from tools.settings import SPLITS, Settings, read_settings
from tools.tiles import NO_DATA, Labeller, TileReader
from tools.windows import Window

PICTURE_SIZE = 1024  # pixels, the longer side of a tile in the pictures


@dataclass(frozen=True)
class Tile:
    """One tile to label: its name, the file of each modality, and the ground truth by kind ("labels", "labels_eroded")."""

    name: str
    paths: dict[str, Path]
    truths: dict[str, Path]

    @property
    def first(self) -> Path:
        """The file of the first modality: the map takes its size and its place on Earth."""
        return next(iter(self.paths.values()))


def main():
    args = arguments()
    settings = read_settings(args.config)
    weights = args.weights or snapshots.newest(settings.snapshots)
    tiles = given_images(args.images, settings.modalities) if args.images else dataset_tiles(settings, args.tiles)
    net, about = load(settings, weights, tiles[0])
    inputs = [Input.from_dict(i) for i in about["inputs"]]
    check_agreement(settings, about, inputs, weights)
    palette = Palette(about["classes"], {int(k): tuple(v) for k, v in about["palette"].items()})
    check_tiles(tiles, palette, inputs)
    out = args.dir or settings.folder("results")
    refuse_existing(out, args.overwrite)
    where = device.choose(args.device)
    print(f"{weights} ({about['name']}, iteration {about['iteration']}) on {where}")
    labeller = make_labeller(settings, net, inputs, where)
    with whole_folder(out, args.overwrite) as folder:
        matrices = [label_tile(labeller, tile, palette, folder) for tile in tqdm(tiles, "labelling", unit="tile")]
        result = score(tiles, matrices, palette, about["ignored"])
        if result:
            write_json(folder / "scores.json", result)
        write_details(folder, **{"made by": "inference.py"}, weights=weights, window=settings.test_patch_size,
                      step=settings.test_step_size, threshold=settings.THRESHOLD,
                      tiles={t.name: t.paths for t in tiles})  # fmt: skip
    print_scores(result, [palette.names[i] for i in about["ignored"]])
    print(f"maps of {len(tiles)} tiles in {out}; picture: {out / (tiles[0].name + '.png')}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("tiles", nargs="*", metavar="ID", help="tiles of the dataset, such as 16 or 2_10")
    parser.add_argument("--weights", nargs="?", type=Path, metavar="FILE",
                        help="a snapshot; without FILE, the newest one of the config's net")  # fmt: skip
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="where the maps go")
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="label these files or folders instead")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: CUDA where there is one)")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def load(settings: Settings, weights: Path, tile: Tile) -> tuple[nn.Module, dict]:
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


def check_agreement(settings: Settings, about: dict, inputs: list[Input], weights: Path) -> None:
    """Raise UserError where the config contradicts what the weights were trained for."""
    wanted = {name: [m for m, _ in parts] for name, parts in settings.parts.items()}
    trained = {i.name: list(i.modalities) for i in inputs}
    if list(settings.label_values) != about["classes"]:
        raise UserError(
            f"{weights} knows {len(about['classes'])} classes ({', '.join(about['classes'])}), the config's label_values has"
            f" {len(settings.label_values)} ({', '.join(settings.label_values)}): use the config that it was trained with."
        )
    if wanted != trained or list(wanted) != list(trained):
        raise UserError(f"{weights} was trained with INPUTS = {trained}, the config says {wanted}: they must agree.")


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


def given_images(paths: list[Path], wanted: list[str]) -> list[Tile]:
    """A tile for each file that the paths name."""
    if len(wanted) > 1:
        raise UserError(f"the net reads {' and '.join(wanted)} of each tile, --images gives one file: use tile ids instead.")
    tiles = [Tile(file.stem, {wanted[0]: file}, {}) for file in raster.find(paths)]
    names = [t.name for t in tiles]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(f"several images are called {', '.join(twice)}: label them in two runs.")
    return tiles


def check_tiles(tiles: list[Tile], palette: Palette, inputs: list[Input]) -> None:
    """Raise UserError, before any work, that names all files that cannot be read to their end or do not fit."""
    faults = [raster.read_fault(path) for tile in tiles for path in tile.paths.values()]
    for tile in tiles:
        for path in tile.truths.values():
            faults.append(raster.label_fault(path) or raster.read_fault(path, palette.check_labels) or size_fault(path, tile))
    if any(faults):
        raise UserError(" ".join(fault for fault in faults if fault))
    for tile in tiles:
        with TileReader(inputs, tile.paths):
            pass  # its modalities have one size, and the bands that the net was trained on


def size_fault(truth: Path, tile: Tile) -> str | None:
    """What to say of ground truth that is not as large as its tile."""
    sizes = [f"{about.height}x{about.width}" for about in (raster.inspect(truth), raster.inspect(tile.first))]
    return None if sizes[0] == sizes[1] else f"{truth} has {sizes[0]} pixels, {tile.first} has {sizes[1]}: they must agree."


def make_labeller(settings: Settings, net: nn.Module, inputs: list[Input], where: device.Device) -> Labeller:
    """The net, ready to label tiles as the config says."""
    size, step = tuple(settings.test_patch_size), tuple(settings.test_step_size)
    check_size(*size, net.multiple)
    net = net.fuse()  # batch norm folded into the convolutions: the same labels, sooner
    net, batch = where.place(net).eval(), settings.TEST_BATCH_SIZE
    return Labeller(net, inputs, size, step, batch, where, settings.THRESHOLD, settings.BLEND)


def label_tile(labeller: Labeller, tile: Tile, palette: Palette, folder: Path) -> dict[str, np.ndarray]:
    """Write the maps of one tile, row by row; its confusion matrices come back, by kind of ground truth."""
    about = raster.inspect(tile.first)
    labels_file, colours_file = folder / f"{tile.name}_labels.tif", folder / f"{tile.name}_colours.tif"
    size = (about.height, about.width)
    matrices = {kind: np.zeros((palette.classes, palette.classes), np.int64) for kind in tile.truths}
    with contextlib.ExitStack() as stack:
        truths = {kind: stack.enter_context(raster.open_raster(path)) for kind, path in tile.truths.items()}
        kinds = {"crs": about.crs, "transform": about.transform}
        labels = stack.enter_context(
            raster.create(labels_file, (1, *size), np.uint8, **kinds, nodata=palette.no_label, colours=palette.colours)
        )
        colours = stack.enter_context(raster.create(colours_file, (3, *size), np.uint8, **kinds))
        for band in labeller.bands(tile.paths):
            shown = np.where(band.labels == NO_DATA, palette.no_label, band.labels).astype(np.uint8)
            raster.write_rows(labels, band.row, shown[None])
            raster.write_rows(colours, band.row, palette.to_colours(shown).transpose(2, 0, 1))
            for kind, file in truths.items():
                truth = raster.read_window(file, Window(band.row, 0, *band.labels.shape))[0]
                matrices[kind] += scores.confusion(truth, band.labels, palette.classes)
    draw(tile, labels_file, palette, folder / f"{tile.name}.png")
    return matrices


def draw(tile: Tile, labels_file: Path, palette: Palette, path: Path) -> None:
    """Image, truth, prediction and errors side by side, reduced where the tile is large."""
    image = raster.read_small(tile.first, PICTURE_SIZE, 3)
    truth = raster.read_small(tile.truths["labels"], PICTURE_SIZE)[0] if "labels" in tile.truths else None
    pictures.comparison(path, image, truth, raster.read_small(labels_file, PICTURE_SIZE)[0], palette, tile.name)


def score(tiles: list[Tile], matrices: list[dict], palette: Palette, ignored: list[int]) -> dict:
    """Scores by kind of ground truth: of all tiles together, and of each."""
    result = {}
    for kind in ("labels", "labels_eroded"):
        found = {tile.name: m[kind] for tile, m in zip(tiles, matrices, strict=True) if kind in m}
        if found:
            reports = {name: scores.report(m, palette.names, ignored) for name, m in found.items()}
            result[kind] = {"all": scores.report(sum(found.values()), palette.names, ignored), "tiles": reports}
    return result


def print_scores(result: dict, ignored_names: list[str]) -> None:
    """The scores over all tiles, as tables."""
    titles = {"labels": "against the ground truth", "labels_eroded": "against the eroded ground truth"}
    for kind, found in result.items():
        print(f"\n{len(found['tiles'])} tiles {titles[kind]}:\n{scores.as_text(found['all'], ignored_names)}\n")


if __name__ == "__main__":
    run(main)
