"""Which files of a folder are images, which are ground truth, and which belong together, by their names."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.base.errors import UserError, listing
from tools.base.folders import DETAILS
from tools.data.dataset import VECTOR_SUFFIXES
from tools.geo import raster

MASK_WORDS = {
    "mask", "masks", "label", "labels", "gt", "gts", "truth", "groundtruth", "annotation", "annotations", "annot", "anno",
    "seg", "segmentation", "target", "targets", "lbl", "classes",
}  # fmt: skip
IMAGE_WORDS = {"image", "images", "img", "imgs", "sat", "rgb", "ortho", "photo", "tile", "tiles", "top", "picture", "pictures"}
ERODED = {"eroded", "boundary", "noboundary"}  # ISPRS's second ground truth, for scores alone
FEW = 32  # different values: a picture with no more is taken for a mask

Key = Callable[[Path], tuple]


@dataclass(frozen=True)
class Sorted:
    """The files of a folder by what they are for. eroded: second masks, without the borders of things."""

    images: list[Path]
    masks: list[Path]
    vectors: list[Path]
    eroded: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, and the files that have no partner."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    lonely_images: list[Path] = field(default_factory=list)
    lonely_masks: list[Path] = field(default_factory=list)


def sort_out(folder: Path) -> Sorted:
    """Tell images from masks by their names, else by their pixels. Outputs of ours and hidden files are passed over."""
    files = list(_files(folder))
    vectors = [f for f in files if f.suffix.lower() in VECTOR_SUFFIXES]
    rasters = [f for f in files if f.suffix.lower() in raster.SUFFIXES]
    masks = [f for f in rasters if words(f.relative_to(folder)) & MASK_WORDS]
    if not masks and not vectors:
        masks = [f for f in rasters if looks_like_mask(f)]
    masks_set = set(masks)
    kept = [f for f in masks if not words(f.relative_to(folder)) & ERODED] or masks
    return Sorted([f for f in rasters if f not in masks_set], kept, vectors, [f for f in masks if f not in set(kept)])


def _files(folder: Path) -> Iterable[Path]:
    for home, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (Path(home) / f / DETAILS).exists())
        yield from (Path(home) / name for name in sorted(names) if not name.startswith("."))


def words(path: Path) -> set[str]:
    """The words of a path, in small letters: 'gts_eroded/area1_noBoundary.tif' -> gts, eroded, area, noboundary."""
    return set(re.findall(r"[a-z]+", path.with_suffix("").as_posix().lower()))


def looks_like_mask(path: Path) -> bool:
    """Whether a raster has few different values, as far as a reduced copy shows; what cannot be read is none."""
    try:
        pixels = raster.read_small(path, 256, role=raster.NUMBERS)
    except UserError:
        return False
    flat = np.nan_to_num(pixels.reshape(len(pixels), -1)) if pixels.dtype.kind == "f" else pixels.reshape(len(pixels), -1)
    return len(np.unique(flat, axis=1).T) <= FEW


def pair(folder: Path, images: Sequence[Path], masks: Sequence[Path]) -> Pairs:
    """Images with the masks that are called alike: the same name, or one that differs in words such as mask, or at its ends.

    Of several folders of images (colours, heights) the one with the most masks counts. Raises UserError where nothing fits,
    or one image has two masks, or one mask two images.
    """
    if len(images) == len(masks) == 1:
        return Pairs([(images[0], masks[0])])
    by_folder: dict[Path, list[Path]] = {}
    for image in images:
        by_folder.setdefault(image.parent, []).append(image)
    tries = [(list(images), mine, theirs) for mine, theirs in _keys(folder, images, masks, places=True)]
    for group in by_folder.values():
        tries += [(group, mine, theirs) for mine, theirs in _keys(folder, group, masks, places=False)]
    chosen = max(tries, key=lambda attempt: _hits(*attempt, masks), default=None)
    if chosen is None or not _hits(*chosen, masks):
        raise UserError(
            f"{folder}: no mask is called like an image ({_names(folder, images)}; {_names(folder, masks)}): give both the same"
            " names, in folders images/ and masks/, or say which is which with --images and --labels."
        )
    return _paired(folder, *chosen, masks)


def _names(folder: Path, files: Sequence[Path]) -> str:
    return listing([f.relative_to(folder) if f.is_relative_to(folder) else f for f in files], 2)


def _keys(folder: Path, images: Sequence[Path], masks: Sequence[Path], places: bool) -> list[tuple[Key, Key]]:
    """Ways to name what a file shows, one for images and one for masks each; places: whether folders count."""

    def placed(name: Callable[[Path], str]) -> Key:
        return lambda f: (*(_place(folder, f) if places else ()), name(f))

    ends = [_without_ends(files) for files in (images, masks)]
    same, bare = placed(lambda f: f.stem.lower()), placed(lambda f: _without_roles(f.stem))
    return [(same, same), (bare, bare), (placed(ends[0]), placed(ends[1]))]


def _place(folder: Path, file: Path) -> tuple:
    parts = file.parent.relative_to(folder).parts if file.is_relative_to(folder) else ()
    return tuple(part for part in parts if not words(Path(part)) & (MASK_WORDS | IMAGE_WORDS))


def _without_roles(stem: str) -> str:
    tokens = re.findall(r"[a-z]+|\d+", stem.lower())
    return "_".join(token for token in tokens if token not in MASK_WORDS | IMAGE_WORDS)


def _without_ends(files: Sequence[Path]) -> Callable[[Path], str]:
    """The part of a name in which the files differ; numbers and words stay whole."""
    stems = [f.stem for f in files]
    first = _alike(stems)
    last = min(_alike([stem[::-1] for stem in stems]), min(map(len, stems), default=0) - first)
    while first and any(_one_word(stem[first - 1], stem[first : first + 1]) for stem in stems):
        first -= 1
    while last and any(_one_word(stem[len(stem) - last - 1 : len(stem) - last], stem[len(stem) - last]) for stem in stems):
        last -= 1
    return lambda f: f.stem[first : len(f.stem) - last].lower()


def _alike(stems: Sequence[str]) -> int:
    """How many characters all names begin with."""
    places = enumerate(zip(*stems, strict=False))
    return next((i for i, letters in places if len(set(letters)) > 1), min(map(len, stems), default=0))


def _one_word(one: str, other: str) -> bool:
    return one.isalnum() and other.isalnum() and one.isdigit() == other.isdigit()


def _hits(images: Sequence[Path], mine: Key, theirs: Key, masks: Sequence[Path]) -> int:
    known = {theirs(m) for m in masks}
    return len({mine(i) for i in images} & known)


def _paired(folder: Path, images: Sequence[Path], mine: Key, theirs: Key, masks: Sequence[Path]) -> Pairs:
    shows, truth = _by_key(images, mine), _by_key(masks, theirs)
    _refuse_twice(folder, shows, truth, "images for one mask", "--images")
    _refuse_twice(folder, truth, shows, "masks for one image", "--labels")
    pairs = [(group[0], truth[k][0]) for k, group in shows.items() if k in truth]
    lonely = [f for k, group in shows.items() if k not in truth for f in group]
    return Pairs(pairs, lonely, [f for k, group in truth.items() if k not in shows for f in group])


def _by_key(files: Sequence[Path], key: Key) -> dict[tuple, list[Path]]:
    found: dict[tuple, list[Path]] = {}
    for file in files:
        found.setdefault(key(file), []).append(file)
    return found


def _refuse_twice(folder: Path, found: Mapping, partners: Mapping, what: str, option: str) -> None:
    """Raise UserError where files that have a partner share it with others."""
    twice = [group for k, group in found.items() if len(group) > 1 and k in partners]
    if twice:
        raise UserError(
            f"{folder}: there are several {what}, such as {_names(folder, twice[0])} ({len(twice)} times): say which ones"
            f" count with {option} FOLDER."
        )


def check_names(images: Sequence[Path], masks: Sequence[Path]) -> None:
    """Raise UserError where two tiles would have one name, since tiles and labels are called after them."""
    for files in (images, masks):
        twice = [stem for stem, count in Counter(f.stem for f in files).items() if count > 1]
        if twice:
            raise UserError(
                f"{len(twice)} names stand in several folders, such as {listing([f for f in files if f.stem == twice[0]], 2)}:"
                " give each file a name of its own, or begin with one of the folders."
            )
