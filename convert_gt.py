"""Makes label arrays (one byte per pixel, the class number) from ground truth of any kind, and colours from labels.

    python convert_gt.py data/demo/gts_for_participants/*.tif --from-color --out data/demo/gts_numpy/
    python convert_gt.py data/openearthmap/*/labels/ --from-index --out data/openearthmap/gts_numpy/
    python convert_gt.py city.gpkg --from-vector --like data/city/images/*.tif --attribute class --out data/city/gts_numpy/
    python convert_gt.py data/demo/gts_numpy/*.tif --to-color --out data/demo/gts_colour/

Classes and colours are those of the config's palette, or of SOURCE_CLASSES where it maps others by CLASS_MAPPING. Files keep
their names and their georeference. Without files, --from-vector draws the polygons of the config's folders["labels"].
"""

import tools  # noqa: F401 (first of all: Ctrl-C while the others load is one word)

# isort: split
import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.base.processes import pool
from tools.data.splits import listed_masks
from tools.geo import raster, vectors
from tools.geo.file_list import find_local
from tools.labels import masks, vector_labels
from tools.labels.class_mapping import Legend, label_of
from tools.labels.masks import Colours, NoClassError, Numbers, Tally, file_name
from tools.labels.palette import Palette, colour_of
from tools.settings import Settings, read_settings


@dataclass(frozen=True)
class Job:
    """One file to write: its name, from what, and the function (source, target) that does it."""

    name: str
    source: Path
    convert: Callable[[Path, Path], Tally | None]


def main():
    args = arguments()
    convert_files(read_settings(args.config, args.set), args)


def convert_files(settings: Settings, args: argparse.Namespace) -> None:
    """Make labels or colours, as the config and the command line (what `arguments` gives) say."""
    out, jobs = plan(args, settings)
    with whole_folder(out, args.overwrite, made_by(args)) as folder:
        tallies = convert_all(jobs, folder)
        check_foreground(args, tallies)
        check_known(args, settings, tallies)
        what = "colours" if args.to_color else "labels"
        write_details(folder, **details(what, args, settings, jobs, tallies))
    print(f"{len(jobs)} files of {what} in {out}")
    for line in notes_on(args, settings, tallies):
        print(line)
    if unscored := sum((tally.unknown for tally in tallies if tally), Counter()):
        print(note(args, unscored, sum(tally.pixels for tally in tallies)))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    add = parser.add_argument
    add("files", nargs="*", type=Path, help="masks, folders of them, or a CSV list of them; for --from-vector a vector file")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from-color", action="store_true", help="colours to labels")
    way.add_argument("--from-index", action="store_true", help="class numbers to labels")
    way.add_argument("--from-vector", action="store_true", help="polygons to labels")
    way.add_argument("--to-color", action="store_true", help="labels to colours")
    add("--out", type=Path, metavar="FOLDER", help="where the converted files go")
    add("--unknown", choices=["error", "ignore"], help="what no class has is an error (default), or not scored")
    add("--threshold", nargs="?", type=byte, const=128, metavar="N",
        help="colours: bands become 0 below N (default: 128), else 255, before they are matched (DeepGlobe)")  # fmt: skip
    add("--nearest", type=commands.number(0), metavar="DISTANCE",
        help="colours take the closest class colour within this distance in R, G, B (masks that are JPEG)")  # fmt: skip
    add("--foreground", type=sign, metavar="SIGN",
        help="two classes: this colour (R,G,B) or number is the second, all else the first")  # fmt: skip
    add("--like", nargs="+", type=Path, metavar="IMAGE", help="polygons: the images on whose grids they are drawn")
    add("--attribute", metavar="NAME", help="polygons: the attribute that names the class (default: LABEL_ATTRIBUTE)")
    add("--class", dest="of_class", metavar="NAME", help="polygons: the class of all of them")
    add("--background", metavar="NAME",
        help="polygons: the class of pixels that none covers (default: LABEL_BACKGROUND, else not scored)")  # fmt: skip
    add("--area", metavar="AREA",
        help="polygons: where that holds, hull or a vector file, the rest is not scored (default: LABEL_AREA)")  # fmt: skip
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return check_arguments(parser, parser.parse_args(argv))


