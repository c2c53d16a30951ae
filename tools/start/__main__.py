"""Looks at a folder of images and masks (or polygons), says what it found, and writes a config that works.

    python -m tools.start data/city/
    python -m tools.start data/city/ --images data/city/rgb/ --labels data/city/footprints.gpkg

Masks are colours or class numbers, called like their images (images/7.tif, masks/7.png; 7.tif, 7_mask.png); or one vector file
holds polygons. config_NAME.py is called after the folder; tiles_NAME.csv, in the folder, names the tiles and their splits. It
asks nothing; afterwards it prints the lines to run.
"""

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import whole_file
from tools.data.dataset import VECTOR_SUFFIXES
from tools.geo import pixel_size, place, raster, vectors
from tools.geo.file_list import find_local
from tools.geo.raster import Raster
from tools.labels.palette import code_of
from tools.start import classes, pairs, plan
from tools.start.pairs import Sorted
from tools.start.plan import Plan


def main():
    look_and_write(arguments())


def look_and_write(args: argparse.Namespace) -> Plan:
    """Say what the folder that the command line (what `arguments` gives) names holds, and write its config."""
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is no folder: name the one that holds your images and masks.")
    name = re.sub(r"\W+", "_", args.folder.resolve().name).strip("_") or "mine"
    config = args.out or Path(f"config_{name}.py")
    refuse_written([config, args.folder / f"tiles_{name}.csv"], args.overwrite)
    found = sort_out(args)
    if not found.images:
        raise UserError(f"{args.folder} holds no images ({', '.join(raster.SUFFIXES)}) beside masks: put them there.")
    made = from_masks(args.folder, name, found) if found.masks else from_polygons(args.folder, name, found)
    write(made, config, f"python -m tools.start {args.folder.as_posix()}")
    return made


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where images and ground truth lie, in folders or together")
    parser.add_argument("--images", nargs="+", metavar="FILES", help="the images, where names do not tell: files, folders")
    parser.add_argument("--labels", nargs="+", metavar="FILES", help="the masks, or the vector file, where names do not tell")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the config to write (default: config_NAME.py)")
    commands.add_overwrite(parser)
    return parser.parse_args(argv)


def refuse_written(files: list[Path], overwrite: bool) -> None:
    """Raise UserError where a file exists that may hold what its user wrote."""
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise UserError(f"{listing(there)} exists already: choose another --out, move it, or add --overwrite.")


def sort_out(args) -> Sorted:
    """The files by what they are for, as the command line or their names say."""
    found = pairs.sort_out(args.folder)
    images, masks, polygons = found.images, found.masks, found.vectors
    if args.labels:
        given = find_local(args.labels)
        polygons = [f for f in given if f.suffix.lower() in VECTOR_SUFFIXES]
        masks = [f for f in given if f not in polygons]
        images = [f for f in found.images or found.masks if f.resolve() not in {m.resolve() for m in masks}]
    if args.images:
        images = find_local(args.images)
        masks = [f for f in masks if f.resolve() not in {i.resolve() for i in images}]
    return Sorted(images, masks, polygons, found.eroded)


# ------------------------------------------------------------------------------------------------------------ what is there


