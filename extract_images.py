"""Makes patches from the config's tiles by a sliding window: one folder per modality and split (irrg_train/, labels_val/ ...).

    python extract_images.py
    python extract_images.py --overwrite --config my_config.py
    python extract_images.py --grid cells.gpkg --shares 0.7 0.15 0.15

Training and validation tiles are cut patch_size by step_size, test tiles without overlap. Training patches are also turned
(ROTATIONS) and mirrored (FLIPS). Where a modality has no data, there is no label, and patches of whole numbers hold the mean of
the training tiles, those of floats NaN. The folder appears under its name when all patches are in it, with a details.json.

With --grid there is a patch for each cell of a vector file instead (polygons, of which the bounding rectangle counts): it is
resampled to patch_size, images bilinear and labels by nearest neighbour, with a JSON file for each patch in metadata_SPLIT/.
Cells that no tile holds wholly are left out and counted.
"""

import tools  # noqa: F401 (first of all: Ctrl-C while the others load is one word)

# isort: split
import argparse
import contextlib
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.base.processes import pool
from tools.data import grid, sources, splits
from tools.data.dataset import SPLITS, Dataset, tile_name
from tools.data.patches import Cutting, patch_suffix, write_patch
from tools.data.statistics import Moments, by_modality, measure
from tools.geo import pixel_size, raster
from tools.geo.windows import Window
from tools.settings import Settings, read_settings

MADE_BY = "extract_images.py"


def main():
    args = arguments()
    cut_patches(read_settings(args.config, args.set), args)


def cut_patches(settings: Settings, args: argparse.Namespace) -> None:
    """Make the patches of all tiles, as the config and the command line (what `arguments` gives) say."""
    out = settings.data.folder("patches")
    refuse_existing(out, args.overwrite, MADE_BY, inputs(settings, args))
    cells = grid.read_grid(args.grid, args.shares, args.split_attribute, settings.data.SEED) if args.grid else None
    dataset = settings.data.dataset
    tiles = {split: settings.data.ids(split) for split in SPLITS}
    palette = settings.classes.colours
    about = dataset.check(settings.data.with_labels, settings.data.all_ids, palette)
    cuttings = {split: settings.patches.cutting(split) for split in SPLITS}
    for line in dataset.notes(palette):
        print(line)
    plan = cells.plan(tiles, grid.tile_places(dataset, settings.data.with_labels, about)) if cells else None
    if plan:
        print(plan.notes())
        counts = plan.patches_by_split(cuttings)
    else:
        counts = {s: sum(cuttings[s].count(about[t].height, about[t].width) for t in tiles[s]) for s in SPLITS}
    if not plan and settings.data.GROUPS is None:
        for note in splits.warnings(tiles, {t: dataset.path(settings.data.modalities[0], t) for t in about}):
            print(f"note: {note}")
    say_size(
        settings, {m: raster.inspect(dataset.path(m, settings.data.train_ids[0])) for m in settings.data.with_labels}, counts
    )
    with whole_folder(out, args.overwrite, MADE_BY) as folder:
        moments = extract(settings, dataset, tiles, plan, cuttings, folder)
        if plan:
            grid.write_metadata(folder, plan, cuttings, dataset, settings.data.with_labels)
        write_details(folder, **details(settings, dataset, tiles, counts, moments, plan))
    print(f"{', '.join(f'{n} {split}' for split, n in counts.items())} patches in {out}")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    parser.add_argument("--grid", type=Path, metavar="FILE", help="cut the cells of this .shp, .gpkg or .geojson")
    parser.add_argument("--shares", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"),
                        help="draw the cells' splits so, by SEED (default: a cell goes where its tile goes)")  # fmt: skip
    parser.add_argument("--split-attribute", metavar="NAME", help="the cells' attribute that says train, val or test")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    args = parser.parse_args(argv)
    if not args.grid and (args.shares or args.split_attribute):
        raise UserError("--shares and --split-attribute share out the cells of a grid: name it with --grid.")
    return args


def inputs(settings: Settings, args) -> list[Path]:
    """The files that are read."""
    dataset, tiles = settings.data.dataset, settings.data.all_ids
    files = [dataset.path(m, tile) for m in settings.data.with_labels for tile in tiles]
    return [*files, Path(args.config), *([args.grid] if args.grid else [])]


def say_size(settings: Settings, about: dict[str, raster.Raster], counts: dict[str, int]) -> None:
    """Print how much disk the patches will take at most, before they are cut; about: a tile's file of each modality."""
    height, width = settings.patches.patch_size
    each = sum(file.bands * np.dtype(file.dtype).itemsize for file in about.values()) * height * width
    needed, home = each * sum(counts.values()), existing(settings.data.folder("patches"))
    free = shutil.disk_usage(home).free
    print(f"{sum(counts.values()):,} patches: up to {needed / 1e9:.2f} GB, and as much again for the databases")
    if 2 * needed > free:
        print(f"warning: {home} has {free / 1e9:.2f} GB free; a larger step_size, fewer ROTATIONS or FLIPS make fewer patches.")


def existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(place for place in [folder, *folder.resolve().parents] if place.exists())


def extract(settings: Settings, dataset: Dataset, tiles: dict, plan: grid.Plan | None, cuttings: dict, folder: Path):
    """Cut all tiles, or the cells of a grid, on all cores; the moments of the training tiles by modality come back.

    They are measured first: patches hold the mean where a tile has no data.
    """
    no_label, memory = settings.classes.colours.no_label, settings.patches.tile_memory
    places = plan.places() if plan else [(split, t) for split in SPLITS for t in tiles[split]]
    jobs = [(m, *place, []) for place in places for m in settings.data.modalities]
    jobs += [("labels", *place, settings.data.modalities) for place in places]
    for modality, split, *_ in jobs:
        (folder / f"{modality}_{split}").mkdir(exist_ok=True)
    trained = [(m, tile) for split, tile in places if split == "train" for m in settings.data.modalities]
    measured_how = partial(measure_tile, dataset, memory)
    cut = partial(cut_tile, dataset, cuttings, no_label, memory, folder)
    if plan:
        measured_how = partial(grid.measure_tile, dataset, plan, cuttings["train"].size)
        cut = partial(grid.cut_tile, dataset, plan, cuttings, no_label, folder)
    with pool() as helpers:
        measured = tqdm(helpers.map(measured_how, trained), "measuring", len(trained), unit="tile", leave=False)
        moments = by_modality(zip((modality for modality, _ in trained), measured, strict=True))
        means = {m: moments[m].mean for m in settings.data.modalities}
        list(tqdm(helpers.map(partial(cut, means), jobs), "extracting", len(jobs), unit="tile"))
    return moments


def measure_tile(dataset: Dataset, memory: int, job: tuple) -> Moments:
    """The moments of one modality of one training tile."""
    modality, tile = job
    return measure(dataset.seen(modality, tile), memory, modality in dataset.any_band)


def cut_tile(
    dataset: Dataset, cuttings: dict, no_label: int, memory: int, folder: Path, means: dict[str, list[float]], job: tuple
) -> None:
    """Write the patches of one modality of one tile; means: by modality, what they hold where there is no data.

    A tile that takes more than `memory` bytes is read in strips. Where another modality has no data, there is no label.
    """
    modality, split, tile, others = job
    home = folder / f"{modality}_{split}"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(dataset.open(modality, tile))
        others = [stack.enter_context(dataset.open(m, tile)) for m in others]
        others = [other for other in others if raster.may_lack_data(other)]
        suffix = patch_suffix(file.count, file.dtypes[0])
        for strip in strips_of(file, cuttings[split], memory):
            if modality == "labels":
                pixels = raster.read_labels_window(file, strip, no_label)[None]
            else:
                pixels = raster.fill_gaps(*raster.read_with_gaps(file, strip), means[modality])
            for other in others:
                pixels[0][~raster.read_valid(other, strip)] = no_label
            for name, patch in cuttings[split].patches(pixels, strip.row):
                write_patch(home / f"{tile_name(tile)}_{name}{suffix}", patch)


def strips_of(file: rasterio.DatasetReader, cutting: Cutting, memory: int) -> list[Window]:
    """An open tile in strips of no more than so many bytes."""
    return cutting.strips(*file.shape, memory // (file.count * np.dtype(file.dtypes[0]).itemsize))


def details(settings, dataset: Dataset, tiles: dict, counts: dict, moments: dict[str, Moments], plan: grid.Plan | None) -> dict:
    """What create_db.py and the curious need to know of the patches."""
    first = {m: raster.inspect(dataset.path(m, tiles["train"][0])) for m in settings.data.modalities}
    return {
        "made by": MADE_BY,
        "dataset": settings.data.DATASET,
        "modalities": {
            m: {"bands": r.bands, "dtype": r.dtype, "any_band": m in dataset.any_band, **moments[m].to_dict()}
            for m, r in first.items()
        },
        "patch_size": settings.patches.patch_size,
        "pixel_size": None if plan else training_pixel_size(dataset, settings.data.modalities[0], tiles["train"]),
        "step_size": None if plan else settings.patches.step,
        "rotations": settings.patches.rotations,
        "flips": settings.patches.flips,
        "classes": settings.classes.label_values,
        "palette": settings.classes.palette,
        "splits": {s: {"tiles": list(map(tile_name, tiles[s])), "patches": counts[s]} for s in SPLITS},
        "files": {m: settings.data.folders[m] for m in settings.data.with_labels},
        "grid": plan and plan.to_dict(),
        "sources": sources.record(settings.data, settings.classes),
    }


def training_pixel_size(dataset: Dataset, modality: str, tiles: list) -> float | None:
    """The middle one of the tiles' pixel sizes in metres (their own unit where they have no CRS), None where none says it."""
    sizes = [pixel_size.pixel_size(raster.inspect(dataset.seen(modality, tile))) for tile in tiles]
    known = sorted(size for size in sizes if size)
    return known[len(known) // 2] if known else None


if __name__ == "__main__":
    run(main)