def byte(word: str) -> int:
    """A type for argparse: 1 to 255."""
    if not word.isdigit() or not 1 <= int(word) <= 255:
        raise argparse.ArgumentTypeError(f"{word!r} must be a number from 1 to 255; name the files before it")
    return int(word)


def sign(word: str) -> tuple | int:
    """A type for argparse: a colour R,G,B or a number."""
    parts = word.split(",")
    numbers = [int(part) for part in parts if part.strip().isdigit()]
    if len(numbers) != len(parts) or len(parts) not in (1, 3) or max(numbers) > (255 if len(parts) == 3 else 65535):
        raise argparse.ArgumentTypeError(f"{word!r} must be a colour such as 255,255,255 or a number such as 1")
    return tuple(numbers) if len(parts) == 3 else numbers[0]


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, once none is there that its way of converting does not read."""
    ways = {
        "--from-color": ["unknown", "threshold", "nearest", "foreground"], "--from-index": ["unknown", "foreground"],
        "--from-vector": ["unknown", "like", "attribute", "of_class", "background", "area"], "--to-color": [],
    }  # fmt: skip
    way = next(way for way in ways if getattr(args, way[2:].replace("-", "_")))
    for option in {option for options in ways.values() for option in options} - set(ways[way]):
        if getattr(args, option) is not None:
            parser.error(f"--{'class' if option == 'of_class' else option} does not go with {way}")
    if args.foreground is not None and args.unknown:
        parser.error(
            f"--unknown {args.unknown} does not go with --foreground, which makes all else the first class: leave it out, or"
            " name both classes in SOURCE_CLASSES and leave out --foreground"
        )
    args.unknown = args.unknown or "error"
    if not args.from_vector and not (args.files and args.out):
        parser.error("files and --out are needed")
    if args.from_vector and args.files and not (args.like and args.out and len(args.files) == 1):
        parser.error("--from-vector takes one vector file, --like and --out; or none of them, to do what the config says")
    return args


# ------------------------------------------------------------------------------------------------------- what is to be done


def plan(args, settings: Settings) -> tuple[Path, list[Job]]:
    """Where the files go, and the jobs that make them."""
    if args.from_vector:
        out, jobs = given_polygons(args, settings) if args.files else polygons_of_the_config(args, settings)
    else:
        legend = settings.classes.legend
        convert = partial(to_colours, legend.palette) if args.to_color else masks_converter(args, legend)
        files = find_local([f for file in args.files for f in (listed_masks(file) if file.suffix == ".csv" else [file])])
        out, jobs = args.out, [Job(file_name(file), file, convert) for file in files]
    given = [*args.files, *(args.like or []), *(job.source for job in jobs), args.config]
    refuse_existing(out, args.overwrite, made_by(args), given)
    twice = listing(sorted(name for name, count in Counter(job.name for job in jobs).items() if count > 1))
    if twice:
        raise UserError(f"several of the files would be written as {twice}: convert them in two runs.")
    return out, jobs


def masks_converter(args, legend: Legend) -> Callable[[Path, Path], Tally]:
    """The function that makes labels of one mask."""
    palette = legend.palette
    others = label_of_others(args, palette)
    labels = legend.colours if args.from_color else legend.numbers
    if args.foreground is not None:
        if isinstance(args.foreground, int) == args.from_color:
            raise UserError("--foreground is a colour such as 255,255,255 with --from-color, a number with --from-index.")
        labels = {args.foreground: 1}
    if not labels:
        sort = "colours, for --from-color" if args.from_color else "numbers, for --from-index"
        raise UserError(f"SOURCE_CLASSES does not give the classes of the ground truth {sort}: write them there.")
    reader = Colours(labels, args.threshold, args.nearest) if args.from_color else Numbers(labels)
    return partial(masks.convert, reader, palette, others)


def label_of_others(args, palette: Palette) -> int | None:
    """The label of what no class has; None where that is an error."""
    if args.foreground is not None:
        if palette.classes != 2:
            raise UserError(f"--foreground is for two classes, label_values has {palette.classes}.")
        return 0
    if args.unknown == "error":
        return None
    if palette.unscored is None:
        raise UserError(
            "what no class has cannot be ignored: the palette has no label for pixels that are not scored; add"
            f" {palette.classes}."
        )
    return palette.unscored


def given_polygons(args, settings: Settings) -> tuple[Path, list[Job]]:
    """One vector file on the grids of images."""
    images = find_local(args.like)
    return args.out, polygon_jobs(args, settings, args.files[0], {image: file_name(image) for image in images})


def polygons_of_the_config(args, settings: Settings) -> tuple[Path, list[Job]]:
    """The polygons that are the config's labels, on the grid of each tile's first modality."""
    dataset = settings.data.dataset
    if not dataset.is_vector("labels"):
        given = settings.data.folders["labels"]
        raise UserError(f"folders['labels'] = {given!r} is no vector file: name one, with --like and --out.")
    tiles = settings.data.all_ids
    images: dict[Path, dict[Path, str]] = {}
    for tile in tiles:
        image = dataset.path(settings.data.modalities[0], tile)
        images.setdefault(dataset.given("labels", tile), {})[image] = dataset.path("labels", tile).name
    jobs = [job for file, names in images.items() for job in polygon_jobs(args, settings, file, names)]
    return args.out or dataset.path("labels", tiles[0]).parent, jobs


def polygon_jobs(args, settings: Settings, file: Path, names: dict[Path, str]) -> list[Job]:
    """The jobs that draw one vector file. names: of the files to write, by image."""
    legend, background = settings.classes.legend, args.background or settings.classes.LABEL_BACKGROUND
    uncovered = legend.palette.no_label if background is None else label_of(background, legend)
    attribute, area = args.attribute or settings.classes.LABEL_ATTRIBUTE, args.area or settings.classes.LABEL_AREA
    if area and background is None:
        raise UserError(f"the area {area} is where the background is scored: name its class, --background or LABEL_BACKGROUND.")
    polygons = vector_labels.read(file, legend, attribute, args.of_class, args.unknown).within(area)
    found = vector_labels.placed(polygons, names)
    moved = {f"{vectors.name(polygons.crs)} to {vectors.name(p.crs)}" for p in found.values() if p.crs != polygons.crs}
    if moved:
        print(f"{file}: reprojected from {listing(sorted(moved))}")
    outside = legend.palette.no_label if area else uncovered
    draw = partial(vector_labels.draw, uncovered=uncovered, outside=outside, colours=legend.palette.colours)
    return [Job(names[image], image, partial(draw, found[image])) for image in names]


# ------------------------------------------------------------------------------------------------------------------ doing it


def convert_all(jobs: list[Job], folder: Path) -> list[Tally | None]:
    """Do all jobs, on all cores. Raises UserError that names all that went wrong, what is of no class in one sentence."""
    with pool() as helpers:
        results = list(tqdm(helpers.map(partial(outcome, folder), jobs), "converting", len(jobs)))
    faults = [result for result in results if isinstance(result, str)]
    strange = {job.source: result for job, result in zip(jobs, results, strict=True) if isinstance(result, NoClassError)}
    if strange:
        faults.insert(0, f"{listing(strange, 3)}: {reduce(add, strange.values())}")
    if faults:
        raise UserError(" ".join(faults[:3]) + (f" (+{len(faults) - 3} more files)" if len(faults) > 3 else ""))
    return results


def outcome(folder: Path, job: Job) -> Tally | NoClassError | str | None:
    """Do one job; a mistake comes back as a sentence, so that all of them can be named together."""
    try:
        return job.convert(job.source, folder / job.name)
    except NoClassError as error:
        return error
    except UserError as error:
        return str(error) if str(error).startswith(str(job.source)) else f"{job.source}: {error}"


def to_colours(palette: Palette, source: Path, target: Path) -> None:
    """Write the colours of one label array, strip by strip."""
    if fault := raster.label_fault(source):
        raise UserError(fault)
    place = raster.inspect(source).place
    with raster.open_numbers(source) as file, raster.create(target, (3, *file.shape), np.uint8, **place) as out:
        for strip in masks.strips(*file.shape):
            colours = palette.to_colours(raster.read_labels_window(file, strip, palette.no_label))
            raster.write_rows(out, strip.row, colours.transpose(2, 0, 1))


# ----------------------------------------------------------------------------------------------------------- saying what came


def check_foreground(args, tallies: list[Tally]) -> None:
    """Raise UserError where the foreground that is asked for is nowhere."""
    if args.foreground is not None and not any(tally.by_label[1] for tally in tallies):
        there = sum((tally.unknown for tally in tallies), Counter()).most_common(3)
        names = ", ".join(f"{colour_of(key) if args.from_color else key} on {count:,} pixels" for key, count in there)
        raise UserError(f"no pixel has the foreground {args.foreground}: the masks have {names}; correct --foreground.")


def check_known(args, settings: Settings, tallies: list[Tally | None]) -> None:
    """Raise UserError where --unknown ignore would leave out most of the ground truth: the classes are another dataset's."""
    unknown = sum((tally.unknown for tally in tallies if tally), Counter())
    pixels = sum(tally.pixels for tally in tallies if tally)
    if args.foreground is None and 2 * unknown.total() > pixels:
        raise UserError(
            f"{note(args, unknown, pixels)}: the classes in {args.config} (DATASET = '{settings.data.DATASET}') are not those"
            " of the files; correct DATASET, the palette or SOURCE_CLASSES."
        )


