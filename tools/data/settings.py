"""The config's data: which tiles there are and what the net reads of them, and how they are cut into patches."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.base.errors import UserError, listing, nearest
from tools.base.sections import (
    SIZE_WISH,
    Section,
    are_texts,
    is_flag,
    is_number,
    is_sequence,
    is_size,
    is_text,
    mapping,
    optional,
    setting,
    some_of,
    whole,
)
from tools.data.dataset import SPLITS, Dataset, TileId, tile_name
from tools.data.inputs import NORMALISATIONS, Input, Part, find_parts, is_normalisation, make_inputs
from tools.data.patches import Cutting
from tools.geo.views import is_resize
from tools.geo.windows import check_step


def is_run_name(v: Any) -> bool:
    """A name that can stand in the name of a folder."""
    return is_text(v) and re.fullmatch(r"\w[\w.-]*", v) is not None


def is_pattern(v: Any) -> bool:
    """A regular expression."""
    try:
        return is_text(v) and bool(re.compile(v))
    except re.error:
        return False


def _is_id(v: Any) -> bool:
    return whole_or_name(v) or (isinstance(v, tuple) and bool(v) and all(map(whole_or_name, v)))


def whole_or_name(v: Any) -> bool:
    """A number or a name, of which tile ids are made."""
    return (isinstance(v, int) and not isinstance(v, bool)) or is_text(v)


def _are_ids(v: Any) -> bool:
    return is_sequence(v) and all(map(_is_id, v))


def _are_files(v: Any) -> bool:
    return mapping(is_text, _is_id, empty=False)(v)


_IDS_WISH = "a list of tile ids: numbers, names, or pairs such as (2, 10)"


@dataclass(frozen=True, kw_only=True)
class DataSettings(Section):
    """Which data, where, and what the net reads of them. config.py says what each setting is for."""

    DATASET: str = setting(is_text, "the name of a dataset")
    BASE_DIR: str = setting(is_text, "a folder", "data/", effect=False)
    DATASET_DIR: str = setting(is_text, "a folder", effect=False)
    GROUPS: str | None = setting(
        optional(is_pattern), "a regular expression such as r'(tile\\d+)_', 'place', or None", None, effect=False
    )
    RUN: str | None = setting(optional(is_run_name), "a name of letters, digits, '_', '-' and '.', or None", None, effect=False)
    FOLDER_SUFFIX: str = setting(
        lambda v: isinstance(v, str) and not set(v) & set("/\\\0"), "text without a slash, or ''", "", effect=False
    )
    folders: Mapping[str, str | Mapping] = setting(
        mapping(lambda v: is_text(v) or _are_files(v), empty=False),
        "modalities with the pattern of their files, such as {'irrg': 'top/area{}.tif'}", effect=False,
    )  # fmt: skip
    train_ids: list = setting(lambda v: _are_ids(v) and bool(v), _IDS_WISH)
    val_ids: list = setting(_are_ids, _IDS_WISH, [])
    test_ids: list = setting(_are_ids, _IDS_WISH, [], effect=False)
    INPUTS: Mapping[str, list] = setting(
        mapping(are_texts, empty=False), "inputs with lists of modalities or bands, such as {'irrg': ['irrg']}"
    )
    bands: Mapping[str, list] = setting(
        mapping(are_texts), "names of the bands by modality, such as {'composite': ['ndvi', 'dsm', 'ndsm']}, or {}", {}
    )
    MEAN_PIXEL: Mapping[str, tuple | None] = setting(
        mapping(optional(lambda v: is_sequence(v) and all(map(is_number, v)))),
        "a number per band by modality, or None to compute it, such as {'irrg': None}", {},
    )  # fmt: skip
    NORMALISATION: Mapping[str, str | Mapping] = setting(
        mapping(is_normalisation),
        f"one of {', '.join(NORMALISATIONS)} by modality, or {{'name': 'percentile', 'low': 0, 'high': 99}}, or {{}}", {},
    )  # fmt: skip
    RESIZE: tuple | float | None = setting(
        optional(is_resize), "(height, width) in pixels, such as (1000, 1000), a share such as 0.5, or None", None
    )
    EMPTY_IF: Mapping[str, str] = setting(
        mapping(lambda v: v in ("all", "any")), "'all' or 'any' of the bands, by modality, such as {'rgbir': 'any'}, or {}", {}
    )
    BGR: bool = setting(is_flag, "True or False", True)
    SEED: int = setting(whole(0), "a whole number, 0 or more", 1)

    def check(self) -> None:
        """Raise UserError if a tile has two places, a pattern does not fit its ids, or a modality is not there."""
        self._check_splits()
        if "labels" not in self.folders:
            raise UserError("folders has no 'labels': say where the label arrays of the tiles are.")
        for modality in self.folders:
            for tile in self.all_ids:
                self.dataset.given(modality, tile)  # raises if the pattern does not fit the id
        for name in ("MEAN_PIXEL", "bands", "NORMALISATION", "EMPTY_IF"):
            self._check_names(name)
        for name, words in self.INPUTS.items():
            try:
                find_parts(words, self.images, self.bands)
            except UserError as error:
                raise UserError(f"INPUTS['{name}']: {error}") from None

    @property
    def unused(self) -> list[str]:
        """A sentence on each setting that another one leaves without effect."""
        return [
            f"MEAN_PIXEL['{modality}'] is not used: NORMALISATION['{modality}'] = {how!r} has a mean of its own."
            for modality, how in self.normalisation.items()
            if how != "mean" and self.MEAN_PIXEL.get(modality)
        ]

    def _check_splits(self) -> None:
        seen: dict[str, str] = {}
        for split in SPLITS:
            for tile in self.ids(split):
                name = tile_name(tile)
                if "\0" in name or name.startswith(".") or len(os.fsencode(name)) > 150:
                    raise UserError(
                        f"the tile id {name[:60]!r} cannot begin the names of files, which have no leading dot, and up to 150"
                        " bytes here: give the tile a shorter name."
                    )
                if name in seen:
                    raise UserError(f"tile {name} stands in {seen[name]}_ids and in {split}_ids: each tile has one place.")
                seen[name] = split

    def _check_names(self, name: str) -> None:
        for modality in getattr(self, name):
            if modality not in self.images:
                raise UserError(
                    f"{name} names the modality '{modality}', which folders does not have.{nearest(modality, self.images)}"
                    f" It has {listing(self.images)}."
                )

    def ids(self, split: str) -> list[TileId]:
        """The tiles of "train", "val" or "test"."""
        return list(getattr(self, f"{split}_ids"))

    @property
    def all_ids(self) -> list[TileId]:
        """The tiles of all splits."""
        return [tile for split in SPLITS for tile in self.ids(split)]

    @property
    def dataset(self) -> Dataset:
        """The files of the tiles."""
        any_band = [m for m, bands in self.EMPTY_IF.items() if bands == "any"]
        return Dataset(self.DATASET_DIR, self.folders, any_band, self.RESIZE)

    def trains_on_less_than(self, pixels: int) -> bool:
        """Whether the training tiles have fewer pixels together, as nets see them; False where that cannot be told."""
        from tools.geo import raster  # it takes its time to load, and most configs do not ask

        total, first = 0, self.modalities[0]
        for tile in self.train_ids:
            try:
                about = raster.inspect(self.dataset.seen(first, tile))
            except UserError:  # what is wrong with a tile is said where tiles are checked
                return False
            total += about.height * about.width
            if total >= pixels:
                return False
        return True

    @property
    def images(self) -> list[str]:
        """The modalities that are images, labels of any kind left out."""
        return self.dataset.images

    @property
    def parts(self) -> dict[str, list[Part]]:
        """The modalities, and which of their bands, that make up each input."""
        return {name: find_parts(words, self.images, self.bands) for name, words in self.INPUTS.items()}

    @property
    def modalities(self) -> list[str]:
        """The modalities that the inputs are made of, each once, in the order in which the inputs name them."""
        return list(dict.fromkeys(modality for parts in self.parts.values() for modality, _ in parts))

    @property
    def with_labels(self) -> list[str]:
        """These modalities, and the labels."""
        return [*self.modalities, "labels"]

    @property
    def normalisation(self) -> dict[str, str]:
        """How each modality is normalised; "mean" if the config does not say."""
        return {m: self.NORMALISATION.get(m, "mean") for m in self.modalities}

    def inputs(self, about: Mapping[str, dict]) -> list[Input]:
        """The inputs, normalised; about: what details.json says of each modality."""
        return make_inputs(self.parts, about, self.MEAN_PIXEL, self.normalisation, self.BGR)

    def folder(self, kind: str) -> Path:
        """Where patches, databases, snapshots or results of this dataset lie."""
        return Path(self.BASE_DIR) / f"{self.DATASET}_{kind}{self.FOLDER_SUFFIX}"


@dataclass(frozen=True, kw_only=True)
class PatchSettings(Section):
    """How tiles are cut into patches. config.py says what each setting is for."""

    patch_size: tuple = setting(is_size, SIZE_WISH, (128, 128))
    step_size: tuple | int = setting(lambda v: is_size(v) or whole(1)(v), f"{SIZE_WISH}, or one for both", (64, 64))
    ROTATIONS: list = setting(
        lambda v: v == [] or some_of(0, 90, 180, 270)(v), "a list out of 0, 90, 180 and 270 degrees, or []", [0, 90]
    )
    FLIPS: list = setting(
        lambda v: v == [] or some_of(False, True)(v), "[False, True] to add mirror images, or [False] or []", [False, True]
    )
    TILE_MEMORY_MB: int = setting(whole(1), "a whole number of megabytes, 1 or more", 512, effect=False)

    def check(self) -> None:
        """Raise UserError if patches would leave pixels out."""
        check_step("step_size", self.step, "patch_size", self.patch_size)

    @property
    def step(self) -> tuple[int, int]:
        """Pixels from one patch to the next, down and to the right."""
        return tuple(self.step_size) if is_sequence(self.step_size) else (self.step_size, self.step_size)

    @property
    def rotations(self) -> tuple[int, ...]:
        """How each patch is turned, in degrees. As in the original, the upright one is always there."""
        return tuple(dict.fromkeys([0, *self.ROTATIONS]))

    @property
    def flips(self) -> tuple[bool, ...]:
        """How each patch is mirrored; the one that is not is always there."""
        return tuple(dict.fromkeys([False, *self.FLIPS]))

    def cutting(self, split: str) -> Cutting:
        """How the tiles of a split are cut: those of test without overlap, those of train turned and mirrored too."""
        size, step = tuple(self.patch_size), self.step
        if split == "train":
            return Cutting(size, step, self.rotations, self.flips)
        return Cutting(size, size if split == "test" else step)

    @property
    def tile_memory(self) -> int:
        """TILE_MEMORY_MB in bytes."""
        return self.TILE_MEMORY_MB * 1_000_000