def from_masks(folder: Path, name: str, found: Sorted) -> Plan:
    """What is known of images with masks; says it."""
    paired = pairs.pair(folder, found.images, found.masks)
    if found.eroded:
        print(
            f"passed over: {len(found.eroded)} eroded masks ({found.eroded[0]}), for scores alone: labels_eroded in config.py"
        )
    for what, lonely in (("images without a mask", paired.lonely_images), ("masks without an image", paired.lonely_masks)):
        if lonely:
            print(f"left out: {len(lonely)} {what}: {listing(lonely, 4)}")
    abouts = inspected([image for image, _ in paired.pairs])
    looks = dict(zip((mask for _, mask in paired.pairs), classes.look_at([mask for _, mask in paired.pairs]), strict=True))
    good = []
    for image, mask in paired.pairs:
        if fault := fault_of(image, mask, abouts[image], looks[mask]):
            print(f"left out: {fault}")
        else:
            good.append((image, mask))
    good = of_one_type(good, abouts)
    if not good:
        raise UserError(
            f"{folder}: none of {len(paired.pairs)} pairs is whole, for the reasons above: mend or fetch them again."
        )
    images, masks = [image for image, _ in good], [mask for _, mask in good]
    pairs.check_names(images, masks)
    seen = {mask: looks[mask] for mask in masks}
    print(f"{counted(len(good))} with masks: {images[0]} and {masks[0]}" + (", and their like" if len(good) > 1 else ""))
    print_images([abouts[image] for image in images])
    known = classes.classes_of(seen, [*folder.glob("*.csv"), *folder.parent.glob("class*.csv")])
    print_classes(known, f"in {seen[masks[0]].kind}, shares of the pixels")
    signs = {sign if isinstance(sign, int) else code_of(sign) for sign in known.signs}
    held = {image.stem: set(looks[mask].counts) & signs for image, mask in good}
    return Plan(name, folder, images, masks, abouts[images[0]], least_side(images, abouts), known, held)


def least_side(images: Sequence[Path], abouts: Mapping[Path, Raster]) -> int:
    """The smallest side of all images, in pixels."""
    return min(side for image in images for side in (abouts[image].height, abouts[image].width))


def inspected(images: list[Path]) -> dict[Path, Raster | UserError]:
    """The headers of images, or why they cannot be read."""
    found = {}
    for image in images:
        try:
            found[image] = raster.inspect(image)
        except UserError as error:
            found[image] = error
    return found


def fault_of(image: Path, mask: Path, about: Raster | UserError, look: classes.Look | UserError) -> str | None:
    """Why a pair cannot be used, in a sentence, or None."""
    for one in (about, look):
        if isinstance(one, UserError):
            return str(one)
    if (about.height, about.width) != look.size:
        return f"{image} has {about.height}x{about.width} pixels, its mask {look.size[0]}x{look.size[1]}."
    return place.fault(about, raster.inspect(mask, raster.NUMBERS), ("", "labels"))


def of_one_type(good: list[tuple], abouts: dict) -> list[tuple]:
    """The pairs whose images have the bands and the pixel type of most; says which have others."""
    types = Counter((abouts[pair[0]].bands, abouts[pair[0]].dtype) for pair in good)
    for bands, dtype in [kind for kind, _ in types.most_common()[1:]]:
        others = [pair[0] for pair in good if (abouts[pair[0]].bands, abouts[pair[0]].dtype) == (bands, dtype)]
        print(f"left out: {len(others)} images of {bands} band(s) of {dtype}, unlike the others: {listing(others, 4)}")
        good = [pair for pair in good if pair[0] not in others]
    return good


def from_polygons(folder: Path, name: str, found: Sorted) -> Plan:
    """What is known of images and one vector file; says it."""
    if not found.vectors:
        raise UserError(
            f"{folder} holds {len(found.images)} images, but neither masks nor polygons ({', '.join(VECTOR_SUFFIXES)}): put"
            " them into a folder masks/ beside images/, or name them with --labels."
        )
    if len(found.vectors) > 1:
        raise UserError(f"{folder} holds several vector files ({listing(found.vectors, 4)}): name the one with --labels.")
    file, abouts = found.vectors[0], inspected(found.images)
    known, attribute = classes.of_polygons(file)
    images = of_one_type([(image,) for image in reached(file, abouts)], abouts)
    images = [image for (image,) in images]
    pairs.check_names(images, [])
    print(f"{counted(len(images))} with polygons of {file}: {listing(images, 3)}")
    print_images([abouts[image] for image in images])
    said = f"the attribute '{attribute}' names the class" if attribute else "no attribute names classes, so all are of one"
    print_classes(known, f"{said}; shares of the polygons' area")
    least = least_side(images, abouts)
    return Plan(name, folder, images, [file] * len(images), abouts[images[0]], least, known, {}, True, attribute)


