"""What is made of what was found: a list of tiles with their splits, or blocks of one image, and a config that says so."""

import csv
import io
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.base.errors import UserError
from tools.data.dataset import SPLITS
from tools.data.splits import split_by_share
from tools.geo.file_list import find
from tools.geo.raster import Raster
from tools.labels.masks import file_name
from tools.start.classes import Classes
from tools.training.recipes import RECIPES

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
LABELS = "gts_numpy"  # below the folder: what convert_gt.py makes
_PATCH = min(RECIPES["modern"]([], None, bool)["patch_size"])
_BLOCKS = 24  # that one image is cut into, about
_SEEDS = range(1, 51)


@dataclass(frozen=True)
class Plan:
    """What is known of the data.

    name: of the dataset. folder: where it lies. images, truths: the tiles' images with their masks, or with the vector file.
    about: the header of the first image. least: pixels, the smallest side of all images. held: the classes (their
    colours or numbers) that each tile holds, by its name; nothing for polygons. attribute: of polygons.
    """

    name: str
    folder: Path
    images: list[Path]
    truths: list[Path]
    about: Raster
    least: int
    classes: Classes
    held: Mapping[str, set]
    is_vector: bool = False
    attribute: str | None = None

    @property
    def in_blocks(self) -> bool:
        """Whether the one image has to be cut into blocks to have tiles for training and for tests."""
        return len(self.images) == 1

    @property
    def modality(self) -> str:
        """What the image is called in the config."""
        return "rgb" if (self.about.bands, self.about.dtype) == (3, "uint8") else "image"

    @property
    def list_file(self) -> Path:
        """The list of the tiles."""
        return self.folder / f"tiles_{self.name}.csv"


# --------------------------------------------------------------------------------------------------------------- the split


def split(stems: Sequence[str], held: Mapping[str, set]) -> tuple[dict[str, str], str]:
    """The split of each tile, and how it was found in words. held: the classes that each tile holds.

    Tiles whose names differ in a last number alone are parts of one place and stay together, where there are three places
    or more. Of the first 50 seeds the one counts that leaves the most classes in training, then the most in validation and
    tests: weights chosen on a tile of one class would be chosen blindly.
    """
    if len(stems) == 2:
        return dict(zip(stems, ("train", "test"), strict=True)), "one tile trains, the other tests"
    places = {stem: _place_of(stem) for stem in stems}
    grouped = 3 <= len(set(places.values())) <= len(stems) / 2
    group = places.get if grouped else None
    tried = (_drawn(stems, held, seed, group) for seed in _SEEDS)
    missing, seed, parts = next(tried)
    tiles_with = Counter(one for classes in held.values() for one in classes)
    fewest = 0, sum(3 - min(3, count) for count in tiles_with.values())  # a class of one tile is in one split
    while missing > fewest and (other := next(tried, None)):
        if other[0] < missing:
            missing, seed, parts = other
    how = f"drawn by seed {seed}" + (", tiles of one place together (names that differ in the last number)" if grouped else "")
    return {stem: name for name, own in zip(SPLITS, parts, strict=True) for stem in own}, how


def _drawn(stems: Sequence[str], held: Mapping[str, set], seed: int, group) -> tuple[tuple[int, int], int, tuple]:
    """A split by a seed: how many classes training lacks, and validation and tests together; the seed; the tiles by split."""
    parts = split_by_share(stems, **SHARES, seed=seed, group=group)
    everything: set = set().union(*held.values())
    train, val, test = (len(everything.difference(*(held.get(stem, ()) for stem in part))) for part in parts)
    return (train, val + test), seed, parts


def _place_of(stem: str) -> str:
    """A name without its last number, if a sign stands before that: 'tile3_007' -> 'tile3'."""
    head = stem.rstrip("0123456789")
    return head[:-1] if head != stem and head[-1:] in ("_", "-") and len(head) > 1 else stem


def tiles_csv(plan: Plan, splits: Mapping[str, str]) -> str:
    """The list of tiles that the config reads: image, mask (of polygons: the labels to be made), split."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "labels" if plan.is_vector else "mask", "split"])
    for image, truth in zip(plan.images, plan.truths, strict=True):
        label = f"{LABELS}/{file_name(image)}" if plan.is_vector else _below(plan, truth)
        table.writerow([_below(plan, image), label, splits[image.stem]])
    return text.getvalue()


def _below(plan: Plan, file: Path) -> str:
    return file.relative_to(plan.folder).as_posix() if file.is_relative_to(plan.folder) else str(file.resolve())


def block_size(height: int, width: int) -> int:
    """Sides of the blocks of one image, in pixels. Raises UserError where it is too small for three."""
    size = max(64, math.isqrt(height * width // _BLOCKS) // 32 * 32)
    if max(1, round(height / size)) * max(1, round(width / size)) < 3:
        raise UserError(f"one image of {height}x{width} pixels is too small to train and to test on: label more of them.")
    return size


# -------------------------------------------------------------------------------------------------------------- the config


def config_text(plan: Plan, command: str) -> str:
    """A config that works: what the data say; all else is left to the recipe."""
    needed = "find_ids, split_by_share" if plan.in_blocks else "read_list"
    lines = [
        f'"""{plan.name}: written by `{command}`; yours to edit.',
        "",
        'Settings that are left out have the values of the recipe "modern"; config.py lists them all, with what they are for.',
        '"""',
        "",
        f"from tools.data import {needed}",
        "",
        f"DATASET = {plan.name!r}  # patches, databases and snapshots go to data/{plan.name}_...",
        f"DATASET_DIR = {plan.folder.as_posix() + '/'!r}",
        *(_blocks(plan) if plan.in_blocks else _list(plan)),
        f'INPUTS = {{"{plan.modality}": ["{plan.modality}"]}}  # {plan.about.bands} band(s) of {plan.about.dtype}',
    ]
    if (side := _tile_side(plan)) < _PATCH:
        lines.append(
            f"patch_size = ({side}, {side})  # no larger than the tiles, which the recipe's would mirror at their edges"
        )
    if plan.about.dtype != "uint8":
        lines.append(f'NORMALISATION = {{"{plan.modality}": "standard"}}  # mean 0, deviation 1 over the training tiles')
    return "\n".join([*lines, "", *_classes(plan), ""])


