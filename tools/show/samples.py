"""Images with their labels, to be looked at and counted: from tiles, folders of patches and LMDBs alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tools.base.errors import UserError, listing
from tools.base.folders import require
from tools.data.augmentation import Augmentation, bands_of
from tools.data.database import Database, pair
from tools.data.dataset import TileId, tile_name
from tools.data.inputs import reorder
from tools.data.patches import patch_files, read_about, read_patch
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.geo.windows import Window
from tools.labels.palette import Palette
from tools.settings import Settings

_ROWS = 1024  # of a tile, counted at a time


class Sample(NamedTuple):
    """A patch or a tile: its name, the images (bands x h x w, in the file's order) by modality, and the labels (h x w)."""

    name: str
    images: dict[str, np.ndarray]
    labels: np.ndarray


class Source(Protocol):
    """Where samples come from.

    title: what it is, in a few words. kind: what its samples are. palette: of its labels. modalities: of its images.
    ranges: by modality, what is drawn black and white (per band), where that is known of the whole dataset.
    """

    title: str
    kind: str
    palette: Palette
    modalities: list[str]
    ranges: dict[str, tuple[list[float], list[float]]]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...

    def labels(self) -> Iterator[np.ndarray]:
        """All labels, in pieces (any shape)."""
        ...


class _Made:
    """What a folder that extract_images.py or create_db.py made says of itself."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split, self.details = folder, split, read_about(folder)
        missing = {"classes", "palette", "modalities", "splits"} - set(self.details)
        if missing:
            raise UserError(f"{folder} holds no patches: name a folder that extract_images.py or create_db.py made.")
        known = [s for s, about in self.details["splits"].items() if about["patches"]]
        if split not in known:
            raise UserError(f"{folder} has no {split} patches: it has {listing(known)}.")
        self.palette = Palette(self.details["classes"], {int(k): tuple(v) for k, v in self.details["palette"].items()})
        self.modalities = [m for m in self.details["modalities"] if (folder / f"{m}_{split}").is_dir()]
        about = self.details["modalities"]
        self.ranges = {m: (about[m]["low"], about[m]["high"]) for m in self.modalities if "low" in about[m]}
        self.title, self.kind = f"{folder.resolve().name}, {split}", "patches"
        if not (folder / f"labels_{split}").is_dir():
            raise UserError(f"{folder} has no labels_{split}: make it again.")


class PatchFolder(_Made):
    """The patches that extract_images.py cut."""

    def __init__(self, folder: Path, split: str):
        super().__init__(folder, split)
        self.names = pair([folder / f"{m}_{split}" for m in [*self.modalities, "labels"]])
        self._files = {m: patch_files(folder / f"{m}_{split}") for m in [*self.modalities, "labels"]}

    def _read(self, modality: str, name: str) -> np.ndarray:
        return read_patch(self._files[modality][name])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        name = self.names[i]
        return Sample(name, {m: self._read(m, name) for m in self.modalities}, self._read("labels", name)[0])

    def labels(self) -> Iterator[np.ndarray]:
        return (self._read("labels", name) for name in self.names)


class Databases(_Made):
    """The LMDBs that create_db.py packed."""

    def __init__(self, folder: Path, split: str):
        super().__init__(folder, split)
        self._databases = {m: Database(folder / f"{m}_{split}") for m in [*self.modalities, "labels"]}
        names = folder / f"{split}.txt"
        self.names = names.read_text(encoding="utf-8").split() if names.is_file() else []
        if len(self.names) != len(self):
            raise UserError(f"{names} names {len(self.names)} patches, the LMDBs have {len(self)}: make them again.")

    def __len__(self) -> int:
        return len(self._databases["labels"])

    def __getitem__(self, i: int) -> Sample:
        records = {m: database[i][0] for m, database in self._databases.items()}
        labels = records.pop("labels")[0]
        return Sample(self.names[i], {m: reorder(r, self.details["bgr"]) for m, r in records.items()}, labels)

    def labels(self) -> Iterator[np.ndarray]:
        return (labels for labels, _ in self._databases["labels"])


@dataclass
class Tiles:
    """Tiles of a config, reduced to `most` pixels along the longer side (labels count in full)."""

    data: DataSettings
    palette: Palette
    ids: list[TileId]
    most: int = 512

    def __post_init__(self):
        self.modalities, self.ranges = self.data.modalities, {}
        self.title = self.data.DATASET
        self.kind = "tiles"
        self._dataset = self.data.dataset
        self._dataset.check([*self.modalities, "labels"], self.ids, self.palette)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Sample:
        tile = self.ids[i]
        images = {m: raster.read_small(self._dataset.path(m, tile), self.most) for m in self.modalities}
        return Sample(
            tile_name(tile), images, raster.read_small(self._dataset.path("labels", tile), self.most, role=raster.NUMBERS)[0]
        )

    def labels(self) -> Iterator[np.ndarray]:
        for tile in self.ids:
            with raster.open_raster(self._dataset.path("labels", tile)) as file:
                for row in range(0, file.height, _ROWS):
                    yield raster.read_window(file, Window(row, 0, min(_ROWS, file.height - row), file.width))


def open_folder(folder: Path, split: str) -> Source:
    """The samples of a folder of patches or of LMDBs, whichever it is. Raises UserError where it is neither."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: make patches with extract_images.py, or LMDBs with create_db.py.")
    packed = (folder / f"labels_{split}" / "data.mdb").is_file()
    return Databases(folder, split) if packed else PatchFolder(folder, split)


def count(labels: Iterable[np.ndarray]) -> np.ndarray:
    """Pixels of each label from 0 to 255."""
    return sum((np.bincount(piece.ravel(), minlength=256) for piece in labels), np.zeros(256, np.int64))


def augmentation_of(settings: Settings, source: Source) -> Augmentation:
    """What the config's AUGMENTATION does to the patches of a folder. Raises UserError where they are not the config's."""
    if not settings.training.AUGMENTATION:
        raise UserError("AUGMENTATION is {}, there is nothing to draw: name operations, such as 'flip', in the config.")
    require(
        source.details, source.folder, "extract_images.py", dataset=settings.data.DATASET,
        patch_size=list(settings.patches.patch_size), classes=list(settings.classes.label_values),
    )  # fmt: skip
    missing = [m for m in settings.data.modalities if m not in source.modalities]
    if missing:
        raise UserError(f"{source.folder} has no {listing(missing)}, which INPUTS of the config names: make it again.")
    about = source.details["modalities"]
    inputs = settings.data.inputs(about)
    return Augmentation(settings.augmentation, bands_of(about, inputs), source.palette.no_label, settings.data.SEED)


def with_versions(source: Source, chosen: Iterable[int], augmentation: Augmentation, versions: int) -> list[Sample]:
    """Each of the chosen samples, followed by so many that the augmentation makes of it."""
    samples = []
    for i in chosen:
        samples.append(source[i])
        for version in range(versions):
            images, labels = augmentation(lambda n: source[n][1:], len(source), i, len(samples))
            samples.append(Sample(f"augmented, {version + 1}", images, labels))
    return samples