def notes_on(args, settings: Settings, tallies: list[Tally | None]) -> list[str]:
    """What to say of pixels that hold nothing, and of masks of numbers that seem to count from 1."""
    found = [tally for tally in tallies if tally]
    lines = [shares_of_polygons(args, settings, found)] if args.from_vector else []
    if empty := sum(tally.empty for tally in found):
        pixels = sum(tally.pixels for tally in found)
        lines.append(f"{empty:,} of {pixels:,} pixels hold nothing (nodata, masked out, transparent) and are not scored.")
    if args.from_index and args.foreground is None and found and settings.classes.SOURCE_CLASSES is None:
        pixels = sum(tally.by_label for tally in found)
        pixels[settings.classes.legend.palette.no_label] -= empty
        lines += [f"note: {line}"] if (line := settings.classes.legend.palette.counted_from_one(pixels)) else []
    return lines


def shares_of_polygons(args, settings: Settings, tallies: list[Tally]) -> str:
    """How much of the images polygons cover, and what becomes of the rest."""
    pixels = sum(tally.pixels for tally in tallies)
    covered, outside = (sum(getattr(tally, name) for tally in tallies) / pixels for name in ("covered", "outside"))
    line, rest = f"polygons cover {covered:.1%} of the pixels", 1 - covered
    background, area = args.background or settings.classes.LABEL_BACKGROUND, args.area or settings.classes.LABEL_AREA
    if background is None:
        return f"{line}, the other {rest:.1%} are not scored (LABEL_BACKGROUND would name their class)."
    if area:
        return (
            f"{line}, {rest - outside:.1%} are {background}, {outside:.1%} lie outside of the area ({area}) and are not scored."
        )
    line = f"{line}, the other {rest:.1%} are {background}"
    if not outside:
        return f"{line}."
    return (
        f"{line}, {outside:.1%} of all outside of the polygons' hull: did nobody look there, LABEL_AREA = 'hull' leaves it out."
    )