def _tile_side(plan: Plan) -> int:
    """The smallest side of all tiles, in pixels: of the images, or of the blocks that the one image is cut into."""
    if not plan.in_blocks:
        return plan.least
    sides = plan.about.height, plan.about.width
    size = block_size(*sides)
    return min(length // max(1, round(length / size)) for length in sides)


def _list(plan: Plan) -> list[str]:
    name = plan.list_file.name
    reads = f'read_list(DATASET_DIR + "{name}"' + (")" if plan.is_vector else f', "{LABELS}")')
    return [
        f"_list = {reads}  # a line for each tile, with its split: train, val or test",
        f'folders = {{"{plan.modality}": _list.images, "labels": _list.labels}}',
        "train_ids, val_ids, test_ids = _list.split",
    ]


def _blocks(plan: Plan) -> list[str]:
    shares = ", ".join(f"{name}={share}" for name, share in SHARES.items())
    blocks = f"blocks_image/{plan.images[0].stem}"
    return [
        f'folders = {{"{plan.modality}": "{blocks}/{{}}_{{}}.vrt", "labels": "{LABELS}/{{}}_{{}}.png"}}',
        f'_ids = find_ids(DATASET_DIR, folders["{plan.modality}"])  # blocks, by row and column, made by tools.blocks',
        f"train_ids, val_ids, test_ids = split_by_share(_ids, {shares}, seed=1)",
    ]


def _classes(plan: Plan) -> list[str]:
    """label_values and palette, a line for each class, and where the ground truth has other numbers."""
    found = plan.classes
    lines = ["label_values = [  # names for people: change them as you like, in SOURCE_CLASSES too"]
    of = "the polygons' area" if plan.is_vector else "the pixels"
    shares = [f"{share:.2%} of {of}" if share or not plan.is_vector else "what no polygon covers" for share in found.shares]
    lines += [f"    {name!r},  # {label}: {share}" for label, (name, share) in enumerate(zip(found.names, shares, strict=True))]
    lines += ["]", "palette = {  # label: colour; the last one: not scored"]
    lines += [f"    {label}: {tuple(colour)}," for label, colour in found.palette.items()]
    lines += ["}"]
    if found.sources:
        lines += [f"SOURCE_CLASSES = {dict(found.sources)!r}  # the numbers in the ground truth"]
    if plan.is_vector:
        lines += [f"LABEL_ATTRIBUTE = {plan.attribute!r}", f"LABEL_BACKGROUND = {found.names[0]!r}  # what no polygon covers"]
    return lines


# --------------------------------------------------------------------------------------------------------------- the lines


def commands(plan: Plan, config: Path) -> list[str]:
    """The three lines to run: data, training, maps."""
    own = ["--config", config.as_posix()]
    scripts = [
        *(["-m", "tools.blocks", *words] for words in making_blocks(plan)),
        ["convert_gt.py", *making_labels(plan), *own],
        ["extract_images.py", *own],
        ["create_db.py", *own],
    ]
    first = " && \\\n    ".join(map(_line, scripts))
    return [first, _line(["training.py", *own]), _line(["inference.py", *own])]


def _line(words: Sequence[str]) -> str:
    return shlex.join(["python", *words])


def making_blocks(plan: Plan) -> list[list[str]]:
    """What tools.blocks is told, for the image and for its mask; nothing where images are tiles as they are."""
    if not plan.in_blocks:
        return []
    size = block_size(plan.about.height, plan.about.width)
    whole = [("image", plan.images[0])] + ([] if plan.is_vector else [("mask", plan.truths[0])])
    return [
        [file.as_posix(), "--size", str(size), "--out", (plan.folder / f"blocks_{what}").as_posix()] for what, file in whole
    ]


def making_labels(plan: Plan) -> list[str]:
    """What convert_gt.py is told, beside the config."""
    truth, options = plan.truths[0], [*plan.classes.options]
    if plan.is_vector:
        options += ["--like", *(path.as_posix() for path in _like(plan))]
        if plan.attribute is None:
            options += ["--class", plan.classes.names[1]]
    else:
        truth = plan.folder / "blocks_mask" / truth.stem if plan.in_blocks else plan.list_file
    return [truth.as_posix(), *options, "--out", (plan.folder / LABELS).as_posix()]


def _like(plan: Plan) -> list[Path]:
    """The images on which polygons are drawn: their folder, if it holds no others, else one by one."""
    if plan.in_blocks:
        return [plan.folder / "blocks_image" / plan.images[0].stem]
    home = plan.images[0].parent
    holds_labels = plan.folder.is_relative_to(home)  # the output may not lie in the input
    return [home] if not holds_labels and sorted(find([home])) == sorted(plan.images) else plan.images