def reached(file: Path, abouts: dict[Path, Raster | UserError]) -> list[Path]:
    """The images on which polygons lie; says why others are left out. Raises UserError where there is none."""
    from tools.labels.vector_labels import Polygons

    features, crs = vectors.read_polygons(file)
    polygons, images, faults = Polygons(file, features, [0] * len(features), crs), [], []
    for image, about in abouts.items():
        if isinstance(about, UserError):
            faults.append(str(about))
            continue
        try:
            on_it = polygons.on(about).reaching(about).features
        except UserError as error:
            faults.append(str(error))
            continue
        if on_it:
            images.append(image)
        else:
            faults.append(f"{image}: no polygon lies on it.")
    if not images:
        raise UserError(f"no polygon of {file} lies on an image. {' '.join(faults[:3])}")
    for fault in faults:
        print(f"left out: {fault}")
    return images


# ----------------------------------------------------------------------------------------------------------------- saying it


def counted(images: int) -> str:
    """How many images, in words."""
    return f"{images} image" + "s" * (images != 1)


def print_images(abouts: list[Raster]) -> None:
    """Sizes, bands, pixel type and place."""
    grids = Counter((a.crs, a.transform, a.height, a.width) for a in abouts if a.is_placed)
    if same := sum(count for count in grids.values() if count > 1):
        print(f"note: {same} images lie on one another, so tests would see ground that trained: name one kind with --images")
    first, last = (pick(((a.height, a.width) for a in abouts), key=lambda size: size[0] * size[1]) for pick in (min, max))
    sizes = f"{first[0]}x{first[1]}" + (f" to {last[0]}x{last[1]}" if first != last else "")
    print(f"images: {abouts[0].bands} band(s) of {abouts[0].dtype}, {sizes} pixels (height x width), {places(abouts)}")


def places(abouts: list[Raster]) -> str:
    """Where on Earth images lie, in words."""
    crs = sorted({vectors.name(a.crs) for a in abouts if a.crs})
    bare = sum(not a.is_placed for a in abouts)
    sizes = sorted(size for a in abouts[:100] if (a.crs and (size := pixel_size.pixel_size(a))))
    if not crs:
        return "without a place on Earth"
    pixel = (
        f", pixels of {sizes[0]:.3g}" + (f" to {sizes[-1]:.3g}" if sizes[-1] > 1.01 * sizes[0] else "") + " m" if sizes else ""
    )
    return f"in {listing(crs, 3)}{pixel}" + (f"; {bare} of them without a place" if bare else "")


def print_classes(known: classes.Classes, how: str) -> None:
    """Classes with colours or numbers and shares, and what is odd of them."""
    print(f"{len(known.names)} classes, {how}:")
    width = max(map(len, known.names))
    for label, (name, sign, share) in enumerate(zip(known.names, known.signs, known.shares, strict=True)):
        shown = "what no polygon covers" if sign is None else f"{'' if sign == name else sign!s:>16}  {share:8.2%}"
        print(f"  {label:2}  {name:{width}}  {shown}")
    if known.unscored > 5e-5:
        print(f"      {'not scored':{width}}  {'':>16}  {known.unscored:8.2%}")
    for note in known.notes:
        print(f"note: {note}")


def write(made: Plan, config: Path, command: str) -> None:
    """Write the list of tiles and the config; print the lines to run."""
    if made.in_blocks:
        size = plan.block_size(made.about.height, made.about.width)
        print(f"one image: blocks of about {size}x{size} pixels are its tiles, for training, validation and tests")
    else:
        splits, how = plan.split([image.stem for image in made.images], made.held)
        with whole_file(made.list_file) as temporary:
            temporary.write_text(plan.tiles_csv(made, splits), encoding="utf-8")
        counts = Counter(splits.values())
        print(f"split: {counts['train']} train, {counts['val']} val, {counts['test']} test, {how}; edit {made.list_file}")
    with whole_file(config) as temporary:
        temporary.write_text(plan.config_text(made, command), encoding="utf-8")
    print(f"wrote {config}; the lines to run for a first map:\n")
    print("\n".join(plan.commands(made, config)))
    print(f"\nafter the first of them, python -m tools.check --config {config} says what training will need")


if __name__ == "__main__":
    run(main)