def note(args, others: Counter, pixels: int) -> str:
    """What to say of pixels that are of no class."""
    fate = "background" if args.foreground is not None else "of no class and not scored"
    most = listing([colour_of(key) if args.from_color else key for key, _ in others.most_common(3)])
    return f"{others.total():,} of {pixels:,} pixels ({others.total() / pixels:.3%}) are {fate}; most of them have {most}"


def made_by(args) -> str:
    """What details.json says of the script: labels do not take the place of colours, nor colours that of labels."""
    return f"convert_gt.py {'--to-color' if args.to_color else 'to labels'}"


def details(what: str, args, settings: Settings, jobs: list[Job], tallies: list[Tally | None]) -> dict:
    """What made the files, and how many pixels of each class are in them."""
    palette = settings.classes.legend.palette
    about = {"made by": made_by(args), "what": what, "files": [job.source for job in jobs]}
    about |= {"classes": palette.names, "palette": palette.colours}
    if args.to_color:
        return about
    pixels = sum(tally.by_label for tally in tallies)
    return about | {
        "polygons": (args.files or settings.data.folders["labels"]) if args.from_vector else None,
        "source_classes": settings.classes.SOURCE_CLASSES,
        "class_mapping": settings.classes.CLASS_MAPPING,
        "options": {
            name: getattr(args, name) for name in ("unknown", "threshold", "nearest", "foreground", "background", "area")
        },
        "pixels": {name: int(pixels[label]) for label, name in enumerate(palette.names)},
        "pixels_not_scored": int(pixels[palette.classes :].sum()),
    }


if __name__ == "__main__":
    run(main)
